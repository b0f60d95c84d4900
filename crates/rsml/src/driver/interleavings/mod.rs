//! A whole replica under a scheduler that decides which of its threads goes on: core, log, apply and snapshot thread,
//! clients and a connection. Each test tries thousands of interleavings, the same ones each time it runs.
//!
//! The clock stands still and no wait times out (`sync`), so a thread that is not woken by what it waits for waits for
//! ever: the scheduler then has nothing left to run and calls it a deadlock. In production a timeout would cover for it,
//! some milliseconds later, or never.
//!
//! The replica leads a cluster of which it is the only voter. What the other one in its list sends is taken as a
//! observer's: it may have requests executed, ask for read points, and get a copy of the database.

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

use super::*;
use one_replica::{Harness, place};

/// How many interleavings of each kind a test tries.
const INTERLEAVINGS: usize = 2000;

/// Where timers are set. None ever ends, since nothing drives it.
static TIMERS: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without a thread")
});

/// Runs `body` again and again: half of the time whoever goes on is drawn anew at each step, otherwise a thread runs as
/// long as it can, and is interrupted at few places. The one finds what takes many changes, the other what takes one at an
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
