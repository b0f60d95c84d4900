//! The snapshot thread: reads copies of the database for peers, and builds a database from a peer's
//! copy.

use std::sync::Arc;
use std::time::Duration;

use super::copy_log::SentLog;
use super::core_lock::CoreLock;
use super::heartbeat::ThreadKind;
use super::sync;
use super::work::{Event, SnapshotWork};
use crate::core::Input;
use crate::{SnapshotInstaller, SnapshotServer, Snapshots};

/// A copy that no peer has asked for during this time is released: it keeps files that the database
/// has replaced since.
const KEPT_FOR: Duration = Duration::from_secs(30);

pub fn run_snapshots(core: &CoreLock, snapshots: Arc<dyn Snapshots>) {
    let shared = core.shared();
    let (id, boot) = {
        let status = shared.status();
        (status.core.id, status.core.boot)
    };
    let mut sent = SentLog::default();
    let mut server = SnapshotServer::new(snapshots.clone(), boot);
    let mut installer = SnapshotInstaller::new(snapshots);
    loop {
        let work = if server.holds_copy() { shared.snapshots.drain_within(KEPT_FOR) } else { shared.snapshots.drain() };
        let Some(work) = work else { return };
        shared.beats.works(ThreadKind::Snapshot);
        if work.is_empty() {
            server.release();
            sent.abandon(id);
            shared.status().sending.clear();
        }
        for item in work {
            match item {
                SnapshotWork::Read(read) => {
                    let piece = server.read(&read);
                    let now = sync::now();
                    sent.sent(id, &piece, now);
                    shared.status().sending = sent.in_progress(now);
                    core.submit(Event::Input(Input::SnapshotRead(piece)));
                }
                SnapshotWork::Install(step) => {
                    if let Some(event) = installer.perform(step) {
                        core.submit(Event::Input(Input::Installed(event)));
                    }
                }
            }
            shared.beats.works(ThreadKind::Snapshot);
        }
        shared.beats.waits(ThreadKind::Snapshot);
    }
}
