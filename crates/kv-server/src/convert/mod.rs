//! Conversions of a data directory that no server has open: from standalone to a cluster with one
//! member, back, and from several replicas in one process to one process for each.
//!
//! A conversion is a list of steps, which [`plan`] makes without changing anything. It builds the
//! new form next to the old one. One rename, of `identity.json`, goes over from the one to the
//! other; what is left of the old form is removed after that.
//!
//! Invariants:
//! - before that rename a server opens the old form, with all of its data, and after it the new
//!   one, with all of its data: never both, and never something in between;
//! - whatever the rename relies on is durable before it;
//! - a note, `convert.json`, says which directories may be leftovers. It is there as long as there
//!   may be any, and no directory is removed that it does not name;
//! - the same conversion again finishes one that was interrupted, from wherever it was.
//!
//! A split has no moment at which all of its directories go over together. Instead its first
//! irrevocable step, a rename as well, makes the old directory one that nothing opens; then each
//! replica becomes usable with a rename of its own.

mod bench;
mod checks;
mod content;
mod note;
mod space;
mod split;
#[cfg(all(test, feature = "rocksdb"))]
mod tests;
mod to_replicated;
mod to_standalone;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use kv_api::KvError;
use serde::Serialize;

use crate::config::Config;
use crate::data_dir::DataDirError;
use crate::error::ServerError;

/// A change of a data directory's form.
#[derive(Clone, Debug)]
pub enum Conversion {
    /// Of a standalone server's: that of the one member of a new cluster. The configuration says
    /// where the data is, and which replica it becomes.
    ToReplicated(Box<Config>),
    /// Of that of a cluster's only member: that of a standalone server. The configuration is that
    /// of the member.
    ToStandalone(Box<Config>),
    /// Of that of several replicas in one process: one directory for each of them.
    Split {
        /// Where the data is.
        data_dir: PathBuf,
        /// The replicas in it.
        replicas: Vec<u32>,
        /// The directory in which the new ones are made.
        out: PathBuf,
    },
}

/// Why a conversion was not made, or not finished.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A precondition is not met; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// A step failed. The directory is one of the old form, or of the new one, as the text says.
    #[error("{0}")]
    Failed(String),
}

impl From<DataDirError> for ConvertError {
    fn from(error: DataDirError) -> Self {
        ConvertError::Failed(error.to_string())
    }
}

impl From<ServerError> for ConvertError {
    fn from(error: ServerError) -> Self {
        ConvertError::Failed(error.to_string())
    }
}

impl From<KvError> for ConvertError {
    fn from(error: KvError) -> Self {
        ConvertError::Failed(error.to_string())
    }
}

/// A precondition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The condition, as a statement.
    pub what: String,
    /// The fault and its remedy; `None` if the precondition is met.
    pub obstacle: Option<String>,
}

/// One step of a conversion.
pub struct Step {
    /// Its effect, for people.
    pub text: String,
    run: Box<dyn FnOnce() -> Result<(), ConvertError>>,
}

impl Step {
    fn new(text: impl Into<String>, run: impl FnOnce() -> Result<(), ConvertError> + 'static) -> Step {
        Step { text: text.into(), run: Box::new(run) }
    }

    /// A step that works on what the steps before it left in `bench`.
    fn of<B: 'static>(
        text: impl Into<String>,
        bench: &Rc<RefCell<B>>,
        run: impl FnOnce(&mut B) -> Result<(), ConvertError> + 'static,
    ) -> Step {
        let bench = bench.clone();
        Step::new(text, move || run(&mut bench.borrow_mut()))
    }
}

/// The needs and effects of a conversion, found out without changing anything.
pub struct Plan {
    /// The preconditions that can be checked beforehand.
    pub checks: Vec<Check>,
    /// The steps, in order. None if the directory has the new form already.
    pub steps: Vec<Step>,
    /// The state of the directory in the end.
    pub result: String,
}

impl Plan {
    /// The preconditions that are not met.
    pub fn obstacles(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().filter_map(|check| check.obstacle.as_deref())
    }

    /// Whether the directory has the new form already, and nothing is left of the old one.
    pub fn is_done(&self) -> bool {
        self.steps.is_empty()
    }

    /// Makes the conversion. Calls `begins` before each step, with the number of the step and its
    /// text.
    ///
    /// # Errors
    /// [`ConvertError::Refused`] if a precondition is not met; [`ConvertError::Failed`] if a step
    /// fails, at which point the directory still has a form that a server opens.
    pub fn run(self, mut begins: impl FnMut(usize, &str)) -> Result<(), ConvertError> {
        if let Some(obstacle) = self.obstacles().next() {
            return Err(ConvertError::Refused(obstacle.to_string()));
        }
        for (number, Step { text, run }) in (1..).zip(self.steps) {
            begins(number, &text);
            run()?;
        }
        Ok(())
    }
}

/// Finds out what a conversion needs and does. Changes nothing, but tries out in the directory whether
/// the file system has hard links.
///
/// # Errors
/// [`ConvertError::Refused`] if the directory is none that can be converted, or it says itself that
/// it is damaged.
pub fn plan(conversion: Conversion) -> Result<Plan, ConvertError> {
    match conversion {
        Conversion::ToReplicated(config) => to_replicated::plan(*config),
        Conversion::ToStandalone(config) => to_standalone::plan(*config),
        Conversion::Split { data_dir, replicas, out } => split::plan(&data_dir, &replicas, &out),
    }
}

fn failed_to(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConvertError + use<> {
    let path = path.display().to_string();
    move |error| ConvertError::Failed(format!("cannot {action} {path}: {error}"))
}

/// Makes durable what was created, renamed and removed in a directory.
fn sync(directory: &Path) -> Result<(), ConvertError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed_to("synchronise", directory))
}

/// Removes a directory durably, if there is one.
fn remove(directory: &Path) -> Result<(), ConvertError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(failed_to("remove", directory))?,
    }
    sync(directory.parent().unwrap_or(directory))
}
