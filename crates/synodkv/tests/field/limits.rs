//! Tests that descriptors, memory and connections are bounded, and that a server at its bounds
//! still serves.

use std::path::{Path, PathBuf};

use kv_api::thrift::{Method, ThriftReply, generated as wire};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, Server, Setup, assert_exit, is_root, run, skip, text};
use crate::thrift::Client;
use crate::waiting::{PATIENCE, eventually};

const MIB: u64 = 1 << 20;

/// All rows, without a limit.
fn everything() -> wire::GetRangeRequest {
    wire::GetRangeRequest::new(None, None, None, None, None, None, 0, None, None, None, None, None, None, None)
}

/// Waits until the server has closed a connection.
async fn closed(stream: &mut TcpStream) {
    let mut waste = [0; 4096];
    let closing = async { while matches!(stream.read(&mut waste).await, Ok(1..)) {} };
    tokio::time::timeout(PATIENCE, closing).await.expect("the server closes the connection");
}

/// Raises the limit of this test's sockets. False if the system allows too few.
fn may_open(descriptors: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised");
    limit.maximum.is_none_or(|most| most >= descriptors)
}

async fn connect_many(address: &str, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        // A refused connection counts as an attempt, too.
        streams.push(TcpStream::connect(address).await.expect("the system takes the connection"));
    }
    streams
}

fn problem_kinds(status: &Value) -> Vec<&str> {
    let problems = status["problems"].as_array().expect("a list");
    problems.iter().map(|problem| problem["kind"].as_str().expect("a kind")).collect()
}

#[test]
fn a_thousand_idle_clients_of_each_replica_leave_storage_its_descriptors() {
    if !may_open(4_000) {
        return skip("it needs 4,000 descriptors");
    }
    run(async {
        let mut cluster = Cluster::start(Setup::default().before("ulimit -n 1024")).await;
        let mut idle = Vec::new();
        for server in &cluster.servers {
            idle.push(connect_many(&server.thrift, 1_000).await);
        }
        // Writes 64 MB while no client reads.
        let mut writer = Client::let_in(&cluster.servers[0].thrift).await;
        for number in 0..640 {
            writer.set(&format!("key-{number}"), vec![7; 100_000]).await;
        }
        cluster.ready().await;
        for server in &mut cluster.servers {
            assert!(server.child().try_wait().expect("a process of ours").is_none(), "it ended");
            let mut reader = Client::let_in(&server.thrift).await;
            assert!(reader.is_found("key-639").await);
            let status = server.status().await.expect("a status");
            assert_eq!(problem_kinds(&status), ["few_descriptors"], "{status}");
            let (limit, shares) =
                (&status["budget"]["descriptors"]["limit"], &status["budget"]["descriptors"]["shares"]);
            assert_eq!(limit.as_u64(), Some(1024));
            assert!(shares["client connections"].as_u64() < Some(1_000), "{shares}");
            let log = server.log_text();
            assert_eq!(log.matches("1024 files may be open").count(), 1, "{log}");
            assert!(!log.contains("Too many open files"), "{log}");
        }
    });
}

#[test]
fn few_descriptors_and_many_clients_are_served_on() {
    if !may_open(2_000) {
        return skip("it needs 2,000 descriptors");
    }
    run(async {
        let server = Server::standalone(Setup::default().before("ulimit -n 256")).await;
        let _idle = connect_many(&server.thrift, 600).await;
        let mut client = Client::let_in(&server.thrift).await;
        client.set("k", b"v".to_vec()).await;
        assert!(client.is_found("k").await);
        server.ready().await;
        let log = server.log_text();
        assert!(!log.contains("Too many open files") && log.lines().count() < 20, "{log}");
    });
}

#[test]
fn a_soft_limit_is_raised_to_the_hard_one() {
    run(async {
        let server = Server::standalone(Setup::default().before("ulimit -Sn 256")).await;
        let status = server.status().await.expect("a status");
        let limit = status["budget"]["descriptors"]["limit"].as_u64().expect("a number");
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!(limit, hard.min(1 << 20));
    });
}

#[test]
fn too_few_descriptors_are_refused_before_anything_is_opened() {
    run(async {
        let mut server = Server::not_started(Setup::default().before("ulimit -n 40"));
        server.start();
        assert_eq!(server.ended().await.code(), Some(2));
        let log = server.log_text();
        assert!(log.contains("RLIMIT_NOFILE") && log.contains("is 40, and at least"), "{log}");
        assert!(!server.data_dir.exists());
    });
}

#[test]
fn half_sent_requests_keep_no_operator_out_and_are_closed() {
    run(async {
        let server = Server::standalone(Setup::toml("[server]\nmax_admin_connections = 32\n")).await;
        let mut half_open = Vec::new();
        for _ in 0..300 {
            let mut stream = TcpStream::connect(&server.admin).await.expect("it listens");
            stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("it was let in");
            half_open.push(stream);
        }
        server.ready().await;
        let mut client = Client::let_in(&server.thrift).await;
        client.set("k", b"v".to_vec()).await;
        // All except the last ones were closed for others; these are closed because the rest of the
        // request never arrives.
        for stream in &mut half_open {
            closed(stream).await;
        }
        server.ready().await;
    });
}

#[test]
fn an_admin_connection_without_input_is_closed() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        let mut silent = TcpStream::connect(&server.admin).await.expect("it listens");
        closed(&mut silent).await;
        server.ready().await;
    });
}

#[test]
fn clients_that_ask_for_much_and_read_nothing_use_no_more_than_the_budget() {
    run(async {
        let server = Server::standalone(Setup::toml("[server]\nmax_reply_memory_mb = 200\n")).await;
        let mut client = Client::let_in(&server.thrift).await;
        for number in 0..100 {
            client.set(&format!("row-{number:03}"), vec![7; 99_990]).await;
        }
        let before = server.resident_bytes();
        let mut greedy = Vec::new();
        for number in 0..30 {
            let mut one = Client::connect(&server.thrift).await.expect("it listens");
            for _ in 0..100 {
                one.send(everything()).await.expect("requests fit into the socket");
            }
            greedy.push(one);
            // This client is served meanwhile, although it shares the memory.
            client.set(&format!("between-{number}"), b"v".to_vec()).await;
            assert!(client.is_found("row-007").await);
        }
        eventually("much is in use", async || {
            let status = server.status().await?;
            match status["budget"]["in_use_bytes"]["replies"].as_u64() {
                Some(bytes) if bytes > 100 * MIB => Ok(()),
                bytes => Err(format!("{bytes:?}")),
            }
        })
        .await;
        for _ in 0..200 {
            assert!(client.is_found("row-007").await);
            let more = server.resident_bytes().saturating_sub(before);
            assert!(more < 260 * MIB, "{} MiB more are resident, and 200 are for replies", more / MIB);
        }
        // A client that reads gets everything, however many others do not.
        let mut patient = Client::let_in(&server.thrift).await;
        for _ in 0..100 {
            patient.send(everything()).await.expect("requests fit into the socket");
        }
        for _ in 0..100 {
            let reply = patient.receive(Method::GetRange).await.expect("an answer");
            let ThriftReply::GetRange(rows) = reply else { panic!("{reply:?}") };
            assert!(rows.success && rows.key_values.len() >= 100, "{:?}", rows.error);
        }
    });
}

#[test]
fn the_allocator_keeps_little_freed_memory() {
    if cfg!(not(target_env = "gnu")) {
        return skip("other allocators have no arenas");
    }
    run(async {
        let mut server = Server::standalone(Setup::default()).await;
        let of_process =
            |file: &str| std::fs::read(format!("/proc/{}/{file}", server.id())).expect("a process of ours");
        assert!(text(&of_process("environ")).contains("MALLOC_ARENA_MAX="));
        // It executed itself again, and is still the same process with the same name.
        assert_eq!(text(&of_process("comm")).trim(), "synodkv");
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn an_idle_client_stays_until_its_place_is_needed() {
    run(async {
        let server = Server::standalone(Setup::toml("[server]\nmax_connections = 2\n")).await;
        let (mut longest, mut other) = (Client::let_in(&server.thrift).await, Client::let_in(&server.thrift).await);
        longest.ping().await.expect("it stays");
        other.ping().await.expect("it stays");
        // At first no connection has been idle long enough, and the new one is refused. Later it
        // replaces the one that has been idle longest.
        let other = tokio::sync::Mutex::new(other);
        let mut newest = eventually("a client is let in", async || {
            other.lock().await.ping().await.expect("a client that asks something stays");
            let mut client = Client::connect(&server.thrift).await?;
            client.ping().await?;
            Ok(client)
        })
        .await;
        let mut other = other.into_inner();
        closed(&mut longest.stream).await;
        newest.ping().await.expect("it was let in");
        other.ping().await.expect("it stays");
        let metrics = server.get("/metrics").await.expect("metrics").1;
        assert!(metrics.contains("synodkv_connections_displaced_total 1"), "{metrics}");
    });
}

fn print_config(server: &Server, more: &[&str]) -> (i32, String, String) {
    let mut command = server.command();
    let output =
        command.arg("--print-config").args(more).stdout(std::process::Stdio::piped()).output().expect("it runs");
    (output.status.code().expect("an exit"), text(&output.stdout), text(&output.stderr))
}

/// Settings without comments.
fn settings(printed: &str) -> Vec<&str> {
    let plain = printed.lines().map(|line| line.split("  # ").next().expect("a part").trim());
    plain.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn the_printed_configuration_names_origins_and_the_budget_and_can_be_used() {
    let toml = "[server]\nmax_connections = 123\nidle_timeout_seconds = 5\n";
    let server = Server::not_started(Setup::toml(toml).env("SYNODKV_LIMITS_MAX_KEY_BYTES", "77"));
    let (code, printed, errors) = print_config(&server, &["--log-level", "warn"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let from_file = format!("max_connections = 123  # from the file {}", server.config.display());
    for expected in [
        from_file.as_str(),
        "max_key_bytes = 77  # from environment variable SYNODKV_LIMITS_MAX_KEY_BYTES",
        "level = \"warn\"  # from flag --log-level",
        "max_value_bytes = 100000  # default",
        "# Resource budget: ",
        "RocksDB (max_open_files)",
        "idempotency ids",
    ] {
        assert!(printed.contains(expected), "{expected} is missing in\n{printed}");
    }
    assert!(!server.data_dir.exists(), "nothing was opened");
    std::fs::write(&server.config, &printed).expect("a file");
    let (code, again, errors) = print_config(&server, &[]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(settings(&again), settings(&printed));
}

#[test]
fn a_server_with_little_memory_lowers_defaults_and_serves() {
    run(async {
        let server = Server::standalone(Setup::toml("[server]\nmemory_limit_mb = 700\n")).await;
        server.ready().await;
        let status = server.status().await.expect("a status");
        assert_eq!(problem_kinds(&status), ["little_memory"]);
        let memory = &status["budget"]["memory_bytes"];
        assert!(memory["sum"].as_u64() <= memory["usable"].as_u64(), "{memory}");
        assert!(memory["resident"].as_u64() < memory["sum"].as_u64(), "{memory}");
        assert_eq!(server.log_text().matches("server.memory_limit_mb").count(), 1);
        let (_, printed, _) = print_config(&server, &[]);
        assert!(printed.contains("by the resource budget"), "{printed}");
    });
}

#[test]
fn too_little_memory_is_refused_with_the_amount_needed() {
    let server = Server::not_started(Setup::toml("[server]\nmemory_limit_mb = 100\n"));
    let (code, _, errors) = print_config(&server, &[]);
    assert_eq!(code, 2);
    assert!(errors.contains("100 MiB (server.memory_limit_mb), and at least"), "{errors}");
}

/// A control group for one process, with a memory limit.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Creates a control group; `None` if this process may not.
    fn new(bytes: u64) -> Option<ControlGroup> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("synodkv-test-{}", std::process::id());
        own.lines().find_map(|line| {
            let (mount, file) = match line.split(':').nth(1)? {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let path = line.splitn(3, ':').nth(2)?.trim_start_matches('/');
            let group = Path::new(mount).join(path).join(&name);
            std::fs::create_dir(&group).ok()?;
            let group = ControlGroup(group);
            std::fs::write(group.0.join(file), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn the_limit_of_a_control_group_is_found() {
    if !is_root() {
        return skip("it needs root");
    }
    let Some(group) = ControlGroup::new(700 * MIB) else { return skip("it needs control groups that can be made") };
    run(async {
        let enter = format!("echo $$ > {}/cgroup.procs", group.0.display());
        let mut server = Server::standalone(Setup::default().before(&enter)).await;
        server.ready().await;
        let status = server.status().await.expect("a status");
        let memory = &status["budget"]["memory_bytes"];
        assert_eq!(memory["limit"].as_u64(), Some(700 * MIB));
        assert!(memory["limit_from"].as_str().is_some_and(|from| from.contains("synodkv-test")), "{memory}");
        assert!(memory["sum"].as_u64() <= memory["usable"].as_u64(), "{memory}");
        assert_exit(&server.cli(&["set", "k", "v"]), 0);
        server.stop().await;
    });
}
