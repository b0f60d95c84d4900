//! From a standalone server's data to that of the only member of a new cluster.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kv_store::{Durability, StateBlob};
use rsml::offline::Founding;
use rsml::{ClusterId, DiskId, FeatureLevel, ReplicaId, ReplicatedState, Sequence};

use super::bench::{self, Bench};
use super::checks::{self, check};
use super::content::{self, Content};
use super::{Check, ConvertError, Plan, Step, space, sync};
use crate::config::Config;
use crate::data_dir::{Identity, make_directory};
use crate::manager::{plan_budget, shared_resources};
use crate::mode::Mode;
use crate::replication::{open_log, random};

/// Room in addition to the first file of the log: the last writes in tables, and lists of files.
const ROOM_FOR_TABLES: u64 = 64 << 20;

pub(super) fn plan(config: Config) -> Result<Plan, ConvertError> {
    let root = config.storage.data_dir.clone();
    let (identity, note) = checks::found(&root)?;
    let [id] = config.replication.local_ids()[..] else {
        return Err(ConvertError::Refused(
            "the configuration does not say which replica the data becomes: give --node-id N (replication.node_id), or \
             list one replica only in [[replication.replicas]]"
                .to_string(),
        ));
    };
    let result = format!("{} is the data directory of replica {id}", root.display());
    let leftover = note.as_ref().and_then(|note| note.leftover(&root, &identity));
    let mut checks = vec![whose_data(&identity, id, &root), is_listed(&config, id), checks::is_on_disk(&config)];
    let needed = needed_bytes(&config);
    let work = Rc::new(RefCell::new(ToReplicated { bench: Bench::new(config, root.clone()), id, founding: None }));
    let mut steps = Vec::new();
    if identity.mode == Mode::Replicated {
        if let Some(old) = leftover {
            checks.push(checks::is_stopped(&root)?);
            steps.push(Step::of("lock the data directory, which has its new form already", &work, |work| {
                work.bench.lock(Mode::Replicated, &[work.id])
            }));
            steps.extend(bench::remove_old(&root, old, &work));
        }
        return Ok(Plan { checks, steps, result });
    }
    let (old, new) = (root.join("db"), root.join(format!("replica-{id}")));
    checks.push(checks::is_stopped(&root)?);
    checks.push(checks::is_plain_directory(&old));
    checks.push(checks::is_absent(&new, leftover.as_deref()));
    checks.push(space::has_space(&root, &old, needed)?);
    let text = "lock the data directory, and open the database as a server does";
    steps.push(Step::of(text, &work, ToReplicated::open));
    steps.extend(bench::remove_leftover(leftover));
    steps.push(bench::note(&root, id));
    let database = new.join("db");
    steps.extend([
        Step::of(format!("make {} of the same files", database.display()), &work, ToReplicated::link),
        Step::of("write the state of the new cluster into that database", &work, ToReplicated::write_state),
        Step::of(format!("begin the consensus log in {}", new.join("wal").display()), &work, ToReplicated::write_log),
        Step::of(
            format!("replace identity.json: from here on the directory is that of replica {id}"),
            &work,
            ToReplicated::identify,
        ),
    ]);
    steps.extend(bench::remove_old(&root, old, &work));
    Ok(Plan { checks, steps, result })
}

fn needed_bytes(config: &Config) -> u64 {
    (config.replication.wal_segment_mb << 20) + ROOM_FOR_TABLES + config.storage.min_free_bytes()
}

fn whose_data(identity: &Identity, id: u32, root: &Path) -> Check {
    let met = identity.mode == Mode::Standalone || identity.replicas == [id];
    check("the data is that of a standalone server", met, || {
        format!(
            "data directory {} belongs to {}, and not to a standalone server; {}",
            root.display(),
            identity.describe(),
            match identity.replicas.len() {
                1 => "give the same --node-id to see whether it was converted",
                _ => "`synodkv convert --split` makes one directory for each of them",
            }
        )
    })
}

fn is_listed(config: &Config, id: u32) -> Check {
    check(format!("the configuration lists replica {id} with its addresses"), config.replication.is_listed, || {
        "the configuration lists no replicas: give --config FILE with [[replication.replicas]] entries of id, peer, thrift \
         and admin; one entry is enough"
            .to_string()
    })
}

/// The results of the steps so far.
struct ToReplicated {
    bench: Bench,
    id: u32,
    /// The cluster, and the sequence of its database.
    founding: Option<(Founding, Sequence)>,
}

impl ToReplicated {
    fn new_database(&self) -> PathBuf {
        self.bench.root.join(format!("replica-{}", self.id)).join("db")
    }

    fn open(&mut self) -> Result<(), ConvertError> {
        let bench = &mut self.bench;
        bench.lock(Mode::Standalone, &[])?;
        let budget = plan_budget(&mut bench.config)?;
        let resources = shared_resources(&bench.config, &budget)?;
        let database = content::open(&bench.root.join("db"), Durability::EveryWrite, &resources)?;
        bench.hold(database, resources);
        Ok(())
    }

    fn link(&mut self) -> Result<(), ConvertError> {
        let path = self.new_database();
        make_directory(path.parent().expect("it lies in the replica's directory"))?;
        self.bench.link_to(&path)
    }

    /// The database becomes the one of a replica that has just applied everything through the
    /// sequence at which the cluster is founded.
    fn write_state(&mut self) -> Result<(), ConvertError> {
        let (before, resources) = self.bench.held();
        let founding = Founding {
            cluster_id: ClusterId(random()?),
            replica: ReplicaId(u8::try_from(self.id).expect("the configuration bounds replica ids")),
            disk_id: DiskId(random()?),
            generation: 0,
        };
        let database = content::open(&self.new_database(), Durability::UntilFlush, resources)?;
        let (time_us, feature_level) = (before.time_us, FeatureLevel(before.level));
        let state = founding.state_after(&ReplicatedState { time_us, feature_level, ..ReplicatedState::default() });
        let sequence = state.sequence.0;
        database.prepare([])?.commit(StateBlob { sequence, blob: state.to_bytes() })?;
        database.flush()?;
        before.check(&Content::of(&database))?;
        let persisted = database.persisted_sequence()?;
        if persisted != sequence {
            let text = format!("the new database has persisted sequence {persisted} and not {sequence}");
            return Err(ConvertError::Failed(text));
        }
        self.founding = Some((founding, state.sequence));
        Ok(())
    }

    fn write_log(&mut self) -> Result<(), ConvertError> {
        let data_dir = self.bench.data_dir();
        let failed = |error: String| ConvertError::Failed(format!("cannot begin the log: {error}"));
        let mut log = open_log(&self.bench.config, data_dir, self.id).map_err(|error| failed(error.to_string()))?;
        let (founding, sequence) = self.founding.as_ref().expect("the step before wrote it");
        founding.write_log(&mut log, *sequence).map_err(|error| failed(error.to_string()))?;
        let wal = data_dir.replica_wal(self.id);
        sync(&wal)?;
        sync(&data_dir.replica(self.id))?;
        sync(&self.bench.root)
    }

    fn identify(&mut self) -> Result<(), ConvertError> {
        let cluster_id = self.founding.as_ref().expect("an earlier step wrote it").0.cluster_id;
        self.bench.identify(Identity::new(Mode::Replicated, &[self.id], Some(cluster_id.to_string())))
    }
}
