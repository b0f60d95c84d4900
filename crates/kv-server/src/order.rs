//! Orders of an operator that only the primary can carry out: a failover, a higher feature level.

/// Why an order was not carried out, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Only the primary can do it; `admin` is its admin address.
    #[error("replica {primary} is the primary: ask it, at http://{admin}")]
    AskPrimary { primary: u32, admin: String },
    /// Nobody can do it now.
    #[error("no primary is known that could {wanted}: one is elected as soon as a majority of the replicas runs")]
    NoPrimary { wanted: &'static str },
    /// The order is invalid.
    #[error("{0}")]
    Impossible(String),
    /// It cannot be carried out now.
    #[error("{0}")]
    NotNow(String),
    /// It was not carried out before the deadline, and may still be. Asking again does no harm.
    #[error("{0}")]
    TimedOut(String),
}
