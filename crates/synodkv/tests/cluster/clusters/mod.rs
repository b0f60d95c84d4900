//! The kinds of clusters.

mod certificates;
mod configuration;
mod in_process;
mod process;
mod replicated;
mod standalone;

pub use configuration::{Member, configuration};
pub use process::{ProcessTestCluster, program, signal};
pub use replicated::{InMemoryTestCluster, TcpTestCluster};
pub use standalone::StandaloneTestCluster;
