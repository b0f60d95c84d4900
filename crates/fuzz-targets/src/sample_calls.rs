//! The sample calls and replies of the codec's own tests, as seeds.

// Written for a module of `kv-api`, where they are private to its tests.
#[path = "../../kv-api/src/thrift/wire/tests/samples.rs"]
mod samples;

pub(crate) use samples::{calls, replies};
