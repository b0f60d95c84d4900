//! Why a step of a recovery was not done.

use kv_api::KvError;
use rsml::{ExecutionError, StorageError};

use crate::data_dir::DataDirError;

/// Why a step of a recovery was not done. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Another command line or another input file is needed. Nothing was done.
    #[error("{0}")]
    Input(String),
    /// It must not be done, or not so. Nothing was done.
    #[error("{0}")]
    Refused(String),
    /// The machine failed. Repeating the step continues it.
    #[error("{0}")]
    Failed(String),
}

impl RecoverError {
    /// A failure to do `what`.
    pub(super) fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> RecoverError + use<> {
        let what = what.to_owned();
        move |error| RecoverError::Failed(format!("cannot {what}: {error}"))
    }
}

impl From<DataDirError> for RecoverError {
    fn from(error: DataDirError) -> Self {
        match error {
            DataDirError::Io { .. } => RecoverError::Failed(error.to_string()),
            _ => RecoverError::Refused(error.to_string()),
        }
    }
}

impl From<StorageError> for RecoverError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Damaged { path, reason } => RecoverError::Refused(format!(
                "the log in {path} is damaged: {reason}. What it held last is not known, so it can be neither started nor \
                 kept; use another survivor"
            )),
            error => RecoverError::Failed(error.to_string()),
        }
    }
}

impl From<KvError> for RecoverError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::InvalidOperation(_) => RecoverError::Input(error.to_string()),
            error => RecoverError::Failed(error.to_string()),
        }
    }
}

impl From<ExecutionError> for RecoverError {
    fn from(error: ExecutionError) -> Self {
        RecoverError::Failed(format!("cannot apply the log: {error}"))
    }
}
