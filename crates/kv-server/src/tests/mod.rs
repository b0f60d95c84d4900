//! Tests of the standalone server with the memory engine through real sockets: the handler, the
//! core and the router together, as clients see them.

mod access;
mod admin;
mod breaking_off;
mod changes;
mod client;
mod commits;
mod console;
mod console_edits;
mod families;
mod faults;
mod limits;
mod methods;
mod pins;
mod ranges;
mod selectors;
mod shutdown;
mod strangers;
mod watched;

use client::Client;
use kv_api::thrift::generated::{self as wire};

use crate::config::Config;
use crate::manager::ServerManager;
use crate::standalone::StandaloneServerManager;
use kv_store::EngineKind;

/// A timeout that only a hang reaches.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// An HTTP client. Its library takes the cryptography of the process, also without TLS.
fn http_client() -> reqwest::Client {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

struct TestServer {
    manager: StandaloneServerManager,
    _folder: tempfile::TempDir,
}

impl TestServer {
    async fn start() -> Self {
        TestServer::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut config = memory_config(folder.path());
        change(&mut config);
        let manager = StandaloneServerManager::start(config).await.expect("the server starts");
        TestServer { manager, _folder: folder }
    }

    async fn client(&self) -> Client {
        Client::connect(self.manager.thrift_addr()).await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.manager.admin_addr())
    }
}

fn memory_config(folder: &std::path::Path) -> Config {
    let mut config = Config::standalone();
    config.storage.data_dir = folder.join("data");
    config.storage.engine = EngineKind::Memory;
    config.storage.column_families = vec!["users".to_string()];
    config.server.thrift_addr = "127.0.0.1:0".parse().expect("an address");
    config.server.admin_addr = "127.0.0.1:0".parse().expect("an address");
    config
}

fn set(key: &[u8], value: &[u8]) -> wire::SetRequest {
    wire::SetRequest { key: key.to_vec(), value: value.to_vec(), column_family: None, auth_token: None }
}

fn get(key: &[u8]) -> wire::GetRequest {
    wire::GetRequest { key: key.to_vec(), column_family: None, consistency: None, auth_token: None }
}

fn delete(key: &[u8]) -> wire::DeleteRequest {
    wire::DeleteRequest { key: key.to_vec(), column_family: None, auth_token: None }
}

fn snapshot_get(key: &[u8], read_version: i64) -> wire::SnapshotGetRequest {
    wire::SnapshotGetRequest { key: key.to_vec(), read_version, column_family: None, auth_token: None }
}

/// A range request without any field: all rows, with all defaults.
fn everything() -> wire::GetRangeRequest {
    wire::GetRangeRequest {
        begin_key: None,
        end_key: None,
        begin_offset: None,
        begin_or_equal: None,
        end_offset: None,
        end_or_equal: None,
        limit: None,
        column_family: None,
        reverse: None,
        target_bytes: None,
        begin_selector: None,
        end_selector: None,
        consistency: None,
        auth_token: None,
    }
}
