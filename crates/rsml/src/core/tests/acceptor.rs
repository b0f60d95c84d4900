use super::*;
use crate::Persist;
use crate::core::Acceptor;
use crate::core::log::Log;

/// A log of entries 1 to `last`, all of view 257; `lost` are lost.
fn acceptor(last: u64, lost: &[u64]) -> Acceptor {
    let hard = HardState { promised: View(257), accepted_view: View(257), ..HardState::default() };
    let held = (1..=last).map(|sequence| (!lost.contains(&sequence)).then(|| entry(sequence))).collect();
    let log = Log::new(Sequence(1), held);
    let lost = log.hole_ranges();
    Acceptor::new(hard, hard, log, lost)
}

fn only_write(acceptor: &mut Acceptor) -> Persist {
    let writes = acceptor.take_writes();
    assert_eq!(writes.len(), 1);
    writes.into_iter().next().expect("there is one")
}

#[test]
fn a_snapshot_repairs_the_lost_entries_that_end_with_it() {
    let mut acceptor = acceptor(9, &[4, 5, 8]);
    acceptor.install_snapshot(1, Sequence(5), View(257), Epoch(0), false, None);
    only_write(&mut acceptor);
    acceptor.complete(WriteId(1));
    assert_eq!(acceptor.durable_lost(), [(Sequence(8), Sequence(8))]);
    assert_eq!(acceptor.vote(View(257)), Some(Sequence(7)));
}

#[test]
fn a_snapshot_that_ends_with_the_last_lost_entry_leaves_nothing_to_repair() {
    let mut acceptor = acceptor(9, &[4, 5]);
    acceptor.install_snapshot(1, Sequence(5), View(257), Epoch(0), false, None);
    assert!(!acceptor.is_repairing());
    assert_eq!(only_write(&mut acceptor).entries, Vec::<Bytes>::new(), "entries 6 to 9 stay as they are");
}

#[test]
fn a_committed_part_keeps_a_tail_of_a_single_entry() {
    let mut acceptor = acceptor(4, &[]);
    acceptor.install_committed(Sequence(1), Sequence(2), entries(2..=3));
    assert_eq!(acceptor.log().last(), Sequence(4));
    assert_eq!(only_write(&mut acceptor).entries, entries(2..=4));
}

#[test]
fn a_write_that_replaces_the_last_entry_alone_removes_it() {
    let mut acceptor = acceptor(4, &[]);
    acceptor.promise(View(513));
    acceptor.adopt(View(513), Sequence(4), Sequence(3), Sequence(4), entries(4..=4));
    let writes = acceptor.take_writes();
    assert!(writes[1].truncate, "entry 4 of the former view");
    acceptor.append(View(513), entries(5..=5));
    assert!(!only_write(&mut acceptor).truncate, "entry 5 follows the end");
}
