//! The only place where tests wait.

use std::time::{Duration, Instant};

/// A timeout that only a failure reaches, even on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until `probe` returns a value, and returns it. Panics with `what` and the last reason if
/// that never happens.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => panic!("never happened: {what}; the last reason: {reason}"),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}
