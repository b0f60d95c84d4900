//! Builds a database from a peer's copy, step by step.

use std::sync::Arc;

use super::{SnapshotSink, Snapshots};
use crate::ExecutionError;
use crate::core::{InstallEvent, InstallStep};
use crate::seldom::Seldom;

pub struct SnapshotInstaller {
    snapshots: Arc<dyn Snapshots>,
    building: Option<Building>,
    complaints: Seldom,
}

struct Building {
    generation: u64,
    sink: Box<dyn SnapshotSink>,
    written: u64,
}

impl SnapshotInstaller {
    pub fn new(snapshots: Arc<dyn Snapshots>) -> Self {
        SnapshotInstaller { snapshots, building: None, complaints: Seldom::new() }
    }

    /// What came of it, when there is something to tell. Steps for a database that failed before are passed over.
    pub fn carry_out(&mut self, step: InstallStep) -> Option<InstallEvent> {
        let generation = match (&step, &self.building) {
            (InstallStep::Begin { generation }, _) => *generation,
            (_, Some(building)) => building.generation,
            (_, None) => return None,
        };
        match self.try_carry_out(step) {
            Ok(event) => event,
            Err(error) => {
                if let Some(held_back) = self.complaints.may_speak() {
                    tracing::warn!(
                        generation, %error, held_back,
                        "cannot build a database from a peer's copy; another copy is fetched"
                    );
                }
                self.building = None;
                Some(InstallEvent::Failed { generation })
            }
        }
    }

    fn try_carry_out(&mut self, step: InstallStep) -> Result<Option<InstallEvent>, ExecutionError> {
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
                let building = self.building.as_mut().expect("the caller looked");
                building.written += bytes.len() as u64;
                building.sink.write(bytes)?;
                Ok(Some(InstallEvent::Written { generation: building.generation, bytes: building.written }))
            }
            InstallStep::Finish => {
                let building = self.building.take().expect("the caller looked");
                let state = building.sink.finish()?;
                Ok(Some(InstallEvent::Finished { generation: building.generation, state }))
            }
        }
    }
}
