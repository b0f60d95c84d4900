//! Advances replicated time while nobody writes, until the last write has left the readable window.
//! Otherwise the rows that a client deleted last would take up space until the next write.

use std::sync::Arc;
use std::time::Duration;

use kv_api::{KvOperation, Version};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::router::{LocalReader, RequestContext, RequestRouter};

/// Checks per readable window. After a few windows nothing is left to expire.
const LOOKS_PER_WINDOW: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs until `stop`. Clock ticks are written through `router` like writes of clients, so any
/// server of a cluster may write them. If several do, that costs an additional log entry.
pub async fn run(router: Arc<dyn RequestRouter>, reader: LocalReader, window: Duration, stop: CancellationToken) {
    let mut before = Version(0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(window / LOOKS_PER_WINDOW) => {}
        }
        let now = reader.database().applied_version();
        if now == before && reader.database().waits_for_time() {
            let context = RequestContext::internal(Instant::now() + DEADLINE);
            let passed = stop.run_until_cancelled(router.route(KvOperation::ClockTick, &context)).await;
            if let Some(Err(error)) = passed {
                tracing::debug!(%error, "cannot advance replicated time; the next attempt follows");
            }
        }
        before = now;
    }
}
