//! Lets replicated time pass while nobody writes, until the readable window has left the last write behind. Otherwise what
//! a client deletes last would take its space until somebody writes again.

use std::sync::Arc;
use std::time::Duration;

use kv_api::{KvOperation, Version};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::router::{LocalReader, RequestContext, RequestRouter};

/// So many looks per readable window; some windows later there is nothing more to let pass.
const LOOKS_PER_WINDOW: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs until `stop`. The writes go through `router` like those of clients, so that any server of a cluster may do it; when
/// several do, that costs an entry of the log more.
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
            let passed = stop.run_until_cancelled(router.route(KvOperation::PassTime, &context)).await;
            if let Some(Err(error)) = passed {
                tracing::debug!(%error, "cannot advance replicated time; the next attempt follows");
            }
        }
        before = now;
    }
}
