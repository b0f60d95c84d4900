//! Copies of the database for a peer.

use super::super::sync::thread;
use super::one_replica::{COPY_BYTES, deadline};
use super::*;
use crate::message::{Message, SnapshotRequest};

fn ask(id: u64, offset: u64) -> (Message, Vec<Bytes>) {
    (Message::SnapshotRequest(SnapshotRequest { id, offset, length: 4, ..Default::default() }), Vec::new())
}

#[test]
fn a_peer_gets_every_piece_of_a_copy_that_it_asks_for_during_writes() {
    explore(|| {
        let harness = Harness::start();
        let writer = harness.spawn(|replica| {
            position(block_on(replica.execute_request_async(Bytes::from_static(b"x"), deadline())));
        });
        let (mut id, mut copied) = (0, 0);
        while copied < COPY_BYTES {
            let asking = harness.peer_sends(vec![ask(id, copied as u64)]);
            let piece = loop {
                match harness.received.recv().expect("it is connected") {
                    (Message::SnapshotChunk(chunk), payload) => break (chunk, payload.concat()),
                    _ => thread::yield_now(),
                }
            };
            assert_eq!((piece.0.offset, piece.0.total_bytes), (copied as u64, COPY_BYTES as u64));
            id = piece.0.id;
            copied += piece.1.len();
            asking.join().expect("no panic");
        }
        writer.join().expect("no panic");
        harness.replica.stop(false);
    });
}
