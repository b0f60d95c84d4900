//! The thread that writes the log. It alone may block, on a pipe that nobody reads or on a disk
//! that hangs.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Level;

use super::Shared;
use super::queue::Drops;
use super::record::Record;

/// How often held-back and dropped lines are checked while nothing is logged.
const TICK: Duration = Duration::from_secs(1);
/// The pause between attempts to write to a full pipe that another process has made non-blocking.
const NON_BLOCKING_PAUSE: Duration = Duration::from_millis(20);

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    StandardError,
    File(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::StandardError => f.write_str("standard error"),
            Target::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Target {
    pub fn open(&self) -> io::Result<File> {
        match self {
            // The standard library's handle would hold its lock while a write blocks, and every
            // other use of standard error would block with it.
            Target::StandardError => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            Target::File(path) => open_file(path),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Opening a named pipe would block until it has a reader.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        return Err(io::Error::other("it is a named pipe, and only a file can be opened again"));
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Owns the open file; the body of the writer's thread.
pub struct Writer {
    shared: Arc<Shared>,
    file: File,
    /// The last write ended within a line.
    is_within_line: bool,
    /// When to check for held-back lines next.
    next_look: Instant,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, file: File) -> Writer {
        Writer { shared, file, is_within_line: false, next_look: Instant::now() + TICK }
    }

    /// Writes for as long as the process lives.
    pub fn run(mut self) {
        loop {
            self.round(TICK);
        }
    }

    fn round(&mut self, patience: Duration) {
        let batch = self.shared.queue.take(patience);
        self.write_all(&batch.lines);
        // After the lines that still fitted into the queue, and before those that fit again.
        self.tell_of_drops();
        if batch.reopen {
            self.reopen();
        }
        self.shared.queue.done(&batch);
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + TICK;
            self.shared.log_overdue(now);
        }
    }

    fn write_all(&mut self, lines: &[u8]) {
        if let Err((written, error)) = self.write(lines) {
            let lost = lines[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.shared.dropped.inc_by(lost);
            self.shared.queue.add_drops(Drops { lines: lost, error: Some(error.to_string()) });
        }
    }

    /// On an error, also returns how many bytes were written.
    fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.is_within_line {
            self.write_some(b"\n").map_err(|error| (0, error))?;
            self.is_within_line = false;
        }
        let mut written = 0;
        while written < lines.len() {
            match self.write_some(&lines[written..]) {
                Ok(more) => written += more,
                Err(error) => {
                    self.is_within_line = written > 0 && lines[written - 1] != b'\n';
                    return Err((written, error));
                }
            }
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(NON_BLOCKING_PAUSE),
                result => return result,
            }
        }
    }

    /// Retried in each round until it succeeds, so that the problem ends even if nothing else is
    /// logged.
    fn tell_of_drops(&mut self) {
        let drops = self.shared.queue.take_drops();
        if drops.lines == 0 {
            return;
        }
        let because = match &drops.error {
            Some(error) => format!("they could not be written: {error}"),
            None => "the output was not read in time".to_string(),
        };
        let message = format!("log lines were dropped here: {because}");
        let record = Record::new(Level::WARN, super::TARGET, message).with_count("dropped", drops.lines);
        if let Err((_, error)) = self.write(self.shared.format.line(&record).as_bytes()) {
            self.shared.queue.add_drops(Drops { error: Some(error.to_string()), ..drops });
        }
    }

    fn reopen(&mut self) {
        let Target::File(path) = &self.shared.target else { return };
        let record = match self.shared.target.open() {
            Ok(file) => {
                self.file = file;
                self.is_within_line = false;
                Record::new(Level::INFO, super::TARGET, "opened the log file again".to_string())
            }
            Err(error) => {
                let message = "cannot open the log file again, and continue with the old one. Remove the cause, then \
                               send SIGHUP again";
                Record::new(Level::WARN, super::TARGET, message.to_string()).with("error", error)
            }
        };
        self.shared.log(record.with("path", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use kv_server::config::LogFormat;

    use super::*;
    use crate::logging::format::Format;

    const NOW: Duration = Duration::ZERO;

    fn shared(target: Target) -> Arc<Shared> {
        Arc::new(Shared::new(target, Format { kind: LogFormat::Text, colours: false }))
    }

    /// A writer to this file.
    fn writer_to(path: &Path) -> (Writer, Arc<Shared>) {
        let shared = shared(Target::File(path.to_path_buf()));
        (Writer::new(shared.clone(), shared.target.open().expect("it opens")), shared)
    }

    fn read(path: &Path) -> String {
        let mut text = String::new();
        File::open(path).and_then(|mut file| file.read_to_string(&mut text)).expect("a file");
        text
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted_and_reported_once_there_is_space() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let (mut writer, shared) = writer_to(&path);
        writer.file = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
        shared.queue.push(b"one\ntwo\n");
        writer.round(NOW);
        let drops = shared.queue.drops();
        assert_eq!((drops.lines, shared.dropped.get()), (2, 2));
        assert!(drops.error.is_some_and(|error| error.contains("No space left")));
        assert_eq!(shared.problems().len(), 1);

        // Nothing else is logged meanwhile.
        writer.file = shared.target.open().expect("it opens");
        writer.round(NOW);
        let text = read(&path);
        assert!(text.contains(" WARN ") && text.contains("No space left") && text.ends_with("dropped=2\n"), "{text}");
        assert_eq!(shared.problems(), []);
        assert_eq!(shared.dropped.get(), 2, "counted once");
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let (mut writer, _shared) = writer_to(&path);
        writer.file.write_all(b"hal").expect("written");
        writer.is_within_line = true;
        writer.write(b"whole\n").expect("written");
        assert_eq!(read(&path), "hal\nwhole\n");
    }

    #[test]
    fn a_file_that_was_renamed_is_opened_again_behind_the_lines_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let (mut writer, shared) = writer_to(&path);
        std::fs::rename(&path, &old).expect("renamed");
        shared.queue.push(b"before\n");
        shared.queue.reopen();
        writer.round(NOW);
        writer.round(NOW);
        assert_eq!(read(&old), "before\n");
        assert!(read(&path).contains("opened the log file again"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_leaves_the_old_one_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let (mut writer, shared) = writer_to(&path);
        std::fs::rename(&path, &old).expect("renamed");
        std::fs::create_dir(&path).expect("in its place");
        shared.queue.reopen();
        writer.round(NOW);
        writer.round(NOW);
        assert!(read(&old).contains("cannot open the log file again"), "{}", read(&old));
    }

    #[test]
    fn a_pipe_is_refused_instead_of_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let error = Target::File(path).open().expect_err("a pipe").to_string();
        assert!(error.contains("it is a named pipe"), "{error}");
    }
}
