//! One server, one database, no consensus.

use kv_client::Version;
use tempfile::TempDir;

use super::configuration::{Member, configuration};
use super::in_process::InProcessServer;
use crate::cluster::{RowsHash, Settings, TestCluster};
use crate::journal;

pub struct StandaloneTestCluster {
    server: InProcessServer,
    _folder: TempDir,
}

impl TestCluster for StandaloneTestCluster {
    async fn start(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("synodkv.toml");
        let text = configuration(&settings, &Member::new(), &[], &folder.path().join("data"));
        std::fs::write(&file, text).expect("a configuration");
        let server = InProcessServer::new(&file, None, None);
        let mut cluster = StandaloneTestCluster { server, _folder: folder };
        cluster.restart_all().await;
        cluster
    }

    fn thrift(&self, _: usize) -> String {
        self.server.thrift()
    }

    fn admin(&self, _: usize) -> String {
        self.server.admin()
    }

    fn servers(&self) -> usize {
        1
    }

    fn is_running(&self, _: usize) -> bool {
        self.server.is_running()
    }

    fn replicas(&self) -> usize {
        1
    }

    fn server_of(&self, _: usize) -> usize {
        0
    }

    async fn kill(&mut self, _: usize) {
        self.server.kill().await;
    }

    async fn stop(&mut self, _: usize) {
        self.server.stop().await;
    }

    async fn restart(&mut self, _: usize) {
        self.server.start().await;
    }

    async fn rows_hash(&self, _: usize, version: Version) -> RowsHash {
        self.server.rows_hash(0, version).await
    }
}

impl Drop for StandaloneTestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            journal::print();
        }
    }
}
