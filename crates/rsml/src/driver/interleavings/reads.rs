//! A reader is woken once there is a read point and the database has reached it.

use super::one_replica::deadline;
use super::*;

/// Returns a read point, and checks that the database has reached it.
fn read(replica: &ConsensusReplica) -> Sequence {
    let point = block_on(replica.read_barrier(deadline())).expect("it leads");
    assert!(replica.applied() >= point, "{point} is not applied");
    point
}

#[test]
fn a_read_ends_when_the_database_has_reached_its_point_although_nothing_else_is_applied() {
    explore(|| {
        let harness = Harness::start();
        let writer = harness.spawn(|replica| {
            position(block_on(replica.execute_request_async(Bytes::from_static(b"x"), deadline())));
        });
        let readers = [(); 2].map(|()| {
            harness.spawn(|replica| {
                read(replica);
            })
        });
        writer.join().expect("no panic");
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
        harness.replica.stop(false);
    });
}

#[test]
fn a_read_covers_what_was_acknowledged_before_it() {
    explore(|| {
        let harness = Harness::start();
        let callers = [(); 2].map(|()| {
            harness.spawn(|replica| {
                position(block_on(replica.execute_request_async(Bytes::from_static(b"x"), deadline())));
                let acknowledged = replica.applied();
                assert!(read(replica) >= acknowledged);
            })
        });
        callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
        harness.replica.stop(false);
    });
}
