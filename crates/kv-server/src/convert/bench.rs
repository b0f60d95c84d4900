//! The common part of both directions of a conversion between standalone and replicated: the results
//! that a step leaves for the next one, and the steps that do not depend on the direction.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use kv_store::{SharedResources, TransactionalKvDatabase};

use super::content::Content;
use super::note::Note;
use super::{ConvertError, Step, remove, sync};
use crate::config::Config;
use crate::data_dir::{DataDir, Identity};
use crate::mode::Mode;

const LOCKED: &str = "the first step locked it";
const OPENED: &str = "the first step opened it";

/// The results of the steps so far.
pub(super) struct Bench {
    pub config: Config,
    pub root: PathBuf,
    data_dir: Option<DataDir>,
    resources: Option<SharedResources>,
    /// The database in its old form.
    database: Option<Arc<TransactionalKvDatabase>>,
    content: Option<Content>,
}

impl Bench {
    pub fn new(config: Config, root: PathBuf) -> Bench {
        Bench { config, root, data_dir: None, resources: None, database: None, content: None }
    }

    /// Locks the directory, which has that form. It stays locked as long as this value lives.
    pub fn lock(&mut self, mode: Mode, replicas: &[u32]) -> Result<(), ConvertError> {
        self.data_dir = Some(DataDir::open(&self.root, mode, replicas)?);
        Ok(())
    }

    /// The directory, once it is locked.
    pub fn data_dir(&self) -> &DataDir {
        self.data_dir.as_ref().expect(LOCKED)
    }

    /// Notes the database in its old form, and what it holds; `resources` are for the new form.
    pub fn hold(&mut self, database: Arc<TransactionalKvDatabase>, resources: SharedResources) {
        self.content = Some(Content::of(&database));
        (self.database, self.resources) = (Some(database), Some(resources));
    }

    /// The content that the new form must have, and the resources with which it is opened.
    pub fn held(&self) -> (&Content, &SharedResources) {
        (self.content.as_ref().expect(OPENED), self.resources.as_ref().expect(OPENED))
    }

    /// Makes a second database of the same files, and closes the first one.
    pub fn link_to(&mut self, path: &Path) -> Result<(), ConvertError> {
        self.database.take().expect(OPENED).link_to(path)?;
        sync(path.parent().expect("it lies in the data directory"))
    }

    /// From here on the directory has the new form.
    pub fn identify(&self, identity: Identity) -> Result<(), ConvertError> {
        Ok(self.data_dir().convert(identity)?)
    }
}

/// The step that removes what an interrupted conversion has left, if it has.
pub(super) fn remove_leftover(leftover: Option<PathBuf>) -> Option<Step> {
    let leftover = leftover?;
    let text = format!("remove {}, which an interrupted conversion has left", leftover.display());
    Some(Step::new(text, move || remove(&leftover)))
}

/// The step before the first that leaves something.
pub(super) fn note(root: &Path, id: u32) -> Step {
    let root = root.to_path_buf();
    Step::new("note in convert.json that a conversion has begun", move || Note::Replica(id).write(&root))
}

/// The steps after the directory has got its new form. The last one lets go of `bench`, and so of the
/// lock.
pub(super) fn remove_old<B: 'static>(root: &Path, old: PathBuf, bench: &Rc<RefCell<B>>) -> [Step; 2] {
    let root = root.to_path_buf();
    let text = format!("remove {}", old.display());
    [Step::new(text, move || remove(&old)), Step::of("remove convert.json", bench, move |_| Note::remove(&root))]
}
