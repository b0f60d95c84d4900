//! From the data of a cluster's only member to that of a standalone server.
//!
//! The database of a replica may lag behind its log, and how much of the log is chosen is a matter
//! of consensus. So the replica itself finds out: it is started without a network, leads, applies
//! everything, and stops.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kv_store::Durability;
use rsml::transport::create_shared_message_bus;
use rsml::{Configuration, ReplicaId};

use super::bench::{self, Bench};
use super::checks::{self, check};
use super::content::{self, Content};
use super::{Check, ConvertError, Plan, Step, space};
use crate::config::Config;
use crate::data_dir::Identity;
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
    let needed = ROOM_FOR_TABLES + config.storage.min_free_bytes();
    let listed: Vec<u32> = config.replication.replicas.iter().map(|replica| replica.id).collect();
    let bench = Rc::new(RefCell::new(Bench::new(config, root.clone())));
    let mut steps = Vec::new();
    let Some(id) = identity.replicas.first().copied() else {
        if let Some(old) = leftover {
            checks.push(checks::is_stopped(&root)?);
            steps.push(Step::of("lock the data directory, which has its new form already", &bench, |bench| {
                bench.lock(Mode::Standalone, &[])
            }));
            steps.extend(bench::remove_old(&root, old, &bench));
        }
        return Ok(Plan { checks, steps, result });
    };
    let (old, new) = (root.join(format!("replica-{id}")), root.join("db"));
    checks.push(checks::is_stopped(&root)?);
    checks.push(is_alone(&listed, id));
    checks.push(checks::is_plain_directory(&old));
    checks.push(checks::is_absent(&new, leftover.as_deref()));
    checks.push(space::has_space(&root, &old, needed)?);
    let text = format!(
        "lock the data directory, start replica {id} without a network until its database has applied its log, and check \
         that the cluster has no other members"
    );
    steps.push(Step::of(text, &bench, move |bench| start_alone(bench, id)));
    steps.extend(bench::remove_leftover(leftover));
    steps.push(bench::note(&root, id));
    let text = format!("make {} of the same files", new.display());
    steps.push(Step::of(text, &bench, move |bench| bench.link_to(&new)));
    steps.push(Step::of("remove the state of the cluster from that database", &bench, remove_state));
    steps.push(Step::of(
        "replace identity.json: from here on the directory is that of a standalone server",
        &bench,
        |bench| bench.identify(Identity::new(Mode::Standalone, &[], None)),
    ));
    steps.extend(bench::remove_old(&root, old, &bench));
    Ok(Plan { checks, steps, result })
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

fn is_alone(listed: &[u32], id: u32) -> Check {
    check(format!("the configuration lists replica {id} and no other"), listed == [id], || {
        let listed: Vec<String> = listed.iter().map(u32::to_string).collect();
        format!(
            "the configuration lists the replicas {}, and the data is that of replica {id}: give the --config of a cluster \
             with that one member. Data of a cluster with other members must not go on without them",
            listed.join(", ")
        )
    })
}

fn start_alone(bench: &mut Bench, id: u32) -> Result<(), ConvertError> {
    bench.lock(Mode::Replicated, &[id])?;
    let budget = plan_budget(&mut bench.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ConvertError::Failed(format!("cannot start a runtime: {error}")))?;
    let network = Network::InMemory(create_shared_message_bus());
    let local = LocalReplicas::start(&bench.config, &budget, bench.data_dir(), &network, runtime.handle())?;
    let settled = runtime.block_on(settle(&local.replicas()[0]));
    local.shutdown();
    settled?;
    let database = local.replicas()[0].reader.database();
    drop(local);
    bench.hold(database, shared_resources(&bench.config, &budget)?);
    Ok(())
}

fn remove_state(bench: &mut Bench) -> Result<(), ConvertError> {
    let (before, resources) = bench.held();
    let database = content::open(&bench.root.join("db"), Durability::EveryWrite, resources)?;
    database.forget_state_blob()?;
    database.flush()?;
    before.check(&Content::of(&database))
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
