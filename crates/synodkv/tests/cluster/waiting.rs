//! The one place where tests wait.

use std::time::{Duration, Instant};

/// How long something may take on a slow and busy machine. Nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until `probe` gives a value, and returns it. It panics with `what` and the last reason when that never happens.
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
