//! Builds a database from a peer's copy, step by step.

use std::sync::Arc;

use super::{SnapshotSink, Snapshots};
use crate::ExecutionError;
use crate::core::{InstallEvent, InstallStep};
use crate::log_throttle::LogThrottle;

/// Performs the steps of the core that build a database from a peer's copy.
pub struct SnapshotInstaller {
    snapshots: Arc<dyn Snapshots>,
    building: Option<Building>,
    complaints: LogThrottle,
}

struct Building {
    generation: u64,
    sink: Box<dyn SnapshotSink>,
    written: u64,
}

impl SnapshotInstaller {
    /// Builds databases with `snapshots`.
    pub fn new(snapshots: Arc<dyn Snapshots>) -> Self {
        SnapshotInstaller { snapshots, building: None, complaints: LogThrottle::new() }
    }

    /// Performs a step, and returns its result if the core needs to know it. Ignores further steps
    /// for a database that has failed.
    pub fn perform(&mut self, step: InstallStep) -> Option<InstallEvent> {
        let generation = match (&step, &self.building) {
            (InstallStep::Begin { generation }, _) => *generation,
            (_, Some(building)) => building.generation,
            (_, None) => return None,
        };
        match self.try_perform(step) {
            Ok(event) => event,
            Err(error) => {
                if let Some(held_back) = self.complaints.allow() {
                    tracing::warn!(
                        generation, %error, held_back,
                        "cannot build a database from a peer's copy; fetching another one"
                    );
                }
                self.building = None;
                Some(InstallEvent::Failed { generation })
            }
        }
    }

    fn try_perform(&mut self, step: InstallStep) -> Result<Option<InstallEvent>, ExecutionError> {
        match step {
            InstallStep::Begin { generation } => {
                self.building = None;
                let sink = self.snapshots.begin_install(generation)?;
                self.building = Some(Building { generation, sink, written: 0 });
                Ok(None)
            }
            InstallStep::Abort => {
                self.building = None;
                Ok(None)
            }
            InstallStep::Write(bytes) => {
                let building = self.building.as_mut().expect("the caller checked");
                building.written += bytes.len() as u64;
                building.sink.write(bytes)?;
                Ok(Some(InstallEvent::Written { generation: building.generation, bytes: building.written }))
            }
            InstallStep::Finish => {
                let building = self.building.take().expect("the caller checked");
                let state = building.sink.finish()?;
                Ok(Some(InstallEvent::Finished { generation: building.generation, state }))
            }
        }
    }
}
