use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wal::InMemoryStorage;

#[derive(Clone, Debug)]
pub(super) struct WritePlan {
    /// How far before the end the write sets a base, or beyond it if negative.
    base_back: Option<i64>,
    /// How far before the end the write truncates, if it does.
    truncate_back: Option<u64>,
    /// How far beyond the end it restarts the log, if it does.
    skip: Option<u64>,
    entry_lengths: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Persist(Vec<WritePlan>),
    /// Trims below the end less this.
    Trim(u64),
    Reopen,
    Read {
        back: u64,
        count: u64,
        max_bytes: usize,
    },
}

pub(super) fn write_plan() -> impl Strategy<Value = WritePlan> {
    let lengths = vec(prop_oneof![8 => 0..200usize, 1 => 200..9000usize], 0..5);
    let truncate_back = prop_oneof![3 => Just(None), 1 => (0..12u64).prop_map(Some)];
    let skip = prop_oneof![30 => Just(None), 1 => (1..50u64).prop_map(Some)];
    let base_back = prop_oneof![8 => Just(None), 1 => (-5..20i64).prop_map(Some)];
    (base_back, truncate_back, skip, lengths).prop_map(|(base_back, truncate_back, skip, entry_lengths)| WritePlan {
        base_back,
        truncate_back,
        skip,
        entry_lengths,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(write_plan(), 1..5).prop_map(Step::Persist),
        2 => (0..15u64).prop_map(Step::Trim),
        2 => Just(Step::Reopen),
        3 => (0..20u64, 1..10u64, 0..2000usize)
            .prop_map(|(back, count, max_bytes)| Step::Read { back, count, max_bytes }),
    ]
}

/// Turns a plan into a write that may follow `model`, and applies it to the model.
pub(super) fn write(plan: &WritePlan, model: &mut Model, number: u64) -> Persist {
    let entries: Vec<Bytes> =
        plan.entry_lengths.iter().enumerate().map(|(i, &length)| entry(number * 10 + i as u64, length)).collect();
    let base = plan.base_back.map(|back| Sequence(model.last.saturating_add_signed(-back)));
    let last = model.last.max(base.map_or(0, |base| base.0));
    let write = match (plan.skip, plan.truncate_back) {
        (Some(skip), _) => replace(number, last + 1 + skip, &entries),
        (None, Some(back)) => replace(number, (last + 1).saturating_sub(back).max(1), &entries),
        (None, None) => append(number, last + 1, &entries),
    };
    let write = Persist { base, ..write };
    model.apply(&write);
    write
}

struct Run<S> {
    storage: S,
    model: Model,
    trimmed_below: u64,
    writes: u64,
}

impl<S: Storage> Run<S> {
    fn persist(&mut self, plans: &[WritePlan]) {
        let mut writes = Vec::new();
        for plan in plans {
            self.writes += 1;
            writes.push(write(plan, &mut self.model, self.writes));
        }
        assert_eq!(self.storage.persist(&writes).expect("the disk is healthy"), writes.len());
    }

    fn trim(&mut self, back: u64) {
        let below = self.model.last.saturating_sub(back);
        self.trimmed_below = self.trimmed_below.max(below);
        self.storage.trim(Sequence(below)).expect("the disk is healthy");
    }

    fn read(&mut self, back: u64, count: u64, max_bytes: usize) {
        let from = self.model.last.saturating_sub(back).max(1);
        let to = from + count - 1;
        let read = self.storage.read(Sequence(from), Sequence(to), max_bytes).expect("the disk is healthy");
        let is_stored = self.model.entries.contains_key(&from) && (from >= self.trimmed_below || !read.is_empty());
        let mut bytes = 0;
        let fitting = self.model.entries.range(from..=to).map(|(_, entry)| entry).take_while(|entry| {
            bytes += entry.len();
            bytes <= max_bytes
        });
        let count = if is_stored { fitting.count().max(1) } else { 0 };
        let expected: Vec<Bytes> =
            self.model.entries.range(from..=to).map(|(_, entry)| entry.clone()).take(count).collect();
        assert_eq!(read, expected, "entries {from} to {to}, at most {max_bytes} bytes");
    }

    fn check(&self, recovered: &Found) {
        assert!(
            self.model.matches(recovered, self.trimmed_below),
            "trimmed below {}\nrecovered {recovered:?}\nmodel {:?}",
            self.trimmed_below,
            self.model
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_log_on_disk_holds_what_its_writes_say(steps in vec(step(), 1..60)) {
        let disk = SimulatedDisk::new(1);
        let mut run =
            Run { storage: wal_over(&disk, 32768), model: Model::default(), trimmed_below: 0, writes: 0 };
        let recovered = open(&mut run.storage).expect("the disk is healthy");
        run.check(&recovered);
        for step in steps {
            match step {
                Step::Persist(plans) => run.persist(&plans),
                Step::Trim(back) => run.trim(back),
                Step::Read { back, count, max_bytes } => run.read(back, count, max_bytes),
                Step::Reopen => {
                    disk.crash();
                    run.storage = wal_over(&disk, 32768);
                    let recovered = open(&mut run.storage).expect("the disk is healthy");
                    run.check(&recovered);
                }
            }
        }
    }

    #[test]
    fn a_log_in_memory_holds_what_its_writes_say(steps in vec(step(), 1..60)) {
        let mut run =
            Run { storage: InMemoryStorage::new(), model: Model::default(), trimmed_below: 0, writes: 0 };
        for step in steps {
            match step {
                Step::Persist(plans) => run.persist(&plans),
                Step::Trim(back) => run.trim(back),
                Step::Read { back, count, max_bytes } => run.read(back, count, max_bytes),
                Step::Reopen => {
                    run.storage = run.storage.clone();
                    let recovered = open(&mut run.storage).expect("memory is healthy");
                    run.check(&recovered);
                }
            }
        }
    }
}
