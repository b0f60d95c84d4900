//! The error of a server that cannot start.

use kv_api::KvError;

use crate::budget::TooSmall;
use crate::data_dir::DataDirError;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot open the database in {path}: {source}")]
    Database { path: String, source: KvError },
    #[error(
        "{reason}; restore {path} from a backup (or repair the disk), and start again: a standalone server has no other \
         copy of its data, and does not start with an empty database by itself"
    )]
    Damaged { path: String, reason: String },
    #[error("cannot listen on {address} ({key}): {source}; choose another address, or stop the process that uses it")]
    Listen { key: String, address: String, source: std::io::Error },
    #[error("{0}")]
    Certificates(String),
    /// The audit log, or the keys of JWTs.
    #[error("{0}")]
    Access(String),
    #[error("cannot start replication: {0}")]
    Replication(String),
    /// A limit of the system is too small. Nothing was opened yet.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
}

impl ServerError {
    pub(crate) fn listen<A: ToString>(key: &str, address: A) -> impl FnOnce(std::io::Error) -> ServerError + use<A> {
        let (key, address) = (key.to_string(), address.to_string());
        move |source| ServerError::Listen { key, address, source }
    }
}
