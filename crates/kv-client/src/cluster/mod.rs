//! The replicas of a cluster: their addresses, which one is the primary, which ones can be reached,
//! and which one gets a request.
//!
//! A replica that failed is *suspected*. Requests go to others, and a background probe finds out
//! when it is back, so that no request waits for a replica that is gone. An address that the
//! cluster reports is suspected at first, because it may not be reachable from here; until it
//! answers, the addresses given by the program are used.
//!
//! Every replica serves every request, so nothing here affects correctness, only how soon an answer
//! comes.

mod attempts;
mod call;
mod discovery;
mod handle;
mod members;
mod state;

pub(crate) use call::Answer;
pub(crate) use handle::Cluster;
