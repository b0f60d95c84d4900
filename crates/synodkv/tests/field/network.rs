//! Tests of peers whose names or addresses appear, disappear and change, and of copies of large
//! databases.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_client::{Client, KeyRef, Options};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::{Cluster, ENGINE, Server, Setup, assert_exit, is_root, run, skip};
use crate::waiting::eventually;

/// Changes the address of a peer in the server's configuration, for its next start.
fn move_peer(server: &Server, from: &str, to: &str) {
    let text = std::fs::read_to_string(&server.config).expect("a configuration");
    assert!(text.contains(&format!("peer = \"{from}\"")), "{from} is no peer in\n{text}");
    let text = text.replace(&format!("peer = \"{from}\""), &format!("peer = \"{to}\""));
    std::fs::write(&server.config, text).expect("a configuration");
}

/// The same port under another name.
fn under_name(address: &str, name: &str) -> String {
    let (_, port) = address.rsplit_once(':').expect("HOST:PORT");
    format!("{name}:{port}")
}

/// The problem of this kind, once the server reports it.
async fn problem(server: &Server, kind: &str) -> Value {
    eventually(&format!("the problem {kind} is told"), async || {
        let status = server.status().await?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        problems.into_iter().find(|problem| problem["kind"] == kind).ok_or_else(|| format!("{}", status["problems"]))
    })
    .await
}

#[test]
fn a_majority_starts_although_the_name_of_the_third_replica_does_not_resolve() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        for server in &mut cluster.servers {
            server.stop().await;
        }
        let (third, nobody) = (cluster.peers[2].clone(), under_name(&cluster.peers[2], "replica-2.invalid"));
        for server in &mut cluster.servers[..2] {
            move_peer(server, &third, &nobody);
            server.start();
        }
        cluster.ready().await;
        assert_exit(&cluster.servers[0].cli(&["set", "k", "w"]), 0);
        let problem = problem(&cluster.servers[0], "name_unresolved").await;
        assert_eq!(problem["replica"], 2, "{problem}");
        assert!(
            problem["text"].as_str().is_some_and(|text| text.contains("cannot resolve replica-2.invalid")),
            "{problem}"
        );
        let status = cluster.servers[0].status().await.expect("a status");
        assert_eq!(status["replicas"][2]["problem_kind"], "name_unresolved", "{status}");
        assert!(cluster.servers[0].log_text().contains("cannot resolve its name"));
    });
}

#[test]
fn replicas_find_each_other_by_name() {
    run(async {
        let peers: Vec<String> = (0..3).map(|_| crate::ports::free_address()).collect();
        let names: Vec<String> = peers.iter().map(|peer| under_name(peer, "localhost")).collect();
        let mut cluster = Cluster::with_peers(peers, &names, Setup::default());
        for server in &mut cluster.servers {
            server.start();
        }
        cluster.ready().await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
    });
}

#[test]
fn replicas_reach_each_other_over_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip("this machine has no IPv6");
    }
    run(async {
        let peers: Vec<String> = (0..3).map(|_| under_name(&crate::ports::free_address(), "[::1]")).collect();
        let mut cluster = Cluster::with_peers(peers.clone(), &peers, Setup::default());
        for server in &mut cluster.servers {
            server.start();
        }
        cluster.ready().await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
    });
}

#[test]
fn a_replica_whose_own_name_does_not_resolve_runs_and_reports_it() {
    run(async {
        let mut cluster = Cluster::start(Setup::default().env("SYNODKV_REPLICATION_ALLOW_INSECURE", "true")).await;
        cluster.servers[2].stop().await;
        let own = cluster.peers[2].clone();
        move_peer(&cluster.servers[2], &own, &under_name(&own, "replica-2.invalid"));
        cluster.servers[2].start();
        cluster.servers[2].live().await;
        let problem = problem(&cluster.servers[2], "name_unresolved").await;
        assert_eq!(problem["replica"], 2, "{problem}");
        assert!(problem["remedy"].as_str().is_some_and(|remedy| remedy.contains("no restart is needed")), "{problem}");
        assert_exit(&cluster.servers[0].cli(&["set", "k", "v"]), 0);
    });
}

/// Host names that only processes started with [`Hosts::setup`] can resolve.
struct Hosts {
    file: tempfile::NamedTempFile,
}

impl Hosts {
    /// `None` if this machine does not allow a process to have its own names.
    fn new() -> Option<Hosts> {
        let hosts = Hosts { file: tempfile::NamedTempFile::new().expect("a file") };
        let test = std::process::Command::new("sh").args(["-c", &format!("{}; true", hosts.setup().before)]).output();
        (is_root() && test.is_ok_and(|output| output.status.success())).then_some(hosts)
    }

    /// Runs the program in a mount namespace with this file as `/etc/hosts`.
    fn setup(&self) -> Setup {
        let mount = format!("mount --bind {} /etc/hosts", self.file.path().display());
        Setup::default().before(&format!("exec unshare --mount sh -c '{mount} && exec \"$0\" \"$@\"' \"$0\" \"$@\""))
    }

    /// Replaces the names atomically.
    fn set(&self, names: &[(&str, &str)]) {
        let lines: Vec<String> = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        std::fs::write(self.file.path(), lines.concat()).expect("a file");
    }
}

const NAMES: [&str; 3] = ["replica-0.test", "replica-1.test", "replica-2.test"];

#[test]
fn a_replica_that_moves_to_another_address_is_found_there_without_a_restart_of_the_others() {
    let Some(hosts) = Hosts::new() else { return skip("it needs root, and mount namespaces") };
    run(async {
        hosts.set(&[(NAMES[0], "127.0.0.1"), (NAMES[1], "127.0.0.1"), (NAMES[2], "127.0.0.8")]);
        let peers: Vec<String> = (0..3).map(|_| crate::ports::free_address()).collect();
        let names: Vec<String> = peers.iter().zip(NAMES).map(|(peer, name)| under_name(peer, name)).collect();
        let mut cluster =
            Cluster::with_peers(peers, &names, hosts.setup().env("SYNODKV_REPLICATION_ALLOW_INSECURE", "true"));
        for server in &mut cluster.servers {
            server.start();
        }
        cluster.ready().await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        cluster.servers[2].stop().await;
        // For a while its name has no address, neither for the others nor, when it starts, for
        // itself.
        hosts.set(&[(NAMES[0], "127.0.0.1"), (NAMES[1], "127.0.0.1")]);
        problem(&cluster.servers[0], "name_unresolved").await;
        cluster.servers[2].start();
        cluster.servers[2].live().await;
        problem(&cluster.servers[2], "name_unresolved").await;
        hosts.set(&[(NAMES[0], "127.0.0.1"), (NAMES[1], "127.0.0.1"), (NAMES[2], "127.0.0.9")]);
        cluster.ready().await;
        eventually("nobody misses anybody any more", async || {
            for server in &cluster.servers {
                let problems = server.status().await?["problems"].clone();
                if problems != serde_json::json!([]) {
                    return Err(problems.to_string());
                }
            }
            Ok(())
        })
        .await;
        assert_exit(&cluster.cli(&["verify"]), 0);
    });
}

/// Opens connections and sends nothing. It does not matter whether the server closes some of them
/// at once.
fn silent_connections(address: &str, count: usize) -> VecDeque<TcpStream> {
    (0..count).filter_map(|_| TcpStream::connect(address).ok()).collect()
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn silent_connections_to_the_peer_port_are_closed_and_keep_no_peer_away() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        let target = cluster.peers[0].clone();
        cluster.servers[2].stop().await;
        // New connections arrive continuously while the third replica starts and joins again.
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped) = (target.clone(), stop.clone());
        let crowd = std::thread::spawn(move || {
            let mut open = silent_connections(&address, 1_000);
            while !stopped.load(Ordering::Relaxed) {
                open.extend(silent_connections(&address, 10));
                open.drain(..open.len().saturating_sub(1_000));
                std::thread::sleep(Duration::from_millis(50));
            }
            open
        });
        cluster.servers[2].start();
        cluster.ready().await;
        eventually("the first replica hears the third one in the crowd", async || {
            let status = cluster.servers[0].status().await?;
            match status["replicas"][2]["reachable"].as_bool() {
                Some(true) => Ok(()),
                _ => Err(format!("{}", status["problems"])),
            }
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        let mut open = crowd.join().expect("connecting does not panic");
        eventually("all silent connections are closed", async || {
            open.retain_mut(|stream| !is_closed(stream));
            if open.is_empty() { Ok(()) } else { Err(format!("{} are open", open.len())) }
        })
        .await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
    });
}

#[test]
fn the_survivor_of_a_lost_majority_says_what_is_missing_and_what_to_do() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        for server in &mut cluster.servers {
            server.kill().await;
        }
        for lost in &cluster.servers[1..] {
            std::fs::remove_dir_all(&lost.data_dir).expect("its data");
        }
        cluster.servers[0].start();
        cluster.servers[0].live().await;
        let alone = problem(&cluster.servers[0], "no_majority").await;
        assert!(alone["text"].as_str().is_some_and(|text| text.contains("replica 1 is silent")), "{alone}");
        let remedy = alone["remedy"].as_str().expect("a remedy");
        assert!(
            remedy.contains("Two replicas of three are gone") && remedy.contains("Remove no directory"),
            "{remedy}"
        );
        // The others come back with empty disks, which have no vote.
        for server in &mut cluster.servers[1..] {
            server.start();
            server.live().await;
        }
        eventually("those with empty disks are told apart", async || {
            let problem = problem(&cluster.servers[0], "no_majority").await;
            match problem["text"].as_str() {
                Some(text) if text.contains("replica 1 has no vote") && text.contains("replica 2 has no vote") => {
                    Ok(())
                }
                _ => Err(problem.to_string()),
            }
        })
        .await;
        problem(&cluster.servers[1], "no_vote").await;
    });
}

/// Rows of 50 kB, which do not compress.
const ROW: usize = 50_000;

fn value(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        // Xorshift, by Marsaglia.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(ROW).collect()
}

/// Eight at a time.
async fn write_rows(client: &Client, name: &str, rows: usize) {
    for first in (0..rows).step_by(8) {
        let mut writes = JoinSet::new();
        for row in first..rows.min(first + 8) {
            let (client, key) = (client.clone(), format!("{name}/{row}"));
            writes.spawn(async move { client.set(KeyRef::new(key), value(row as u64)).await });
        }
        for write in writes.join_all().await {
            write.expect("set");
        }
    }
}

/// The copy takes twenty times as long as it takes to write more log than is kept for a lagging
/// replica. Without a retained log it would be outdated when it arrives, and so would the next one.
#[test]
fn one_copy_of_a_large_database_is_enough_under_continuous_writes() {
    if ENGINE == "memory" {
        return skip("in memory the log is never trimmed, so that nobody needs a copy");
    }
    run(async {
        let toml = "[replication]\nlog_keep_mb = 1\nlog_flush_mb = 1\nsnapshot_mb_per_second = 1\n\
                    [storage]\nwrite_buffer_mb = 8\n";
        let mut cluster = Cluster::start(Setup::toml(toml)).await;
        let connect = async |cluster: &Cluster| {
            let thrift = cluster.servers[0].thrift.clone();
            Client::connect([thrift], Options::default()).await.expect("a client")
        };
        cluster.servers[2].kill().await;
        write_rows(&connect(&cluster).await, "before", 800).await;
        // Restarts them, so that no memory holds the entries.
        for server in &mut cluster.servers[..2] {
            server.stop().await;
            server.start();
        }
        cluster.ready().await;
        for id in [0, 1] {
            let name = format!("synodkv_log_disk_bytes{{replica=\"{id}\"}}");
            eventually("the log is cut down to what is kept", async || {
                match metric(&cluster.servers[id], &name).await? {
                    bytes if bytes < 9e6 => Ok(()),
                    bytes => Err(format!("the log takes {bytes} bytes")),
                }
            })
            .await;
        }
        let client = connect(&cluster).await;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, writer) = (stop.clone(), client.clone());
        let writing = tokio::spawn(async move {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                write_rows(&writer, "meanwhile", 20).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            round
        });
        cluster.servers[2].start();
        cluster.servers[2].live().await;
        // Writes far more than is kept for a lagging replica.
        eventually("the log is held for the copy", async || {
            match metric(&cluster.servers[0], "synodkv_log_disk_bytes{replica=\"0\"}").await? {
                bytes if bytes > 9e6 => Ok(()),
                bytes => Err(format!("the log takes {bytes} bytes")),
            }
        })
        .await;
        eventually("the replica has caught up under load", async || {
            let log = cluster.servers[2].log_text();
            match log.contains("fetched and installed a copy of a database") {
                true => cluster.servers[2].get("/health/ready").await.and_then(|(code, body)| match code {
                    200 => Ok(()),
                    _ => Err(body),
                }),
                false => Err("no copy is in yet".to_string()),
            }
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        writing.await.expect("writing does not panic");
        assert_exit(&cluster.cli(&["verify"]), 0);
        let installed = metric(&cluster.servers[2], "synodkv_snapshots_installed_total{replica=\"2\"}").await;
        assert_eq!(installed, Ok(1.0));
        let told = cluster.servers[2].log_text();
        for words in ["fetching a copy of another replica's database", "fetching a copy of a database"] {
            assert!(told.contains(words), "the log does not say `{words}`");
        }
        let senders =
            cluster.servers[..2].iter().filter(|server| server.log_text().contains("sending a copy of the database"));
        assert_eq!(senders.count(), 1);
        eventually("the log is let go of when nobody needs it", async || {
            write_rows(&client, "after", 40).await;
            match metric(&cluster.servers[0], "synodkv_log_disk_bytes{replica=\"0\"}").await? {
                bytes if bytes < 9e6 => Ok(()),
                bytes => Err(format!("the log takes {bytes} bytes")),
            }
        })
        .await;
    });
}

pub async fn metric(server: &Server, name: &str) -> Result<f64, String> {
    let (_, page) = server.get("/metrics").await?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
    line.trim().parse().map_err(|error| format!("{name}{line}: {error}"))
}
