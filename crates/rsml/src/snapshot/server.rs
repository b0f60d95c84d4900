//! Serves pieces of a copy of the database: one copy at a time, made when it is first asked for.

use std::sync::Arc;

use bytes::Bytes;

use super::{SnapshotSource, Snapshots};
use crate::core::{SnapshotPiece, SnapshotRead};
use crate::seldom::Seldom;
use crate::value::ReplicatedState;
use crate::{Boot, ExecutionError, Sequence};

pub struct SnapshotServer {
    snapshots: Arc<dyn Snapshots>,
    held: Option<Held>,
    last_id: u64,
    complaints: Seldom,
}

struct Held {
    id: u64,
    sequence: Sequence,
    source: Box<dyn SnapshotSource>,
}

impl SnapshotServer {
    /// `boot`: of this start, so that a copy is never taken for one of a former start.
    pub fn new(snapshots: Arc<dyn Snapshots>, boot: Boot) -> Self {
        SnapshotServer { snapshots, held: None, last_id: boot.0 << 32, complaints: Seldom::new() }
    }

    pub fn holds_copy(&self) -> bool {
        self.held.is_some()
    }

    /// Lets go of the copy.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// The piece asked for. When the copy that it was to be of is gone, the beginning of another one; when none can be
    /// made, or it is too old, a piece without id.
    pub fn read(&mut self, want: &SnapshotRead) -> SnapshotPiece {
        self.try_read(want).unwrap_or_else(|error| {
            if let Some(held_back) = self.complaints.may_speak() {
                tracing::warn!(
                    peer = want.peer.0, %error, held_back,
                    "cannot give a peer the copy of the database that it needs; it asks again"
                );
            }
            let (id, sequence) = (0, Sequence::ZERO);
            SnapshotPiece { peer: want.peer, id, offset: 0, total_bytes: 0, sequence, bytes: Bytes::new() }
        })
    }

    fn try_read(&mut self, want: &SnapshotRead) -> Result<SnapshotPiece, ExecutionError> {
        let is_same = |held: &Held| held.id == want.id;
        let is_new_enough = |held: &Held| held.sequence >= want.at_least;
        let is_kept = self.held.as_ref().is_some_and(|held| is_same(held) || is_new_enough(held));
        if !is_kept {
            // The former one first: two copies would hold twice the files.
            self.held = None;
            self.held = Some(self.take()?);
        }
        let held = self.held.as_mut().expect("it was taken just now");
        if !is_new_enough(held) {
            let text = format!("it would hold sequences through {}, {} is needed", held.sequence, want.at_least);
            return Err(ExecutionError::failed(text));
        }
        let total_bytes = held.source.total_bytes();
        let offset = if is_same(held) { want.offset.min(total_bytes) } else { 0 };
        let length = (total_bytes - offset).min(want.max_bytes as u64) as usize;
        let bytes = held.source.read(offset, length)?;
        Ok(SnapshotPiece { peer: want.peer, id: held.id, offset, total_bytes, sequence: held.sequence, bytes })
    }

    fn take(&mut self) -> Result<Held, ExecutionError> {
        let copy = self.snapshots.take()?;
        let state = ReplicatedState::from_bytes(&copy.state)
            .ok_or_else(|| ExecutionError::corrupt("the copy holds a replicated state that cannot be read"))?;
        self.last_id += 1;
        Ok(Held { id: self.last_id, sequence: state.sequence, source: copy.source })
    }
}
