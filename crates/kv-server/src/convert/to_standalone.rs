//! From the data of a cluster's only member to that of a standalone server.
//!
//! The database of a replica may lag behind its log, and how much of the log is chosen is a matter
//! of consensus. So the replica itself finds out: it is started without a network, leads, applies
//! everything, and stops.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_store::{Durability, SharedResources, TransactionalKvDatabase};
use rsml::transport::create_shared_message_bus;
use rsml::{Configuration, ReplicaId};

use super::checks::{self, check};
use super::content::{self, Content};
use super::note::Note;
use super::{Check, ConvertError, Plan, Step, remove, sync};
use crate::config::Config;
use crate::data_dir::{DataDir, Identity};
use crate::manager::{plan_budget, shared_resources};
use crate::mode::Mode;
use crate::replication::{LocalReplica, LocalReplicas, Network};

/// How long the replica may take until it leads and has applied its log.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long it is waited for at a time, before its members are looked at again.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Room for the last writes in tables, and lists of files.
const ROOM_FOR_TABLES: u64 = 64 << 20;

pub(super) fn plan(config: Config) -> Result<Plan, ConvertError> {
    let root = config.storage.data_dir.clone();
    let (identity, note) = checks::found(&root)?;
    let result = format!("{} is the data directory of a standalone server", root.display());
    let leftover = note.as_ref().and_then(|note| note.leftover(&root, &identity));
    let mut checks = vec![whose_data(&identity, &root)];
    checks.push(checks::is_on_disk(&config));
    let id = identity.replicas.first().copied();
    let bench = Rc::new(RefCell::new(Bench::new(config, root.clone(), id)));
    let mut steps = Vec::new();
    let Some(id) = id else {
        if let Some(old) = leftover {
            checks.push(checks::is_stopped(&root)?);
            steps.push(Step::of("lock the data directory, which has its new form already", &bench, Bench::lock));
            steps.extend(bench_ends(&bench, old));
        }
        return Ok(Plan { checks, steps, result });
    };
    let (old, new) = (root.join(format!("replica-{id}")), root.join("db"));
    checks.push(checks::is_stopped(&root)?);
    checks.push(is_alone(&bench.borrow().config, id));
    checks.push(checks::is_plain_directory(&old));
    checks.push(checks::is_absent(&new, leftover.as_deref()));
    checks.push(checks::has_space(&root, ROOM_FOR_TABLES + bench.borrow().config.storage.min_free_bytes())?);
    let text = format!(
        "lock the data directory, start replica {id} without a network until its database has applied its log, and check \
         that the cluster has no other members"
    );
    steps.push(Step::of(text, &bench, Bench::settle));
    if let Some(leftover) = leftover {
        let text = format!("remove {}, which an interrupted conversion has left", leftover.display());
        steps.push(Step::new(text, move || remove(&leftover)));
    }
    steps.extend([
        Step::of("note in convert.json that a conversion has begun", &bench, Bench::note),
        Step::of(format!("make {} of the same files", new.display()), &bench, Bench::link),
        Step::of("remove the state of the cluster from that database", &bench, Bench::remove_state),
        Step::of(
            "replace identity.json: from here on the directory is that of a standalone server",
            &bench,
            Bench::identify,
        ),
    ]);
    steps.extend(bench_ends(&bench, old));
    Ok(Plan { checks, steps, result })
}

/// The steps after the directory has got its new form.
fn bench_ends(bench: &Rc<RefCell<Bench>>, old: PathBuf) -> [Step; 2] {
    let text = format!("remove {}", old.display());
    [Step::new(text, move || remove(&old)), Step::of("remove convert.json", bench, |bench| Note::remove(&bench.root))]
}

fn whose_data(identity: &Identity, root: &Path) -> Check {
    check("the data is that of one replica", identity.replicas.len() <= 1, || {
        format!(
            "data directory {} belongs to {}: only the data of a cluster with one member can become that of a standalone \
             server. `synodkv range --format backup` and `synodkv import` copy the rows of any cluster",
            root.display(),
            identity.describe()
        )
    })
}

fn is_alone(config: &Config, id: u32) -> Check {
    let listed: Vec<u32> = config.replication.replicas.iter().map(|replica| replica.id).collect();
    check(format!("the configuration lists replica {id} and no other"), listed == [id], || {
        let listed: Vec<String> = listed.iter().map(u32::to_string).collect();
        format!(
            "the configuration lists the replicas {}, and the data is that of replica {id}: give the --config of a cluster \
             with that one member. Data of a cluster with other members must not go on without them",
            listed.join(", ")
        )
    })
}

/// The results of the steps so far.
struct Bench {
    config: Config,
    root: PathBuf,
    /// `None`: the directory is that of a standalone server already.
    id: Option<u32>,
    data_dir: Option<DataDir>,
    resources: Option<SharedResources>,
    database: Option<Arc<TransactionalKvDatabase>>,
    content: Option<Content>,
}

const OPENED: &str = "the first step opened it";

impl Bench {
    fn new(config: Config, root: PathBuf, id: Option<u32>) -> Bench {
        Bench { config, root, id, data_dir: None, resources: None, database: None, content: None }
    }

    fn lock(&mut self) -> Result<(), ConvertError> {
        let mode = if self.id.is_some() { Mode::Replicated } else { Mode::Standalone };
        let ids: Vec<u32> = self.id.into_iter().collect();
        self.data_dir = Some(DataDir::open(&self.root, mode, &ids)?);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), ConvertError> {
        self.lock()?;
        let budget = plan_budget(&mut self.config)?;
        let data_dir = self.data_dir.as_ref().expect("locked just now");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ConvertError::Failed(format!("cannot start a runtime: {error}")))?;
        let network = Network::InMemory(create_shared_message_bus());
        let local = LocalReplicas::start(&self.config, &budget, data_dir, &network, runtime.handle())?;
        let settled = runtime.block_on(settle(&local.replicas()[0]));
        local.shutdown();
        settled?;
        let database = local.replicas()[0].reader.database();
        drop(local);
        self.content = Some(Content::of(&database));
        self.resources = Some(shared_resources(&self.config, &budget)?);
        self.database = Some(database);
        Ok(())
    }

    fn note(&mut self) -> Result<(), ConvertError> {
        Note::Replica(self.id.expect("there is a replica")).write(&self.root)
    }

    fn link(&mut self) -> Result<(), ConvertError> {
        self.database.take().expect(OPENED).link_to(&self.root.join("db"))?;
        sync(&self.root)
    }

    fn remove_state(&mut self) -> Result<(), ConvertError> {
        let (before, resources) = (self.content.as_ref().expect(OPENED), self.resources.as_ref().expect(OPENED));
        let database = content::open(&self.root.join("db"), Durability::EveryWrite, resources)?;
        database.forget_state_blob()?;
        database.flush()?;
        before.check(&Content::of(&database))
    }

    fn identify(&mut self) -> Result<(), ConvertError> {
        let identity = Identity::new(Mode::Standalone, &[], None);
        Ok(self.data_dir.as_ref().expect(OPENED).convert(identity)?)
    }
}

/// Waits until the replica leads a cluster of which it is the only member, and its database has
/// applied the log.
async fn settle(replica: &LocalReplica) -> Result<(), ConvertError> {
    let started = Instant::now();
    loop {
        let status = replica.consensus.status();
        if let Some(failure) = status.failed {
            return Err(ConvertError::Failed(format!("replica {} has stopped: {failure}", replica.id)));
        }
        refuse_others(&status.core.configuration, replica.id)?;
        if replica.consensus.read_barrier(Instant::now() + LOOK_INTERVAL).await.is_ok() {
            // The barrier was passed under the configuration that is looked at now.
            return refuse_others(&replica.consensus.status().core.configuration, replica.id);
        }
        if started.elapsed() > PATIENCE {
            let text = format!(
                "replica {} does not lead after {} s, so it is not known which of its writes count: start a server on the \
                 directory, and see `synodkv status`",
                replica.id,
                PATIENCE.as_secs()
            );
            return Err(ConvertError::Failed(text));
        }
    }
}

fn refuse_others(configuration: &Configuration, id: u32) -> Result<(), ConvertError> {
    let others: Vec<String> =
        configuration.members.keys().filter(|member| u32::from(member.0) != id).map(ReplicaId::to_string).collect();
    match others.is_empty() {
        true => Ok(()),
        false => Err(ConvertError::Refused(format!(
            "the cluster has other members than replica {id}: {}. Remove them first (`synodkv member remove`), or copy the \
             rows with `synodkv range --format backup` and `synodkv import`",
            others.join(", ")
        ))),
    }
}
