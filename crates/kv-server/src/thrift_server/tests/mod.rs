//! Tests of the server over real sockets, with a service that keys control.

mod client;
mod flow;
mod hostile;
mod lifecycle;
mod memory;
mod raw_clients;
mod service;
mod speed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use client::Client;
use service::FakeService;

/// A timeout that only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(20);

struct TestServer {
    service: Arc<FakeService>,
    counters: Arc<ThriftServerCounters>,
    pools: Pools,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl TestServer {
    async fn start(options: ThriftServerOptions) -> TestServer {
        let service = Arc::new(FakeService::default());
        let server = ThriftServer::bind("127.0.0.1:0", options, Arc::clone(&service) as Arc<dyn ThriftService>)
            .await
            .expect("a free port");
        let (counters, pools) = (server.counters(), server.pools());
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        TestServer { service, counters, pools, address, shutdown, serving }
    }

    async fn with_defaults() -> TestServer {
        TestServer::start(ThriftServerOptions::default()).await
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("the server stops").expect("without a panic");
    }
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Waits for a condition on counters, which have no event to wait for.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("still waiting until {what}"));
}
