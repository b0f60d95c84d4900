//! Three processes of the real program, which can be killed, and whose links can be cut.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use kv_client::Version;
use serde_json::Value;
use tempfile::TempDir;

use super::certificates::Authority;
use super::configuration::{Member, configuration};
use crate::cluster::{Partitionable, RowsHash, Settings, TestCluster, http_get};
use crate::links::{Link, LinkState};
use crate::signals::send_signal;
use crate::waiting::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_synodkv");
const REPLICAS: usize = 3;
const ROWS_PER_PAGE: u64 = 100_000;
/// How much of each log is printed when a test fails.
const LOG_LINES: usize = 60;

/// The program, without settings from the environment of the test, except for what chooses a
/// planted bug: see the runner of mutations.
pub fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    command.env_clear().envs(std::env::var_os("PLANTED").map(|number| ("PLANTED", number)));
    command
}

/// Sends a signal by its name.
pub fn signal(process: &Child, name: &str) {
    send_signal(process.id(), name);
}

struct Process {
    /// `None` while it does not run.
    child: Option<Child>,
    member: Member,
    file: PathBuf,
    log: PathBuf,
}

impl Process {
    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("a running process")
    }

    fn start(&mut self, node: usize) {
        assert!(self.child.is_none(), "server {node} runs already");
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = program();
        command.args(["serve", "--config"]).arg(&self.file).args(["--node-id", &node.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("the program runs"));
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = self.child();
        let status = eventually("the process ends", async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let status = status.await;
        self.child = None;
        status
    }
}

pub struct ProcessTestCluster {
    processes: Vec<Process>,
    links: Vec<Link>,
    isolation: LinkState,
    folder: TempDir,
}

impl ProcessTestCluster {
    pub fn config_file(&self, server: usize) -> &Path {
        &self.processes[server].file
    }

    pub fn data_dir(&self, server: usize) -> PathBuf {
        data_dir(self.folder.path(), server)
    }

    /// Stops the process, which does not notice.
    pub fn pause(&mut self, server: usize) {
        signal(self.processes[server].child(), "STOP");
    }

    pub fn resume(&mut self, server: usize) {
        signal(self.processes[server].child(), "CONT");
    }

    /// Starts a server whose data is gone, as on a new disk.
    pub async fn restart_empty(&mut self, server: usize) {
        std::fs::remove_dir_all(self.data_dir(server)).expect("the data of a server that was ended");
        self.restart(server).await;
    }
}

fn data_dir(folder: &Path, server: usize) -> PathBuf {
    folder.join(format!("data-{server}"))
}

impl TestCluster for ProcessTestCluster {
    async fn start(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let members: Vec<Member> = (0..REPLICAS).map(|_| Member::new()).collect();
        let authority = settings.tls.then(|| Authority::new(folder.path()));
        let mut links = Vec::new();
        let mut processes = Vec::new();
        for (from, member) in members.iter().enumerate() {
            let mut seen = members.clone();
            for (to, seen) in seen.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                let link = Link::start(from, to, members[to].peer.parse().expect("an address")).await;
                seen.peer = link.address.to_string();
                links.push(link);
            }
            let file = folder.path().join(format!("{from}.toml"));
            let text = configuration(&settings, member, &seen, &data_dir(folder.path(), from));
            let tls = authority.as_ref().map_or(String::new(), |authority| authority.section(&[from]));
            std::fs::write(&file, text + &tls).expect("a configuration");
            let log = folder.path().join(format!("{from}.log"));
            processes.push(Process { child: None, member: member.clone(), file, log });
        }
        let mut cluster = ProcessTestCluster { processes, links, isolation: settings.isolation, folder };
        for (node, process) in cluster.processes.iter_mut().enumerate() {
            process.start(node);
        }
        cluster.ready().await;
        cluster
    }

    fn thrift(&self, server: usize) -> String {
        self.processes[server].member.thrift.clone()
    }

    fn admin(&self, server: usize) -> String {
        self.processes[server].member.admin.clone()
    }

    fn servers(&self) -> usize {
        self.processes.len()
    }

    fn is_running(&self, server: usize) -> bool {
        self.processes[server].child.is_some()
    }

    fn replicas(&self) -> usize {
        self.processes.len()
    }

    fn server_of(&self, replica: usize) -> usize {
        replica
    }

    async fn kill(&mut self, server: usize) {
        let process = &mut self.processes[server];
        process.child().kill().expect("a process that has not ended by itself");
        let status = process.ended().await;
        assert_eq!(status.code(), None, "server {server} had ended by itself: {status}");
    }

    async fn stop(&mut self, server: usize) {
        signal(self.processes[server].child(), "TERM");
        let status = self.processes[server].ended().await;
        assert!(status.success(), "server {server}: {status}");
    }

    async fn restart(&mut self, server: usize) {
        self.processes[server].start(server);
        let admin = self.admin(server);
        let process = &mut self.processes[server];
        eventually(&format!("server {server} listens"), async || {
            if let Ok(Some(status)) = process.child().try_wait() {
                panic!("server {server} ended instead of starting: {status}");
            }
            http_get(&admin, "/health/live").await
        })
        .await;
    }

    /// Kills all before it waits for any of them.
    async fn kill_all(&mut self) {
        for process in self.processes.iter_mut().filter(|process| process.child.is_some()) {
            process.child().kill().expect("a process that has not ended by itself");
        }
        for server in self.running() {
            self.processes[server].ended().await;
        }
    }

    async fn stop_all(&mut self) {
        for process in self.processes.iter_mut().filter(|process| process.child.is_some()) {
            signal(process.child(), "TERM");
        }
        for server in self.running() {
            let status = self.processes[server].ended().await;
            assert!(status.success(), "server {server}: {status}");
        }
    }

    fn panics(&self) -> Vec<String> {
        let logs = self.processes.iter().map(|process| std::fs::read_to_string(&process.log).expect("a log"));
        logs.flat_map(|log| {
            log.lines().filter(|line| line.contains("panicked at")).map(str::to_string).collect::<Vec<_>>()
        })
        .collect()
    }

    async fn rows_hash(&self, replica: usize, version: Version) -> RowsHash {
        let mut sum = RowsHash { count: 0, hashes: Vec::new() };
        let mut begin = String::new();
        loop {
            let path = format!("/rows/hash?version={version}&begin={begin}&limit={ROWS_PER_PAGE}&replica={replica}");
            let page =
                eventually(&format!("replica {replica} has applied version {version}"), async || {
                    match http_get(&self.admin(replica), &path).await? {
                        (200, page) => Ok(serde_json::from_str::<Value>(&page).expect("JSON")),
                        (code, reason) => Err(format!("{code}: {reason}")),
                    }
                })
                .await;
            sum.count += page["count"].as_u64().expect("a number");
            sum.hashes.push(page["hash"].to_string());
            match page["next"].as_str() {
                Some(next) => begin = next.to_string(),
                None => return sum,
            }
        }
    }
}

impl Partitionable for ProcessTestCluster {
    fn isolate(&self, server: usize) {
        for link in self.links.iter().filter(|link| link.from == server || link.to == server) {
            link.set(self.isolation);
        }
    }

    /// Each replica receives only over the connections that it accepts.
    fn cut_one_way(&self, from: usize, to: usize) {
        for link in self.links.iter().filter(|link| (link.from, link.to) == (from, to)) {
            link.set(self.isolation);
        }
    }

    fn heal(&self) {
        for link in &self.links {
            link.set(LinkState::Open);
        }
    }
}

impl Drop for ProcessTestCluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if let Some(child) = &mut process.child {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for (server, process) in self.processes.iter().enumerate() {
                let log = std::fs::read_to_string(&process.log).unwrap_or_else(|error| error.to_string());
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                eprintln!("--- the log of server {server} ends so ---\n{}", last.join("\n"));
            }
        }
    }
}
