//! A whole replica under a scheduler that decides which thread runs next: its core, log, apply and
//! snapshot threads, clients, and a connection. Each test tries thousands of interleavings, the
//! same ones in each run.
//!
//! The clock stands still, and no timeout expires (see `sync`), so a thread that is not woken when
//! it should be waits forever. The scheduler then has no thread left to run, and reports a
//! deadlock. In production, a timeout would hide that mistake some milliseconds later, or never.
//!
//! The replica leads a cluster of which it is the only voter. Its peer is an observer: the peer may
//! have requests executed, ask for read points, and fetch a copy of the database.

mod closing;
mod one_replica;
mod order;
mod reads;
mod snapshots;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use shuttle::Config;
use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

use super::failure::Failure;
use super::*;
use crate::{Sequence, Storage, StorageError};
use one_replica::{Harness, position};

/// How many interleavings of each kind a test tries.
const INTERLEAVINGS: usize = 2000;

/// The runtime that timers need. They never expire, since nothing drives the runtime.
static TIMERS: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without a thread")
});

/// Runs `body` many times. In half of the runs, the next thread is drawn at random at each step:
/// that finds bugs that need many switches between threads. In the other half, each thread runs as
/// long as it can, and is interrupted at few places: that finds bugs that need one switch at an
/// unlikely place.
fn explore(body: fn()) {
    let _context = TIMERS.enter();
    run(RandomScheduler::new_from_seed(1, INTERLEAVINGS), body);
    for depth in 1..=4 {
        run(PctScheduler::new_from_seed(depth as u64, depth, INTERLEAVINGS / 4), body);
    }
}

fn run(scheduler: impl Scheduler + 'static, body: fn()) {
    let mut config = Config::new();
    config.stack_size = 256 << 10;
    shuttle::Runner::new(scheduler, config).run(body);
}
