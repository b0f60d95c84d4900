//! How an operation stands in the consensus log. Fields are added with new numbers only, so that a later version reads
//! the log of an earlier one.

use bytes::Bytes;
use kv_api::AtomicCommit;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct LoggedOperation {
    #[prost(message, optional, tag = "1")]
    commit: Option<AtomicCommit>,
}

pub fn encode(commit: AtomicCommit) -> Bytes {
    LoggedOperation { commit: Some(commit) }.encode_to_vec().into()
}

/// An operation that this version does not know is an error: to pass over it would let the replicas differ.
pub fn decode(payload: Bytes) -> Result<AtomicCommit, String> {
    let operation =
        LoggedOperation::decode(payload).map_err(|error| format!("an operation in the log is damaged: {error}"))?;
    operation.commit.ok_or_else(|| "the log holds an operation of a newer version of this program".to_string())
}
