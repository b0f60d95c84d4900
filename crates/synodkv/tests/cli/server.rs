//! A server process for a test, with its own ports and data. It ends with the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub use crate::signals::send_signal;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_synodkv");

pub struct Server {
    process: Child,
    pub thrift: String,
    pub admin: String,
    /// The `ready` line that it printed.
    pub ready: String,
    data_dir: PathBuf,
    /// Removed after the server has ended.
    _folder: Option<tempfile::TempDir>,
}

/// An unused address. A listener was bound to it a moment ago, so no other process uses it.
pub fn unused_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

/// An address that accepts connections and never answers, like a process that hangs.
pub fn silent_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        let connections: Vec<_> = listener.incoming().collect();
        drop(connections);
    });
    address
}

impl Server {
    /// A standalone server that keeps its rows in memory.
    pub fn start() -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::start_in(folder.path(), "memory");
        server._folder = Some(folder);
        server
    }

    /// A standalone server with settings from the environment.
    pub fn start_with(settings: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--mode", "standalone", "--thrift-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .env("SYNODKV_STORAGE_ENGINE", "memory")
            .envs(settings.iter().copied())
            .stderr(Stdio::null());
        let mut server = Server::start_by(&mut command, folder.path().join("data"));
        server._folder = Some(folder);
        server
    }

    pub fn start_in(folder: &Path, engine: &str) -> Server {
        let data_dir = folder.join("data");
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--mode", "standalone", "--thrift-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .env("SYNODKV_STORAGE_ENGINE", engine)
            .stderr(Stdio::null());
        Server::start_by(&mut command, data_dir)
    }

    /// Adds the data directory to a `serve` command, starts it, and waits for its `ready` line.
    pub fn start_by(command: &mut Command, data_dir: PathBuf) -> Server {
        command.arg("--data-dir").arg(&data_dir).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program runs");
        let mut ready = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut ready).expect("a line");
        let after = |words: &str| {
            let rest = ready.split_once(words).unwrap_or_else(|| panic!("not ready: {ready:?}")).1;
            rest.split([',', ' ']).next().expect("split gives one part at least").to_string()
        };
        assert!(ready.starts_with("ready"), "{ready:?}");
        let (thrift, admin) = (after("Thrift on "), after("admin on http://"));
        Server { process, thrift, admin, ready, data_dir, _folder: None }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Closes the pipe that a server writes its log to.
    pub fn stop_reading_the_log(&mut self) {
        self.process.stderr.take().expect("piped");
    }

    /// Sends a signal, waits for the end, and returns the exit status.
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        send_signal(self.process.id(), signal);
        self.process.wait().expect("it was started here").code()
    }

    /// Stops the process, so that it answers nobody until it is resumed.
    pub fn pause(&self) {
        send_signal(self.process.id(), "STOP");
    }

    pub fn resume(&self) {
        send_signal(self.process.id(), "CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process has ended already if the test stopped it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
