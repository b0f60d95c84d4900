//! Consumers of change feeds. Each continues where it was, at any replica that runs, with any limits;
//! what it is told is compared with what the [`Oracle`](super::oracle::Oracle) says that the versions
//! changed. So each version comes once, whole and in order, whichever replica told of the ones
//! before, and whatever happened to it meanwhile.

use kv_api::{ChangeRange, KvError, Version};
use kv_store::{ChangeFilter, ReadLimits};

use super::database::Database;
use super::journal::{SMALL_BYTES, SimulatedJournal};
use super::random::Random;
use super::rows::{BANK, LISTS, REGISTERS, SCRATCH, SCRATCH_KEYS, register};

pub struct Consumer {
    /// It knows everything up to this version.
    pub after: u64,
    /// None: every key.
    pub ranges: Vec<ChangeRange>,
}

pub struct Feeds {
    /// Of its own: consumers only read, and change nothing about a run.
    pub random: Random,
    pub consumers: Vec<Consumer>,
}

impl Feeds {
    pub fn new(seed: u64) -> Feeds {
        let within = |begin: u8| ChangeRange {
            column_family: String::new(),
            begin: vec![begin].into(),
            end: Some(vec![begin + 1].into()),
        };
        let some_keys = vec![
            within(LISTS),
            within(SCRATCH_KEYS),
            ChangeRange { begin: vec![b'm'].into(), ..ChangeRange::family(BANK) },
            ChangeRange::family(SCRATCH),
        ];
        let one_key = vec![ChangeRange::key("", &register(0).key), within(REGISTERS + 1)];
        let of = |ranges| Consumer { after: 1, ranges };
        let consumers = vec![of(Vec::new()), of(some_keys), of(one_key), of(vec![ChangeRange::family(BANK)])];
        Feeds { random: Random::new(seed.rotate_left(32)), consumers }
    }
}

pub fn any_limits(random: &mut Random) -> ReadLimits {
    ReadLimits {
        max_bytes: random.pick(&[1, 300, 1 << 20]),
        max_versions: random.pick(&[1, 7, usize::MAX]),
        with_values: !random.one_in(4),
    }
}

impl Database {
    /// Changes after this version can be read.
    pub fn oldest_change(&self) -> Option<u64> {
        self.store().journal_statistics().map(|journal| journal.oldest.expect("memory never fails"))
    }

    /// Asks on behalf of a consumer that knows everything up to `after`. The reply is what the log says,
    /// and lacks nothing up to the version that is returned.
    pub fn poll(
        &self,
        after: u64,
        limits: ReadLimits,
        ranges: &[ChangeRange],
        journal: &SimulatedJournal,
    ) -> Result<u64, KvError> {
        let filter = ChangeFilter::of(ranges).expect("the ranges are in order");
        let (applied, read) = (self.applied_version(), self.store().read_changes(Version(after), limits, &filter));
        let Some(oldest) = self.oldest_change() else {
            assert!(matches!(read, Err(KvError::NotSupported(_))), "a journal that is off tells {read:?}");
            return read.map(|_| after);
        };
        self.check_oldest(oldest, applied, journal);
        let told = match read {
            Err(KvError::TransactionTooOld { .. }) => {
                assert_eq!(read, Err(KvError::TransactionTooOld { read_version: after, oldest }));
                assert!(after < oldest, "changes after {after} are refused, and those after {oldest} are there");
                return Err(KvError::TransactionTooOld { read_version: after, oldest });
            }
            other => other.expect("memory never fails"),
        };
        let through = told.through.0;
        assert!(after >= oldest, "changes after {after} are told, and those up to {oldest} are not there any more");
        assert_eq!(told.oldest.0, oldest, "the oldest version to continue from");
        let end = applied.max(after);
        match told.has_more {
            true => assert!(after < through && through < end, "{after} < {through} < {end} does not hold"),
            false => assert_eq!(through, end, "the end of what is applied, if there is nothing more"),
        }
        assert!(told.changes.len() <= limits.max_versions, "{} versions, of {limits:?}", told.changes.len());
        let expected = self.oracle().changes(after, through, ranges, limits.with_values);
        assert_eq!(
            told.changes, expected,
            "wrong changes after {after}, through {through}, of {ranges:?}: first what was told, then what the log says"
        );
        Ok(through)
    }

    /// Nothing is removed before its time.
    fn check_oldest(&self, oldest: u64, applied: u64, journal: &SimulatedJournal) {
        let retention = self.retention().expect("there is a journal");
        if oldest <= journal.opened_at() || retention.max_bytes <= SMALL_BYTES {
            return;
        }
        let age_us = self.oracle().time_us(applied) - self.oracle().time_us(oldest);
        let kept_us = retention.retention.as_micros() as u64;
        assert!(age_us > kept_us, "changes up to {oldest} are gone, which are {age_us} µs old, not {kept_us}");
    }
}
