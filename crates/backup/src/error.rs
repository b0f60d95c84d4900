//! Why something was not done with a backup. Variants are named after the caller's next step.

/// An error about a backup or its target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// The caller asked for something wrong: a URL, a key file, a backup that does not exist.
    #[error("{0}")]
    Input(String),
    /// Backups or their target do not allow it.
    #[error("{0}")]
    Refused(String),
    /// The point lies outside what can be restored: ask for another one.
    #[error("{asked} cannot be restored; what can be: {windows}")]
    NotRestorable {
        /// The point, in words.
        asked: String,
        /// The oldest version that can be restored.
        oldest: u64,
        /// The newest one.
        newest: u64,
        /// All of them, in words.
        windows: String,
    },
    /// An object is missing, cut short or changed: use another backup.
    #[error("{object}: {reason}")]
    Damaged {
        /// The object's place in its target.
        object: String,
        /// Its fault.
        reason: String,
    },
    /// The store failed or cannot be reached: try again later.
    #[error("{0}")]
    Unavailable(String),
}

impl BackupError {
    pub(crate) fn damaged(object: impl std::fmt::Display, reason: impl std::fmt::Display) -> Self {
        BackupError::Damaged { object: object.to_string(), reason: reason.to_string() }
    }
}
