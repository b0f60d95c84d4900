//! From a standalone server's data to that of the only member of a new cluster.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use kv_store::{Durability, SharedResources, StateBlob, TransactionalKvDatabase};
use rsml::offline::Founding;
use rsml::{ClusterId, DiskId, FeatureLevel, ReplicaId, ReplicatedState, Sequence};

use super::checks::{self, check};
use super::content::{self, Content};
use super::note::Note;
use super::{Check, ConvertError, Plan, Step, remove, sync};
use crate::config::Config;
use crate::data_dir::{DataDir, Identity, make_directory};
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
    let bench = Rc::new(RefCell::new(Bench::new(config, root.clone(), id, identity.mode)));
    let mut steps = Vec::new();
    if identity.mode == Mode::Replicated {
        if let Some(old) = leftover {
            checks.push(checks::is_stopped(&root)?);
            steps.push(Step::of("lock the data directory, which has its new form already", &bench, Bench::lock));
            steps.extend(bench_ends(&bench, old));
        }
        return Ok(Plan { checks, steps, result });
    }
    let (old, new) = (root.join("db"), root.join(format!("replica-{id}")));
    checks.push(checks::is_stopped(&root)?);
    checks.push(checks::is_plain_directory(&old));
    checks.push(checks::is_absent(&new, leftover.as_deref()));
    checks.push(checks::has_space(&root, bench.borrow().needed_bytes())?);
    steps.push(Step::of("lock the data directory, and open the database as a server does", &bench, Bench::open));
    if let Some(leftover) = leftover {
        let text = format!("remove {}, which an interrupted conversion has left", leftover.display());
        steps.push(Step::new(text, move || remove(&leftover)));
    }
    let database = new.join("db");
    steps.extend([
        Step::of("note in convert.json that a conversion has begun", &bench, Bench::note),
        Step::of(format!("make {} of the same files", database.display()), &bench, Bench::link),
        Step::of("write the state of the new cluster into that database", &bench, Bench::write_state),
        Step::of(format!("begin the consensus log in {}", new.join("wal").display()), &bench, Bench::write_log),
        Step::of(
            format!("replace identity.json: from here on the directory is that of replica {id}"),
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
struct Bench {
    config: Config,
    root: PathBuf,
    id: u32,
    mode: Mode,
    data_dir: Option<DataDir>,
    resources: Option<SharedResources>,
    database: Option<Arc<TransactionalKvDatabase>>,
    content: Option<Content>,
    /// The cluster, and the sequence of its database.
    founding: Option<(Founding, Sequence)>,
}

const OPENED: &str = "the first step opened it";

impl Bench {
    fn new(config: Config, root: PathBuf, id: u32, mode: Mode) -> Bench {
        let (data_dir, resources, database) = (None, None, None);
        Bench { config, root, id, mode, data_dir, resources, database, content: None, founding: None }
    }

    fn needed_bytes(&self) -> u64 {
        (self.config.replication.wal_segment_mb << 20) + ROOM_FOR_TABLES + self.config.storage.min_free_bytes()
    }

    fn new_database(&self) -> PathBuf {
        self.root.join(format!("replica-{}", self.id)).join("db")
    }

    fn lock(&mut self) -> Result<(), ConvertError> {
        let ids = if self.mode == Mode::Replicated { vec![self.id] } else { Vec::new() };
        self.data_dir = Some(DataDir::open(&self.root, self.mode, &ids)?);
        Ok(())
    }

    fn open(&mut self) -> Result<(), ConvertError> {
        self.lock()?;
        let budget = plan_budget(&mut self.config)?;
        let resources = shared_resources(&self.config, &budget)?;
        let database = content::open(&self.root.join("db"), Durability::EveryWrite, &resources)?;
        self.content = Some(Content::of(&database));
        (self.resources, self.database) = (Some(resources), Some(database));
        Ok(())
    }

    fn note(&mut self) -> Result<(), ConvertError> {
        Note::Replica(self.id).write(&self.root)
    }

    fn link(&mut self) -> Result<(), ConvertError> {
        let path = self.new_database();
        let folder = path.parent().expect("it lies in the replica's directory");
        make_directory(folder)?;
        let database = self.database.take().expect(OPENED);
        database.link_to(&path)?;
        sync(folder)
    }

    /// The database becomes the one of a replica that has just applied everything through the
    /// sequence at which the cluster is founded.
    fn write_state(&mut self) -> Result<(), ConvertError> {
        let (before, resources) = (self.content.as_ref().expect(OPENED), self.resources.as_ref().expect(OPENED));
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
        let data_dir = self.data_dir.as_ref().expect(OPENED);
        let failed = |error: String| ConvertError::Failed(format!("cannot begin the log: {error}"));
        let mut log = open_log(&self.config, data_dir, self.id).map_err(|error| failed(error.to_string()))?;
        let (founding, sequence) = self.founding.as_ref().expect("the step before wrote it");
        founding.write_log(&mut log, *sequence).map_err(|error| failed(error.to_string()))?;
        let wal = data_dir.replica_wal(self.id);
        sync(&wal)?;
        sync(&data_dir.replica(self.id))?;
        sync(&self.root)
    }

    fn identify(&mut self) -> Result<(), ConvertError> {
        let cluster_id = self.founding.as_ref().expect("an earlier step wrote it").0.cluster_id;
        let identity = Identity::new(Mode::Replicated, &[self.id], Some(cluster_id.to_string()));
        Ok(self.data_dir.as_ref().expect(OPENED).convert(identity)?)
    }
}
