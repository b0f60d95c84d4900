//! The two modes of a server.

use serde::{Deserialize, Serialize};

/// How writes become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One database, no consensus.
    Standalone,
    /// A quorum of replicas agrees on every write.
    Replicated,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Standalone => "standalone",
            Mode::Replicated => "replicated",
        })
    }
}
