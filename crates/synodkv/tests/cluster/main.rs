//! Tests of whole clusters. A test body is written once, against [`TestCluster`], and runs on every
//! kind of cluster for which it makes sense. Its name is a sentence, and the kind is the last part
//! of its path.
//!
//! | kind | servers | replicas reach each other |
//! |---|---|---|
//! | `standalone` | one, in this process | - |
//! | `in_memory` | three, in this process | over a message bus that can be cut |
//! | `tcp` | one with three replicas, in this process | over TCP |
//! | `processes` | three processes of the real program | over TCP, through links that can be cut or go silent |
//!
//! Nothing here waits for a time to pass: [`waiting::eventually`] waits for a condition, and its
//! deadline is only for failures. A test that fails prints what its servers logged.

mod cluster;
mod clusters;
mod journal;
mod links;
mod load;
mod ports;
mod signals;
mod thrift;
mod waiting;

mod bodies;

use std::time::Duration;

use cluster::{Settings, TestCluster};

/// Far more than any body needs, so that a test that hangs fails and prints the logs.
const HANGS_AFTER: Duration = Duration::from_secs(180);

/// Runs one body on one kind of cluster.
fn run<C: TestCluster>(settings: Settings, body: impl AsyncFnOnce(&mut C)) {
    journal::listen();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut cluster = C::start(settings).await;
        let ended = tokio::time::timeout(HANGS_AFTER, body(&mut cluster)).await;
        assert!(ended.is_ok(), "the test hangs");
        cluster.kill_all().await;
        let panics = cluster.panics();
        assert!(panics.is_empty(), "servers panicked: {panics:#?}");
    });
}

/// The type that a kind's name stands for.
macro_rules! kind {
    (standalone) => {
        crate::clusters::StandaloneTestCluster
    };
    (in_memory) => {
        crate::clusters::InMemoryTestCluster
    };
    (tcp) => {
        crate::clusters::TcpTestCluster
    };
    (processes) => {
        crate::clusters::ProcessTestCluster
    };
}
pub(crate) use kind;

/// One `#[test]` per body and kind: `body(settings): kind, kind;`.
macro_rules! on_clusters {
    ($($body:ident($settings:expr): $($kind:ident),+;)+) => {
        $(mod $body {
            use super::*;
            $(#[test]
            fn $kind() {
                crate::run::<crate::kind!($kind)>($settings, super::$body);
            })+
        })+
    };
}
pub(crate) use on_clusters;
