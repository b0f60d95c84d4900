//! Tests of conversions, with whole servers on the directories before and after. That they survive
//! `kill -9` and losses of power is tested in the synodkv crate.

mod content;
mod interruptions;
mod refusals;
mod split;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kv_api::access::{AccessCommand, AddUser, WriteAuthority};
use kv_api::{AtomicCommit, FamilyChange, LoggedWrite, Mutation, MutationKind, Version};
use kv_store::TransactionalKvDatabase;
use rsml::transport::{SharedMessageBus, create_shared_message_bus};

use super::{Conversion, ConvertError, Plan, Step, plan};
use crate::config::{Config, Environment, Overrides};
use crate::manager::ServerManager;
use crate::replication::{Network, ReplicatedServerManager};
use crate::standalone::StandaloneServerManager;

const KEYS: u64 = 300;

/// A data directory, and the configurations of its servers.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary directory") }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn standalone(&self) -> Config {
        let mut config = load(&self.root(), "", None);
        config.replication.replicas.clear();
        config
    }

    /// That of the only member of a cluster.
    fn member(&self) -> Config {
        load(&self.root(), &entries(1), Some(0))
    }

    fn to_replicated(&self) -> Conversion {
        Conversion::ToReplicated(Box::new(self.member()))
    }

    fn to_standalone(&self) -> Conversion {
        Conversion::ToStandalone(Box::new(self.member()))
    }

    fn split(&self) -> Conversion {
        Conversion::Split { data_dir: self.root(), replicas: vec![2, 0, 1], out: self.out() }
    }

    async fn start_standalone(&self) -> StandaloneServerManager {
        StandaloneServerManager::start(self.standalone()).await.expect("the standalone server starts")
    }

    async fn start_member(&self) -> ReplicatedServerManager {
        start(self.member(), &create_shared_message_bus()).await
    }

    /// A standalone server with rows, which is stopped again.
    async fn fill(&self) -> Facts {
        let server = self.start_standalone().await;
        let facts = fill(server.database()).await;
        Box::new(server).shutdown().await;
        facts
    }

    /// All names below the data directory.
    fn names(&self) -> Vec<PathBuf> {
        names(&self.root())
    }
}

fn names(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("listed").path());
    let mut names: Vec<PathBuf> = paths.flat_map(|path| [names(&path), vec![path]].concat()).collect();
    names.sort();
    names
}

fn entries(replicas: u32) -> String {
    let entry = |id| {
        let peer = 10_000 + id;
        format!(
            "[[replication.replicas]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nthrift = \"127.0.0.1:0\"\n\
             admin = \"127.0.0.1:0\"\n"
        )
    };
    (0..replicas).map(entry).collect()
}

fn load(root: &Path, replicas: &str, node_id: Option<u32>) -> Config {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("synodkv.toml");
    let text = format!(
        "[server]\nthrift_addr = \"127.0.0.1:0\"\nadmin_addr = \"127.0.0.1:0\"\n[storage]\nwrite_buffer_mb = 16\n\
         block_cache_mb = 8\n[replication]\nwal_segment_mb = 1\n{replicas}"
    );
    std::fs::write(&file, text).expect("written");
    let mode = node_id.is_none().then(|| "standalone".to_string());
    let flags = Overrides { node_id, data_dir: Some(root.to_path_buf()), mode, ..Overrides::default() };
    Config::load(Some(&file), &Environment::empty(), &flags).expect("a good configuration")
}

async fn start(config: Config, bus: &SharedMessageBus) -> ReplicatedServerManager {
    ReplicatedServerManager::start_on(config, Network::InMemory(bus.clone())).await.expect("the replica starts")
}

fn database(server: &ReplicatedServerManager) -> Arc<TransactionalKvDatabase> {
    server.local_replicas().replicas()[0].reader.database()
}

fn commit(mutations: Vec<Mutation>, id: &str) -> AtomicCommit {
    AtomicCommit { idempotency_id: Bytes::copy_from_slice(id.as_bytes()), ..AtomicCommit::of(mutations) }
}

fn set(key: u64, value: &str) -> Mutation {
    Mutation::set(format!("key {key:04}"), value.to_string())
}

/// What a database holds, as readers and committers see it.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    version: Version,
    /// Rows of each family at two versions.
    rows: Vec<(u64, u64)>,
    families: Vec<String>,
    users: Vec<String>,
    remembered_ids: u64,
}

/// A version at which rows are looked at.
const OLD: Version = Version(50);

impl Facts {
    fn of(database: &TransactionalKvDatabase) -> Facts {
        let version = database.applied_version();
        let rows_of = |(family, at)| {
            let hashed = database.hash_rows(family, b"", at, u64::MAX).expect("it can be read");
            (hashed.count, hashed.hash)
        };
        let looks = [("", version), ("", OLD), ("fruit", version), ("fruit", OLD)];
        Facts {
            version,
            rows: looks.into_iter().map(rows_of).collect(),
            families: database.column_families().to_vec(),
            users: database.policy().users.keys().cloned().collect(),
            remembered_ids: database.retention().remembered_ids,
        }
    }
}

/// Writes all that a database may hold: overwritten and deleted keys, a cleared range, a family, a
/// dropped one, a user, and results of commits.
async fn fill(database: &TransactionalKvDatabase) -> Facts {
    let write = async |write| database.write(write).await.expect("written");
    for name in ["fruit", "gone"] {
        write(LoggedWrite::family(FamilyChange { name: name.into(), drop: false })).await;
    }
    for key in 0..KEYS {
        let in_family = |name: &str| Mutation { column_family: name.into(), ..set(key, "one") };
        let all = vec![set(key, "first"), in_family("fruit"), in_family("gone")];
        write(LoggedWrite::commit(commit(all, &format!("id {key}")))).await;
    }
    write(LoggedWrite::commit(commit((0..KEYS).step_by(3).map(|key| set(key, "again")).collect(), ""))).await;
    let clear = Mutation {
        kind: MutationKind::ClearRange.into(),
        key: "key 0100".into(),
        value: "key 0150".into(),
        ..Mutation::default()
    };
    write(LoggedWrite::commit(commit(vec![clear], "clear"))).await;
    write(LoggedWrite::family(FamilyChange { name: "gone".into(), drop: true })).await;
    let command = AccessCommand::AddUser(AddUser { name: "ann".into(), roles: vec!["writer".into()] });
    let access = LoggedWrite::access(command.into(), 1_700_000_000_000_000);
    write(access.on_behalf_of(Some(WriteAuthority::server()))).await;
    Facts::of(database)
}

fn planned(conversion: Conversion) -> Plan {
    let plan = plan(conversion).expect("it can be planned");
    assert_eq!(plan.obstacles().collect::<Vec<_>>(), Vec::<&str>::new());
    plan
}

/// Runs a body on a thread of its own: a conversion may need a runtime, and tests are in one.
fn apart<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(body).join().expect("it does not panic"))
}

fn convert(conversion: Conversion) {
    apart(|| planned(conversion).run(|_, _| ()).expect("converted"));
}

/// Why a conversion is refused before its first step.
fn refusal(conversion: Conversion) -> String {
    let refused = plan(conversion).and_then(|plan| plan.run(|number, text| panic!("step {number} begins: {text}")));
    match refused {
        Err(ConvertError::Refused(text)) => text,
        other => panic!("{other:?} is no refusal"),
    }
}

/// Takes the first steps of a conversion, and drops the rest.
fn interrupt(conversion: Conversion, steps: usize) {
    let take = |step: Step| (step.run)().expect("a step succeeds");
    apart(|| planned(conversion).steps.into_iter().take(steps).for_each(take));
}
