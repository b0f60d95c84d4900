//! Serves pieces of a copy of the database, or of the library's own state alone. There is one copy
//! of each kind at a time, made when a peer first asks for it.

use std::sync::Arc;

use bytes::Bytes;

use super::{SnapshotSource, Snapshots};
use crate::core::{SnapshotPiece, SnapshotRead};
use crate::log_throttle::LogThrottle;
use crate::value::ReplicatedState;
use crate::{Boot, ExecutionError, Sequence};

/// Reads the pieces that the core asks for on behalf of peers.
pub struct SnapshotServer {
    snapshots: Arc<dyn Snapshots>,
    held: Option<HeldCopy>,
    /// The state alone, for witnesses.
    held_state: Option<HeldCopy>,
    last_id: u64,
    complaints: LogThrottle,
}

struct HeldCopy {
    id: u64,
    sequence: Sequence,
    source: Box<dyn SnapshotSource>,
}

impl SnapshotServer {
    /// `boot` is part of the copies' ids, so that a copy is never mistaken for one of an earlier
    /// start.
    pub fn new(snapshots: Arc<dyn Snapshots>, boot: Boot) -> Self {
        SnapshotServer {
            snapshots,
            held: None,
            held_state: None,
            last_id: boot.0 << 32,
            complaints: LogThrottle::new(),
        }
    }

    /// Whether there is a copy.
    pub fn holds_copy(&self) -> bool {
        self.held.is_some() || self.held_state.is_some()
    }

    /// Releases the copy.
    pub fn release(&mut self) {
        self.held = None;
        self.held_state = None;
    }

    /// Returns the wanted piece. If its copy no longer exists, returns the beginning of another
    /// copy. If no copy can be made, or the copy is too old for the peer, returns a piece with id
    /// 0.
    pub fn read(&mut self, want: &SnapshotRead) -> SnapshotPiece {
        self.try_read(want).unwrap_or_else(|error| {
            if let Some(held_back) = self.complaints.allow() {
                tracing::warn!(
                    peer = want.peer.0, %error, held_back,
                    "cannot give a peer the copy of the database that it needs; it will ask again"
                );
            }
            let (id, sequence) = (0, Sequence::ZERO);
            SnapshotPiece { peer: want.peer, id, offset: 0, total_bytes: 0, sequence, bytes: Bytes::new() }
        })
    }

    fn try_read(&mut self, want: &SnapshotRead) -> Result<SnapshotPiece, ExecutionError> {
        let is_same = |held: &HeldCopy| held.id == want.id;
        let is_new_enough = |held: &HeldCopy| held.sequence >= want.at_least;
        let kept = if want.state_only { &self.held_state } else { &self.held };
        if !kept.as_ref().is_some_and(|held| is_same(held) || is_new_enough(held)) {
            match want.state_only {
                true => self.held_state = Some(self.take_state()?),
                false => {
                    // Release the old copy first: two copies would keep twice the files.
                    self.held = None;
                    self.held = Some(self.take()?);
                }
            }
        }
        let kept = if want.state_only { &mut self.held_state } else { &mut self.held };
        let held = kept.as_mut().expect("there is a copy now");
        if !is_new_enough(held) {
            let text = format!("the copy would end at sequence {}, but {} is needed", held.sequence, want.at_least);
            return Err(ExecutionError::failed(text));
        }
        let total_bytes = held.source.total_bytes();
        let offset = if is_same(held) { want.offset.min(total_bytes) } else { 0 };
        let length = (total_bytes - offset).min(want.max_bytes as u64) as usize;
        let bytes = held.source.read(offset, length)?;
        Ok(SnapshotPiece { peer: want.peer, id: held.id, offset, total_bytes, sequence: held.sequence, bytes })
    }

    fn take(&mut self) -> Result<HeldCopy, ExecutionError> {
        let copy = self.snapshots.take()?;
        self.hold(&copy.state, copy.source)
    }

    fn take_state(&mut self) -> Result<HeldCopy, ExecutionError> {
        let state = self.snapshots.take_state()?;
        self.hold(&state, Box::new(StateAlone(state.clone())))
    }

    fn hold(&mut self, state: &Bytes, source: Box<dyn SnapshotSource>) -> Result<HeldCopy, ExecutionError> {
        let state = ReplicatedState::from_bytes(state)
            .ok_or_else(|| ExecutionError::corrupt("the copy holds a replicated state that cannot be read"))?;
        self.last_id += 1;
        Ok(HeldCopy { id: self.last_id, sequence: state.sequence, source })
    }
}

/// The bytes of a state are its copy.
struct StateAlone(Bytes);

impl SnapshotSource for StateAlone {
    fn total_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, ExecutionError> {
        let begin = usize::try_from(offset).expect("it lies within a state in memory");
        Ok(self.0.slice(begin..begin + length))
    }
}
