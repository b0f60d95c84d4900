//! The thread that writes the audit log. It alone waits for the disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntCounter;
use tokio::sync::mpsc::Receiver;

use super::line::Line;

/// How many lines are written together.
const BATCH: usize = 1_024;

/// Counts the requests to open the files again. SIGHUP means the process, so one count serves all
/// servers in it.
static REOPENS: AtomicU64 = AtomicU64::new(0);

/// Opens the files of all audit logs of this process again before their next lines, after a
/// rotation.
pub fn reopen_audit_logs() {
    REOPENS.fetch_add(1, Ordering::Release);
}

struct Writer {
    path: PathBuf,
    file: File,
    sync: bool,
    /// The value of [`REOPENS`] when the file was opened.
    opened_at: u64,
    dropped: IntCounter,
    /// Whether the last write failed, so that a lasting fault is logged once.
    is_failing: bool,
}

/// Opens the file and starts the thread, which ends when all senders are gone.
pub(super) fn start(path: PathBuf, sync: bool, mut lines: Receiver<Line>, dropped: IntCounter) -> Result<(), String> {
    let opened_at = REOPENS.load(Ordering::Acquire);
    let file = open(&path)?;
    let mut writer = Writer { path, file, sync, opened_at, dropped, is_failing: false };
    let run = move || {
        let mut batch = Vec::with_capacity(BATCH);
        while lines.blocking_recv_many(&mut batch, BATCH) > 0 {
            writer.write(&batch);
            batch.clear();
        }
    };
    let thread = std::thread::Builder::new().name("audit-writer".into()).spawn(run);
    thread.map(drop).map_err(|error| format!("cannot start the thread of the audit log: {error}"))
}

/// Only the server's user may read it: keys are there.
fn open(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|error| format!("cannot open the audit log {} (audit.file): {error}", path.display()))
}

impl Writer {
    fn write(&mut self, lines: &[Line]) {
        let reopens = REOPENS.load(Ordering::Acquire);
        if std::mem::replace(&mut self.opened_at, reopens) != reopens {
            match open(&self.path) {
                Ok(file) => self.file = file,
                Err(error) => tracing::error!("{error}; it goes on in the file that was open"),
            }
        }
        let text: String = lines.iter().map(Line::to_text).collect();
        let written = self.file.write_all(text.as_bytes());
        match written.and_then(|()| if self.sync { self.file.sync_data() } else { Ok(()) }) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                self.dropped.inc_by(lines.len() as u64);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(file = %self.path.display(), %error, "the audit log cannot be written; lines are lost");
                }
            }
        }
    }
}
