//! The processes under test: configuration, start, signals, and what they tell.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Options;
use super::disk::{Disk, DiskKind};
use super::http;
use super::links::{Link, LinkState};
use super::schedule::REPLICAS;

/// How long everything may take to come back once it is healed.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// How long a process may take that was asked to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Replica {
    /// `None` while it is not running.
    child: Option<Child>,
    pub disk: Disk,
    peer: String,
    pub thrift: String,
    admin: String,
    configuration: PathBuf,
    log: PathBuf,
}

impl Replica {
    /// A folder of its own: a new file system is not quite empty.
    fn data_dir(&self) -> PathBuf {
        self.disk.place().join("data")
    }
}

/// Dropped, it kills the processes and unmounts their disks.
pub struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    pub replicas: Vec<Replica>,
    links: Vec<Link>,
}

/// Below the range from which the system takes ports for outgoing connections: while a server is
/// down, nobody else gets its port by chance.
const PORTS: Range<u16> = 12_000..32_000;

/// Ports that are free now, in an order that depends on the process.
pub fn free_addresses() -> impl Iterator<Item = String> {
    let begin = (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    let ports = PORTS.skip(usize::from(begin)).chain(PORTS);
    ports.map(|port| format!("127.0.0.1:{port}")).filter(|address| TcpListener::bind(address).is_ok())
}

impl Cluster {
    /// Disks and addresses; nothing runs yet.
    pub fn prepare(options: &Options) -> Result<Cluster, String> {
        let mut addresses = free_addresses();
        let mut free_address = || addresses.next().ok_or("no free ports".to_string());
        let mut replica = |id: usize| {
            Ok(Replica {
                child: None,
                disk: Disk::create(&options.folder, &format!("disk-{id}"))?,
                peer: free_address()?,
                thrift: free_address()?,
                admin: free_address()?,
                configuration: options.folder.join(format!("{id}.toml")),
                log: options.folder.join(format!("{id}.log")),
            })
        };
        let replicas = (0..REPLICAS).map(&mut replica).collect::<Result<_, String>>()?;
        let (program, folder) = (options.program.clone(), options.folder.clone());
        Ok(Cluster { program, folder, replicas, links: Vec::new() })
    }

    pub fn disks(&self) -> DiskKind {
        self.replicas[0].disk.kind()
    }

    pub async fn start_all(&mut self) -> Result<(), String> {
        for from in 0..REPLICAS {
            let mut peers: Vec<String> = self.replicas.iter().map(|replica| replica.peer.clone()).collect();
            for to in (0..REPLICAS).filter(|to| *to != from) {
                let target = peers[to].parse().map_err(|error| format!("{}: {error}", peers[to]))?;
                let link = Link::start(from, to, target).await.map_err(|error| error.to_string())?;
                peers[to] = link.address.to_string();
                self.links.push(link);
            }
            let text = self.configuration(from, &peers);
            std::fs::write(&self.replicas[from].configuration, text).map_err(|error| error.to_string())?;
        }
        (0..REPLICAS).try_for_each(|replica| self.start(replica))
    }

    /// As replica `own` reads it: it dials the others where their links listen. Little of the log
    /// is kept, so that it is trimmed all the time, and who was away needs a copy of a database.
    fn configuration(&self, own: usize, peers: &[String]) -> String {
        let Replica { thrift, admin, .. } = &self.replicas[own];
        let data_dir = self.replicas[own].data_dir();
        let mut text = format!(
            "mode = \"replicated\"\n[server]\nthrift_addr = \"{thrift}\"\nadmin_addr = \"{admin}\"\n\
             request_timeout_ms = 4000\nno_primary_wait_ms = 2000\n\
             [storage]\ndata_dir = \"{}\"\nwrite_buffer_mb = 16\nblock_cache_mb = 16\n\
             [replication]\nwal_segment_mb = 4\nlog_flush_mb = 16\nlog_keep_mb = 32\n",
            data_dir.display()
        );
        for (id, (replica, peer)) in self.replicas.iter().zip(peers).enumerate() {
            let Replica { thrift, admin, .. } = replica;
            text += &format!(
                "[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n"
            );
        }
        text
    }

    /// Starts a replica that is not running.
    pub fn start(&mut self, replica: usize) -> Result<(), String> {
        let Replica { configuration, log, .. } = &self.replicas[replica];
        let log = File::options().create(true).append(true).open(log).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command.env_clear().args(["serve", "--config"]).arg(configuration);
        command.args(["--node-id", &replica.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.replicas[replica].child = Some(child);
        Ok(())
    }

    pub fn is_running(&self, replica: usize) -> bool {
        self.replicas[replica].child.is_some()
    }

    /// Sends a signal, if there is anybody to get it.
    pub fn signal(&self, replica: usize, name: &str) {
        if let Some(child) = &self.replicas[replica].child {
            // It may just have ended; whoever looks after that finds out.
            let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self, replica: usize) {
        if let Some(mut child) = self.replicas[replica].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How a process ended that should be running, if one did.
    pub fn ended(&mut self, replica: usize) -> Option<ExitStatus> {
        let child = self.replicas[replica].child.as_mut()?;
        let status = child.try_wait().ok().flatten()?;
        self.replicas[replica].child = None;
        Some(status)
    }

    /// Waits for a process that was asked to end.
    pub async fn wait_for_end(&mut self, replica: usize) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.ended(replica) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill(replica);
                return Err(format!("replica {replica} did not end within {} s", STOP_TIMEOUT.as_secs()));
            }
            sleep(POLL).await;
        }
    }

    pub async fn stop_all(&mut self) {
        for replica in 0..REPLICAS {
            self.signal(replica, "TERM");
        }
        for replica in 0..REPLICAS {
            if self.is_running(replica)
                && let Err(reason) = self.wait_for_end(replica).await
            {
                println!("{reason}");
            }
        }
    }

    pub fn set_links(&self, state: LinkState, concerns: impl Fn(usize, usize) -> bool) {
        for link in self.links.iter().filter(|link| concerns(link.from, link.to)) {
            link.set(state);
        }
    }

    /// The server that reports itself as primary.
    pub async fn primary(&self) -> Option<usize> {
        for replica in (0..REPLICAS).filter(|replica| self.is_running(*replica)) {
            let Ok(status) = http::get(&self.replicas[replica].admin, "/status").await else { continue };
            let primary = status["primary"].as_u64().and_then(|id| usize::try_from(id).ok());
            if let Some(primary) = primary.filter(|id| *id < REPLICAS) {
                return Some(primary);
            }
        }
        None
    }

    /// Every replica serves linearizable reads.
    pub async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for replica in 0..REPLICAS {
            loop {
                let reason = match http::get(&self.replicas[replica].admin, "/health/ready").await {
                    Ok(_) => break,
                    Err(reason) => reason,
                };
                if let Some(status) = self.ended(replica) {
                    return Err(format!("replica {replica} ended by itself: {status}"));
                }
                if Instant::now() > deadline {
                    let seconds = READY_TIMEOUT.as_secs();
                    return Err(format!(
                        "replica {replica} serves no reads {seconds} s after all was healed: {reason}"
                    ));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// All replicas hold the same rows, says the program's own `verify`.
    pub fn verify(&self) -> Result<(), String> {
        let join = |addresses: Vec<&str>| addresses.join(",");
        let thrift = join(self.replicas.iter().map(|replica| replica.thrift.as_str()).collect());
        let admin = join(self.replicas.iter().map(|replica| replica.admin.as_str()).collect());
        let verify = Command::new(&self.program).args(["verify", "--addr", &thrift, "--admin", &admin]).output();
        let output = verify.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{}", said.trim_end());
        if output.status.success() {
            return Ok(());
        }
        Err(format!("synodkv verify: {said}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Another disk, without anything on it, takes the place of a replica that is not running.
    pub fn wipe(&self, replica: usize) -> Result<(), String> {
        let data = self.replicas[replica].data_dir();
        std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))
    }

    /// Asks the primary to hand over, by the program's own command.
    pub async fn failover(&self, to: Option<usize>) -> Result<(), String> {
        let admin: Vec<&str> = self.replicas.iter().map(|replica| replica.admin.as_str()).collect();
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["failover", "--admin", &admin.join(",")]);
        command.args(to.iter().flat_map(|to| ["--to".to_string(), to.to_string()]));
        let done = timeout(FAILOVER_TIMEOUT, command.kill_on_drop(true).output()).await;
        let output = done.map_err(|_| "no end".to_string())?.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().next().unwrap_or_default().to_string())
    }

    /// Panics that the logs tell of.
    pub fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for (id, replica) in self.replicas.iter().enumerate() {
            let log = std::fs::read_to_string(&replica.log).unwrap_or_default();
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            panics.extend(lines.map(|line| format!("replica {id}: {line}")));
        }
        panics
    }

    /// The end of a replica's log.
    pub fn last_words(&self, replica: usize) -> String {
        let log = std::fs::read_to_string(&self.replicas[replica].log).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_string()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            replica.disk.thaw();
        }
        for replica in 0..self.replicas.len() {
            self.kill(replica);
        }
    }
}
