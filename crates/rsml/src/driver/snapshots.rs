//! The snapshot thread: copies of the database for peers, and the database that is being built from a peer's copy.

use std::sync::Arc;
use std::time::Duration;

use super::copy_log::SentLog;
use super::heartbeat::ThreadKind;
use super::replica::Shared;
use super::{Event, sync};
use crate::core::{Input, InstallStep, SnapshotRead};
use crate::{SnapshotInstaller, SnapshotServer, Snapshots};

pub enum SnapshotWork {
    Read(SnapshotRead),
    Install(InstallStep),
}

/// A copy that nobody has asked for this long is let go of: it holds files that the database has replaced since.
const KEPT_FOR: Duration = Duration::from_secs(30);

pub fn run_snapshots(shared: &Shared, snapshots: Arc<dyn Snapshots>) {
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
            sent.let_go(id);
            shared.status().sending.clear();
        }
        for item in work {
            match item {
                SnapshotWork::Read(read) => {
                    let piece = server.read(&read);
                    let now = sync::now();
                    sent.sent(id, &piece, now);
                    shared.status().sending = sent.under_way(now);
                    shared.bring(Event::Input(Input::SnapshotRead(piece)));
                }
                SnapshotWork::Install(step) => {
                    if let Some(event) = installer.carry_out(step) {
                        shared.bring(Event::Input(Input::Installed(event)));
                    }
                }
            }
            shared.beats.works(ThreadKind::Snapshot);
        }
        shared.beats.waits(ThreadKind::Snapshot);
    }
}
