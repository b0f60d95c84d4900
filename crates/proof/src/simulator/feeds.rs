//! Consumers of change feeds. Each continues where it was, at any replica that runs, with any limits;
//! what it is told is compared with what the [`Oracle`](super::oracle::Oracle) says that the versions
//! changed. So each version comes once, whole and in order, whichever replica told of the ones
//! before, and whatever happened to it meanwhile.

use kv_api::{ChangeRange, KvError, Version};
use kv_store::{ChangeFilter, JournalOptions, ReadLimits};

use super::cluster::Cluster;
use super::database::Database;
use super::journal::SimulatedJournal;
use super::random::Random;
use super::rows::{BANK, LISTS, REGISTERS, SCRATCH, SCRATCH_KEYS, register};

/// Runs whose journals are removed for their size, and not for their age alone.
const SMALL_BYTES: u64 = 64 << 10;

struct Consumer {
    after: u64,
    /// None: every key.
    ranges: Vec<ChangeRange>,
}

pub struct Feeds {
    /// Of its own: consumers only read, and change nothing about a run.
    random: Random,
    consumers: Vec<Consumer>,
}

/// The retention of a process that starts.
pub fn any_retention(random: &mut Random) -> Option<JournalOptions> {
    if random.one_in(12) {
        return None;
    }
    let retention = std::time::Duration::from_millis(random.pick(&[200, 5_000, 600_000]));
    Some(JournalOptions { retention, max_bytes: random.pick(&[16 << 10, SMALL_BYTES, 1 << 30, 1 << 30]) })
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

fn any_limits(random: &mut Random) -> ReadLimits {
    ReadLimits {
        max_bytes: random.pick(&[1, 300, 1 << 20]),
        max_versions: random.pick(&[1, 7, usize::MAX]),
        with_values: !random.one_in(4),
    }
}

impl Cluster {
    /// Some consumers ask this node how it goes on.
    pub(super) fn poll_feeds(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let journal = self.nodes[node].files.journal();
        let Feeds { random, consumers } = &mut self.feeds;
        for consumer in consumers.iter_mut() {
            if random.one_in(3) {
                continue;
            }
            let limits = any_limits(random);
            match running.database.poll(consumer.after, limits, &consumer.ranges, &journal) {
                Ok(through) => {
                    let what = if through > consumer.after { "feed read" } else { "feed waits" };
                    self.figures.count(what);
                    consumer.after = through;
                }
                Err(KvError::TransactionTooOld { oldest, .. }) => {
                    self.figures.count("feed too old");
                    // Another replica may still have it; a consumer that gives up begins again here.
                    if random.one_in(8) {
                        consumer.after = oldest;
                    }
                }
                Err(_) => self.figures.count("feed without a journal"),
            }
        }
    }

    /// Everything that this node can still tell, and what consumers do not know yet.
    pub(super) fn end_feeds(&mut self, node: usize) {
        let Some(running) = &self.nodes[node].running else { return };
        let (database, journal) = (&running.database, self.nodes[node].files.journal());
        let Some(oldest) = database.oldest_change() else { return };
        let mut whole = Consumer { after: oldest, ranges: Vec::new() };
        for consumer in self.feeds.consumers.iter_mut().chain([&mut whole]) {
            let mut reads = 0;
            while consumer.after < database.applied_version() {
                let limits = any_limits(&mut self.feeds.random);
                let Ok(through) = database.poll(consumer.after, limits, &consumer.ranges, &journal) else { break };
                consumer.after = through;
                reads += 1;
            }
            if reads > 0 {
                self.figures.count("feed read to the end");
            }
        }
    }
}

impl Database {
    /// Changes after this version can be read.
    fn oldest_change(&self) -> Option<u64> {
        self.store().journal_statistics().map(|journal| journal.oldest.expect("memory never fails"))
    }

    /// What a consumer that knows everything up to `after` is told: all of it is what the log says,
    /// and nothing is missing up to the version that is returned.
    fn poll(
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
