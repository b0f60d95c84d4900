//! Time that passes only when nothing else happens.
//!
//! Tests of deadlines run on a paused clock, in one thread. The clock moves by a step whenever nothing has happened
//! for a number of turns of the runtime, so a timeout comes before an answer only where the answer is held back. (The
//! runtime's own way to move a paused clock does not wait for sockets.)

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, advance};

pub const STEP: Duration = Duration::from_millis(1);

/// Turns of the runtime, each with a look at all sockets, after which nothing is expected to happen by itself.
const QUIET_TURNS: usize = 60;

/// Longer than anything that ends at all.
const MUCH: Duration = Duration::from_secs(600);

/// Runs `work` to its end, and lets time pass for it.
///
/// # Panics
/// When it does not end.
pub async fn passing<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let begun = Instant::now();
    loop {
        if let Some(done) = standing_still(work.as_mut()).await {
            return done;
        }
        assert!(begun.elapsed() < MUCH, "it never ends");
        advance(STEP).await;
    }
}

/// What `work` comes to without any time passing; `None`: it waits for time, or for a gate.
pub async fn standing_still<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..QUIET_TURNS {
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Until nothing happens any more by itself.
pub async fn settle() {
    for _ in 0..QUIET_TURNS {
        tokio::task::yield_now().await;
    }
}
