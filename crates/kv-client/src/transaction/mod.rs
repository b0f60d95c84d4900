//! Transactions: what one has read, what it will write, and its commit.

mod attempt;
mod commit;
mod conflicts;
mod merge;
#[cfg(test)]
mod model_tests;
mod mutate;
mod range_set;
mod read;
mod state;
mod stream;
mod writes;

pub use attempt::Transaction;
pub use read::Snapshot;
pub use stream::RangeStream;
