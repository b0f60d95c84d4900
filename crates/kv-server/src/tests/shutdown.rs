//! Tests of starting and stopping.

use super::*;
use crate::error::ServerError;

#[tokio::test]
async fn a_server_that_was_shut_down_has_closed_its_doors_and_its_data() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let start = || StandaloneServerManager::start(memory_config(folder.path()));
    let first = start().await.expect("the server starts");
    let address = first.thrift_addr();
    let mut client = Client::connect(address).await;
    client.call(set(b"k", b"v")).await;
    assert_eq!(first.failure(), None);
    let second = start().await.err().expect("the directory is in use");
    assert!(matches!(second, ServerError::DataDir(_)), "{second}");
    Box::new(first).shutdown().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let again = start().await.expect("the directory is free");
    Box::new(again).shutdown().await;
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_key() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut config = memory_config(folder.path());
    config.server.admin_addr = server.manager.admin_addr().into();
    let error = StandaloneServerManager::start(config).await.err().expect("the address is taken").to_string();
    assert!(error.contains("server.admin_addr") && error.contains(&server.manager.admin_addr().to_string()), "{error}");
}

#[tokio::test]
async fn requests_in_hand_are_answered_before_the_server_stops() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let TestServer { manager, _folder } = server;
    // The reply to a ping proves that the server has accepted the connection.
    client.call(wire::PingRequest { message: None, timestamp: None }).await;
    let calls = (0..200u16).map(|n| set(&n.to_be_bytes(), b"v").into()).collect();
    let writing = tokio::spawn(async move { client.call_all(calls).await });
    let database = manager.database().clone();
    while database.statistics_now().committed_transactions == 0 {
        tokio::task::yield_now().await;
    }
    drop(database);
    Box::new(manager).shutdown().await;
    let replies = writing.await.expect("all replies come");
    assert_eq!(replies.len(), 200);
}

#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn rows_and_versions_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let start = || {
        let mut config = memory_config(folder.path());
        config.storage.engine = kv_store::EngineKind::RocksDb;
        StandaloneServerManager::start(config)
    };
    let first = start().await.expect("the server starts");
    let mut client = Client::connect(first.thrift_addr()).await;
    for value in [b"old", b"new"] {
        assert!(client.call(set(b"k", value)).await.success);
    }
    let version = client.call(wire::GetReadVersionRequest::default()).await.read_version;
    drop(client);
    Box::new(first).shutdown().await;

    let second = start().await.expect("the server starts again");
    let mut client = Client::connect(second.thrift_addr()).await;
    assert_eq!(client.call(wire::GetReadVersionRequest::default()).await.read_version, version);
    assert_eq!(client.call(get(b"k")).await.value, b"new");
    assert_eq!(client.call(snapshot_get(b"k", version - 1)).await.value, b"old");
    assert!(client.call(set(b"k", b"newer")).await.success);
    assert_eq!(client.call(wire::GetReadVersionRequest::default()).await.read_version, version + 1);
    drop(client);
    Box::new(second).shutdown().await;
}
