//! The processes, their limits, and what they take.

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Options;
use crate::chaos::cluster::free_addresses;
use crate::chaos::http;

const REPLICAS: usize = 3;
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

struct Server {
    child: Child,
    peer: String,
    thrift: String,
    admin: String,
    log: PathBuf,
}

/// Dropped, it kills the processes.
pub struct Servers {
    options: Options,
    all: Vec<Server>,
}

/// The most that was seen, by process.
#[derive(Default)]
pub struct Peaks {
    resident_mb: [u64; REPLICAS],
    descriptors: [usize; REPLICAS],
}

impl Peaks {
    pub fn violations(&self, options: &Options) -> Vec<String> {
        let over = self.resident_mb.iter().enumerate().filter(|(_, mb)| **mb > options.memory_mb);
        over.map(|(id, mb)| format!("replica {id} took {mb} MiB of memory, more than {}", options.memory_mb)).collect()
    }
}

impl fmt::Display for Peaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most: {:?} MiB resident, {:?} open files", self.resident_mb, self.descriptors)
    }
}

impl Servers {
    /// Starts all three.
    pub fn start(options: &Options) -> Result<Servers, String> {
        let mut addresses = free_addresses();
        let mut listen = || -> Result<[String; 3], String> {
            let mut next = || addresses.next().ok_or("no free ports".to_string());
            Ok([next()?, next()?, next()?])
        };
        let listen = (0..REPLICAS).map(|_| listen()).collect::<Result<Vec<_>, String>>()?;
        let mut list = String::new();
        for (id, [peer, thrift, admin]) in listen.iter().enumerate() {
            list += &format!(
                "[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n"
            );
        }
        let text = format!("mode = \"replicated\"\n[server]\nmemory_limit_mb = {}\n{list}", options.memory_mb);
        fs::write(options.folder.join("cluster.toml"), text).map_err(|error| error.to_string())?;
        let server = |(id, [peer, thrift, admin]): (usize, [String; 3])| {
            let log = options.folder.join(format!("{id}.log"));
            let child = start_one(options, id)?;
            Ok(Server { child, peer, thrift, admin, log })
        };
        let all = listen.into_iter().enumerate().map(server).collect::<Result<_, String>>()?;
        Ok(Servers { options: options.clone(), all })
    }

    pub fn describe(&self) -> String {
        let Options { files, memory_mb, folder, .. } = &self.options;
        format!("three replicas with {files} open files and {memory_mb} MiB each, in {}", folder.display())
    }

    pub fn thrift(&self) -> Vec<String> {
        self.all.iter().map(|server| server.thrift.clone()).collect()
    }

    pub fn admin(&self) -> Vec<String> {
        self.all.iter().map(|server| server.admin.clone()).collect()
    }

    pub fn peer(&self) -> Vec<String> {
        self.all.iter().map(|server| server.peer.clone()).collect()
    }

    pub async fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for (id, server) in self.all.iter_mut().enumerate() {
            while let Err(reason) = http::get(&server.admin, "/health/ready?writes=1").await {
                if let Ok(Some(status)) = server.child.try_wait() {
                    return Err(format!("replica {id} ended: {status}"));
                }
                if Instant::now() > deadline {
                    return Err(format!("replica {id} does not get ready: {reason}"));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The servers that have ended and should not have; they are started again, so that the run
    /// continues.
    pub fn restart_ended(&mut self) -> Vec<String> {
        let mut violations = Vec::new();
        for (id, server) in self.all.iter_mut().enumerate() {
            let Ok(Some(status)) = server.child.try_wait() else { continue };
            let log = fs::read_to_string(&server.log).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            violations.push(format!("replica {id} ended: {status}; its last words: {last}"));
            match start_one(&self.options, id) {
                Ok(child) => server.child = child,
                Err(error) => violations.push(error),
            }
        }
        violations
    }

    pub fn sample(&self, peaks: &mut Peaks) {
        for (id, server) in self.all.iter().enumerate() {
            let process = PathBuf::from(format!("/proc/{}", server.child.id()));
            let status = fs::read_to_string(process.join("status")).unwrap_or_default();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
            let open = fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
            peaks.resident_mb[id] = peaks.resident_mb[id].max(kib >> 10);
            peaks.descriptors[id] = peaks.descriptors[id].max(open);
        }
    }

    /// All replicas hold the same rows, says the program's own `verify`.
    pub fn verify(&self) -> Result<(), String> {
        let (thrift, admin) = (self.thrift().join(","), self.admin().join(","));
        let verify =
            Command::new(&self.options.program).args(["verify", "--addr", &thrift, "--admin", &admin]).output();
        let output = verify.map_err(|error| error.to_string())?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{}", said.trim_end());
        if output.status.success() { Ok(()) } else { Err(format!("synodkv verify: {said}")) }
    }

    /// Panics that the logs tell of.
    pub fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for (id, server) in self.all.iter().enumerate() {
            let log = fs::read_to_string(&server.log).unwrap_or_default();
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            panics.extend(lines.map(|line| format!("replica {id}: {line}")));
        }
        panics
    }

    /// Asks all to end; those that do not end well.
    pub async fn stop(mut self) -> Vec<String> {
        for server in &self.all {
            // It may have ended a moment ago, which shows below.
            let _ = Command::new("kill").args(["-s", "TERM", &server.child.id().to_string()]).status();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut violations = Vec::new();
        for (id, server) in self.all.iter_mut().enumerate() {
            loop {
                match server.child.try_wait() {
                    Ok(Some(status)) if status.success() => break,
                    Ok(Some(status)) => {
                        violations.push(format!("replica {id} did not end well: {status}"));
                        break;
                    }
                    _ if Instant::now() > deadline => {
                        violations.push(format!("replica {id} does not end"));
                        break;
                    }
                    _ => sleep(POLL).await,
                }
            }
        }
        violations
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.all {
            // It may have ended.
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
    }
}

fn start_one(options: &Options, id: usize) -> Result<Child, String> {
    let Options { program, folder, files, .. } = options;
    let log = File::options().create(true).append(true).open(folder.join(format!("{id}.log")));
    let mut command = Command::new("sh");
    command.env_clear().args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]).arg(program);
    command.args(["serve", "--config"]).arg(folder.join("cluster.toml")).args(["--node-id", &id.to_string()]);
    command.arg("--data-dir").arg(folder.join(format!("data-{id}")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.map_err(|error| error.to_string())?);
    command.spawn().map_err(|error| format!("{}: {error}", program.display()))
}
