//! A clock that advances only when nothing else happens.
//!
//! Tests of deadlines run in one thread on a paused clock. The clock advances by one step whenever
//! nothing has happened for a number of turns of the runtime. A timeout therefore comes before an
//! answer only if the test holds the answer back. (The runtime's own way to advance a paused clock
//! does not wait for sockets.)

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, advance};

pub const STEP: Duration = Duration::from_millis(1);

/// After this many turns of the runtime, each of which polls all sockets, nothing is expected to
/// happen by itself.
const QUIET_TURNS: usize = 60;

/// Longer than any call that ends at all.
const ENDLESS: Duration = Duration::from_secs(600);

/// Runs `work` to its end, and advances the clock whenever it waits.
///
/// # Panics
/// If it does not end.
pub async fn passing<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let begun = Instant::now();
    loop {
        if let Some(done) = without_time_passing(work.as_mut()).await {
            return done;
        }
        assert!(begun.elapsed() < ENDLESS, "it never ends");
        advance(STEP).await;
    }
}

/// The result of `work` if it ends while the clock stands still; `None` if it waits for time to
/// pass or for a gate.
pub async fn without_time_passing<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..QUIET_TURNS {
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return Some(done);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Waits until nothing happens any more by itself.
pub async fn settle() {
    for _ in 0..QUIET_TURNS {
        tokio::task::yield_now().await;
    }
}
