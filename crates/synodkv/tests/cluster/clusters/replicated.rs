//! Three replicas in this process: each with a server of its own, on a message bus that can be cut;
//! or all in one server, over TCP, as replicated mode starts by default.

use kv_client::Version;
use kv_server::replication::Network;
use rsml::ReplicaId;
use rsml::transport::{SharedMessageBus, create_shared_message_bus};
use tempfile::TempDir;

use super::certificates::Authority;
use super::configuration::{Member, configuration};
use super::in_process::InProcessServer;
use crate::cluster::{Partitionable, RowsHash, Settings, TestCluster};
use crate::journal;

const REPLICAS: usize = 3;

pub struct ReplicatedTestCluster<const IN_MEMORY: bool> {
    servers: Vec<InProcessServer>,
    bus: SharedMessageBus,
    _folder: TempDir,
}

pub type InMemoryTestCluster = ReplicatedTestCluster<true>;
pub type TcpTestCluster = ReplicatedTestCluster<false>;

impl<const IN_MEMORY: bool> TestCluster for ReplicatedTestCluster<IN_MEMORY> {
    async fn start(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let members: Vec<Member> = (0..REPLICAS).map(|_| Member::new()).collect();
        let authority = settings.tls.then(|| Authority::new(folder.path()));
        let bus = create_shared_message_bus();
        let server = |number: usize| {
            let data_dir = folder.path().join(format!("data-{number}"));
            let file = folder.path().join(format!("{number}.toml"));
            let text = configuration(&settings, &members[number], &members, &data_dir);
            let all: Vec<usize> = (0..REPLICAS).collect();
            let tls = authority.as_ref().map_or(String::new(), |authority| authority.section(&all));
            std::fs::write(&file, text + &tls).expect("written");
            let network = IN_MEMORY.then(|| Network::InMemory(bus.clone()));
            InProcessServer::new(&file, IN_MEMORY.then_some(number), network)
        };
        let servers = (0..if IN_MEMORY { REPLICAS } else { 1 }).map(server).collect();
        let mut cluster = ReplicatedTestCluster { servers, bus, _folder: folder };
        cluster.restart_all().await;
        cluster
    }

    fn thrift(&self, server: usize) -> String {
        self.servers[server].thrift()
    }

    fn admin(&self, server: usize) -> String {
        self.servers[server].admin()
    }

    fn servers(&self) -> usize {
        self.servers.len()
    }

    fn is_running(&self, server: usize) -> bool {
        self.servers[server].is_running()
    }

    fn replicas(&self) -> usize {
        REPLICAS
    }

    fn server_of(&self, replica: usize) -> usize {
        if IN_MEMORY { replica } else { 0 }
    }

    async fn kill(&mut self, server: usize) {
        self.servers[server].kill().await;
    }

    async fn stop(&mut self, server: usize) {
        self.servers[server].stop().await;
    }

    async fn restart(&mut self, server: usize) {
        self.servers[server].start().await;
    }

    async fn rows_hash(&self, replica: usize, version: Version) -> RowsHash {
        let place = if IN_MEMORY { 0 } else { replica };
        self.servers[self.server_of(replica)].rows_hash(place, version).await
    }
}

fn id(server: usize) -> ReplicaId {
    ReplicaId(u8::try_from(server).expect("few replicas"))
}

impl Partitionable for InMemoryTestCluster {
    fn isolate(&self, server: usize) {
        self.bus.isolate(id(server));
    }

    fn cut_one_way(&self, from: usize, to: usize) {
        self.bus.cut_one_way(id(from), id(to));
    }

    fn heal(&self) {
        self.bus.heal();
    }
}

impl<const IN_MEMORY: bool> Drop for ReplicatedTestCluster<IN_MEMORY> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            journal::print();
        }
    }
}
