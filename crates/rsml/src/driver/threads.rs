//! Starts the four threads of a replica: core, log, apply and snapshot.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::apply_thread::run_apply;
use super::core_lock::CoreLock;
use super::failure::Failure;
use super::heartbeat::ThreadKind;
use super::log_thread::{DiskSpace, run_log};
use super::options::ReplicaOptions;
use super::snapshot_thread::run_snapshots;
use super::sync::thread::{self, JoinHandle};
use super::work::Event;
use crate::{Applier, ExecutionNotifier, Storage};

pub fn spawn<S: Storage, E: ExecutionNotifier>(
    core: &Arc<CoreLock>,
    options: &ReplicaOptions,
    storage: S,
    applier: Applier<E>,
) -> Vec<JoinHandle<()>> {
    let id = options.core.me;
    let disks = DiskSpace { has_space: options.has_space.clone(), has_ample_space: options.has_ample_space.clone() };
    let flush_after_bytes = options.flush_after_log_bytes;
    let named = |what: &str| thread::Builder::new().name(format!("rsml-{what}-{id}"));
    let (a, b, c, d) = (core.clone(), core.clone(), core.clone(), core.clone());
    let snapshots = applier.executor().snapshots();
    [
        named("core").spawn(move || a.run()),
        named("log").spawn(move || guard(&b, ThreadKind::Log, || run_log(&b, storage, &disks))),
        named("apply").spawn(move || guard(&c, ThreadKind::Apply, || run_apply(&c, applier, flush_after_bytes))),
        named("snapshot").spawn(move || guard(&d, ThreadKind::Snapshot, || run_snapshots(&d, snapshots))),
    ]
    .into_iter()
    .map(|thread| thread.expect("the system can start a thread"))
    .collect()
}

/// Ends the replica if `run` panics: without one of its threads it would wait forever.
fn guard(core: &CoreLock, thread: ThreadKind, run: impl FnOnce()) {
    let ended = catch_unwind(AssertUnwindSafe(run));
    core.shared().beats.has_ended(thread);
    if ended.is_err() {
        core.submit(Event::Failed(Failure::invariant()));
    }
}
