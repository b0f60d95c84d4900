//! The parts of a recovered log: its segments, the index of its entries, and where it continues.

use std::collections::VecDeque;

use super::disk::DiskFile;
use super::format::{GroupHeader, Truncations};
use super::index::LogIndex;
use crate::{HardState, Sequence};

/// A segment in use.
pub(super) struct Segment {
    pub number: u64,
    pub id: u64,
    pub bytes: u64,
    pub file: Box<dyn DiskFile>,
}

/// All that writing and reading need to know about a log. Recovery finds it out.
pub(super) struct LogState {
    /// Oldest first; never empty. The newest one is written to.
    pub segments: VecDeque<Segment>,
    /// Lists the same segments in the same order.
    pub index: LogIndex,
    pub tail: LogTail,
    /// The offset of the next group in the newest segment.
    pub write_offset: u64,
}

/// The values that the header of the next group must continue or repeat.
#[derive(Clone, Debug, Default)]
pub(super) struct LogTail {
    pub next_group: u64,
    pub hard_state: Option<HardState>,
    pub previous_lowest_changed: Sequence,
    pub truncations: Truncations,
}

impl LogTail {
    /// Advances to the end of the group with this header.
    pub fn advance_past(&mut self, header: &GroupHeader) {
        let number = header.position.group_number;
        self.next_group = number + 1;
        self.hard_state = header.hard_state;
        self.previous_lowest_changed = header.lowest_changed;
        if let Some(context) = &header.context {
            self.truncations = context.truncations;
        }
        if let Some(from) = header.truncated_from() {
            self.truncations.push(number, from);
        }
    }
}
