//! Tests that the log never blocks the threads that serve and rarely repeats itself, and that
//! signals have no other effects than intended.

use std::io::{PipeReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, PROGRAM, Server, Setup, assert_exit, run, signal, text};
use crate::waiting::eventually;

#[path = "../cluster/clusters/certificates.rs"]
mod certificates;

use certificates::Authority;

/// The default capacity of a pipe.
const PIPE_BYTES: usize = 64 << 10;

fn level(level: &str) -> Setup {
    Setup::toml(&format!("[log]\nlevel = \"{level}\"\n"))
}

/// A standalone server that logs to a file, and the file.
async fn server_with_log_file(setup: Setup) -> (Server, PathBuf, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("synodkv.log");
    let server = Server::standalone(setup.arg("--log-file").arg(file.to_str().expect("text"))).await;
    (server, file, folder)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string())
}

async fn wait_for(path: &Path, words: &str) {
    eventually("the log says it", async || match read(path) {
        log if log.contains(words) => Ok(()),
        log => Err(format!("`{words}` is not in:\n{log}")),
    })
    .await;
}

/// A full pipe, with its read end.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&vec![b'.'; PIPE_BYTES]).expect("room for as much as a pipe holds");
    (reader, Stdio::from(writer))
}

async fn dropped_lines(server: &Server) -> Result<u64, String> {
    let (_, page) = server.get("/metrics").await?;
    let value = page.lines().find_map(|line| line.strip_prefix("synodkv_log_lines_dropped_total "));
    value.and_then(|value| value.parse().ok()).ok_or(page.clone())
}

/// The problem with the log, if `/status` names one.
async fn problem(server: &Server) -> Result<Option<String>, String> {
    let status = server.status().await?;
    let problems = status["problems"].as_array().ok_or(status.to_string())?;
    let problem = problems.iter().find(|problem| problem["kind"] == "log_lines_dropped");
    Ok(problem.map(|problem| problem["text"].as_str().unwrap_or_default().to_string()))
}

async fn has_problem(server: &Server) -> String {
    eventually("/status names the problem", async || problem(server).await?.ok_or("none".to_string())).await
}

async fn has_no_problem(server: &Server) {
    eventually("/status names the problem no more", async || problem(server).await?.map_or(Ok(()), Err)).await;
}

async fn serves(server: &Server) {
    assert_exit(&server.cli(&["set", "k", "v"]), 0);
    assert_exit(&server.cli(&["get", "k"]), 0);
    assert_eq!(server.get("/health/live").await.expect("an answer").0, 200);
}

/// Makes a server that logs at level debug drop lines: each call of a method that does not exist is
/// a line.
async fn overflow(server: &Server) {
    let name = "unknown_".repeat(25);
    let (one_way, length) = (0x8001_0004_u32.to_be_bytes(), (name.len() as u32).to_be_bytes());
    let call = [&one_way[..], &length, name.as_bytes(), &[0; 4], &[0]].concat();
    let calls = call.repeat(1000);
    let mut connection = std::net::TcpStream::connect(&server.thrift).expect("a connection");
    eventually("the queue is full", async || {
        connection.write_all(&calls).map_err(|error| error.to_string())?;
        match dropped_lines(server).await? {
            0 => Err("no line was dropped".to_string()),
            _ => Ok(()),
        }
    })
    .await;
}

#[test]
fn a_pipe_that_nobody_reads_blocks_nothing() {
    run(async {
        let mut server = Server::not_started(level("debug"));
        server.start_with(|command| command.stderr(Stdio::piped()));
        let mut unread = server.child().stderr.take().expect("piped");
        server.live().await;
        overflow(&server).await;
        serves(&server).await;
        let problem = has_problem(&server).await;
        assert!(problem.contains("standard error is not read"), "{problem}");

        // Once somebody reads again, logging recovers, and the log says how many lines are missing.
        let kept = Arc::new(Mutex::new(Vec::new()));
        let reading = {
            let kept = kept.clone();
            std::thread::spawn(move || {
                let mut piece = vec![0; 1 << 16];
                while let Ok(length @ 1..) = unread.read(&mut piece) {
                    kept.lock().expect("sound").extend_from_slice(&piece[..length]);
                }
            })
        };
        has_no_problem(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
        reading.join().expect("it ends");
        let log = text(&kept.lock().expect("sound"));
        assert!(log.contains("log lines were dropped here: the output was not read in time dropped="), "no notice");
        assert!(log.contains("standalone server stopped"), "the end is missing");
    });
}

#[test]
fn a_server_can_stop_while_nobody_reads_its_log() {
    run(async {
        let mut server = Server::not_started(level("debug"));
        server.start_with(|command| command.stderr(Stdio::piped()));
        let _unread = server.child().stderr.take().expect("piped");
        server.live().await;
        overflow(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn a_server_starts_and_stops_with_full_pipes_for_outputs() {
    run(async {
        let mut server = Server::not_started(Setup::default());
        let ((_unread_output, output), (_unread_errors, errors)) = (full_pipe(), full_pipe());
        server.start_with(|command| command.stdout(output).stderr(errors));
        server.live().await;
        serves(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn a_start_that_fails_ends_although_nobody_reads_the_reason() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        let mut second = Server::not_started(Setup::default().arg("--thrift-addr").arg(&server.thrift));
        let (_unread, errors) = full_pipe();
        second.start_with(|command| command.stderr(errors));
        assert_eq!(second.ended().await.code(), Some(1));
    });
}

#[test]
fn a_reader_of_the_log_that_goes_away_costs_lines_and_nothing_else() {
    run(async {
        let mut server = Server::not_started(level("debug"));
        server.start_with(|command| command.stderr(Stdio::piped()));
        drop(server.child().stderr.take());
        server.live().await;
        serves(&server).await;
        let problem = has_problem(&server).await;
        assert!(problem.contains("standard error cannot be written: Broken pipe"), "{problem}");
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn a_full_disk_for_the_log_costs_lines_and_nothing_else() {
    run(async {
        let mut server = Server::standalone(level("debug").arg("--log-file").arg("/dev/full")).await;
        serves(&server).await;
        let problem = has_problem(&server).await;
        assert!(problem.contains("/dev/full cannot be written: No space left on device"), "{problem}");
        assert!(dropped_lines(&server).await.expect("a figure") > 0);
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn a_log_file_that_cannot_be_opened_is_a_mistake_of_the_configuration() {
    run(async {
        let mut server = Server::not_started(Setup::default().env("SYNODKV_LOG_FILE", "/nowhere/synodkv.log"));
        server.start();
        assert_eq!(server.ended().await.code(), Some(2));
        let log = server.log_text();
        assert!(log.contains("cannot open the log /nowhere/synodkv.log: No such file or directory"), "{log}");
        assert!(log.contains("--log-file"), "{log}");
        assert!(!server.data_dir.exists(), "nothing was opened");
    });
}

#[test]
fn a_log_file_that_was_renamed_is_opened_again_at_sighup() {
    run(async {
        let (mut server, file, folder) = server_with_log_file(level("info")).await;
        wait_for(&file, "standalone server started").await;
        assert_eq!(server.log_text(), "", "nothing goes to standard error besides");
        let old = folder.path().join("synodkv.log.1");
        std::fs::rename(&file, &old).expect("renamed");
        signal(server.id(), "HUP");
        wait_for(&file, "opened the log file again").await;
        serves(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
        assert!(read(&file).contains("standalone server stopped"), "{}", read(&file));
        assert!(!read(&old).contains("stopped"), "{}", read(&old));
    });
}

#[test]
fn a_log_file_that_cannot_be_opened_again_is_kept() {
    run(async {
        let (mut server, file, folder) = server_with_log_file(level("info")).await;
        let old = folder.path().join("synodkv.log.1");
        std::fs::rename(&file, &old).expect("renamed");
        std::fs::create_dir(&file).expect("something else in its place");
        signal(server.id(), "HUP");
        wait_for(&old, "cannot open the log file again").await;
        serves(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
        assert!(read(&old).contains("standalone server stopped"), "{}", read(&old));
    });
}

#[test]
fn the_log_is_json_where_that_is_asked_for() {
    run(async {
        let mut server = Server::standalone(level("debug").env("SYNODKV_LOG_FORMAT", "json")).await;
        serves(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
        let log = server.log_text();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        for line in &lines {
            for field in ["timestamp", "level", "target", "message"] {
                assert!(line[field].is_string(), "{line} has no {field}");
            }
        }
        let started = lines.iter().find(|line| line["message"] == "standalone server started").expect("it is logged");
        assert_eq!((&started["level"], &started["thrift"]), (&"INFO".into(), &server.thrift.as_str().into()));
    });
}

#[test]
fn the_reason_for_a_failed_start_is_json_too() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        let setup = Setup::default().arg("--thrift-addr").arg(&server.thrift).arg("--log-format").arg("json");
        let mut second = Server::not_started(setup);
        second.start();
        assert_eq!(second.ended().await.code(), Some(1));
        let log = second.log_text();
        let last: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("an object");
        assert!(last["message"].as_str().is_some_and(|words| words.contains("cannot listen on")), "{last}");
    });
}

#[test]
fn a_line_that_repeats_is_held_back_and_counted() {
    run(async {
        const REPEATED: &str = "SIGUSR1 has no meaning here";
        let mut server = Server::standalone(level("info")).await;
        let begun = Instant::now();
        let count = |log: &str| log.lines().filter(|line| line.contains(REPEATED)).count();
        // Pending signals of one kind are merged.
        eventually("enough were seen", async || {
            signal(server.id(), "USR1");
            match begun.elapsed() {
                elapsed if elapsed >= Duration::from_millis(500) => Ok(()),
                elapsed => Err(format!("{elapsed:?}")),
            }
        })
        .await;
        // No more lines follow, but the count of held-back lines is still logged.
        eventually("the count is told", async || match server.log_text() {
            log if log.lines().any(|line| line.contains(REPEATED) && line.contains("held_back=")) => Ok(()),
            log => Err(log),
        })
        .await;
        let (lines, pauses) = (count(&server.log_text()), begun.elapsed().as_secs() / 10);
        assert!(lines as u64 <= 5 + pauses, "{lines} lines in {pauses} pauses:\n{}", server.log_text());
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn absent_replicas_do_not_fill_the_log_of_the_last_one() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        let begun = Instant::now();
        cluster.servers[1].kill().await;
        cluster.servers[2].kill().await;
        eventually("the last one says that nobody leads", async || {
            let log = cluster.servers[0].log_text();
            if log.contains("no primary for 10 s") { Ok(()) } else { Err(log) }
        })
        .await;
        let log = cluster.servers[0].log_text();
        let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).count() as u64;
        // For each peer, the first few lines and one per pause, and one line about the primary.
        let pauses = begun.elapsed().as_secs() / 10 + 1;
        assert!(complaints <= 1 + 2 * (5 + pauses), "{complaints} complaints in {pauses} pauses:\n{log}");
    });
}

#[test]
fn sighup_takes_the_level_and_names_what_needs_a_restart() {
    run(async {
        let mut server = Server::standalone(level("info")).await;
        serves(&server).await;
        assert!(!server.log_text().contains("DEBUG"), "{}", server.log_text());
        let before = read(&server.config);
        let after = before.replace("level = \"info\"", "level = \"debug\"");
        std::fs::write(&server.config, after.replace("[server]", "[server]\nmax_connections = 77")).expect("written");
        signal(server.id(), "HUP");
        let log = server.log.clone();
        wait_for(&log, "needs a restart: server.max_connections").await;
        wait_for(&log, "log_level=debug").await;
        serves(&server).await;
        wait_for(&log, "DEBUG").await;
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn sighup_with_a_wrong_configuration_changes_nothing() {
    run(async {
        let mut server = Server::standalone(level("info")).await;
        std::fs::write(&server.config, "[log]\nlevel = \"loud\"\n").expect("written");
        signal(server.id(), "HUP");
        let log = server.log.clone();
        wait_for(&log, "log.level = \"loud\"").await;
        std::fs::write(&server.config, "this is no TOML").expect("written");
        signal(server.id(), "HUP");
        eventually("both are told", async || match read(&log) {
            log if log.matches("settings in force remain").count() == 2 => Ok(()),
            log => Err(log),
        })
        .await;
        serves(&server).await;
        assert_eq!(server.stop().await.code(), Some(0));
    });
}

#[test]
fn sighup_says_whether_renewed_certificates_can_be_used() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path());
        let mut cluster = Cluster::not_started(Setup::default());
        for (id, server) in cluster.servers.iter().enumerate() {
            let with_tls = format!("{}\n{}", read(&server.config), authority.section(&[id]));
            std::fs::write(&server.config, with_tls).expect("written");
        }
        cluster.servers.iter_mut().for_each(Server::start);
        cluster.ready().await;
        let (server, log) = (&cluster.servers[0], cluster.servers[0].log.clone());
        signal(server.id(), "HUP");
        wait_for(&log, "SIGHUP: read the configuration again").await;
        assert!(!server.log_text().contains("certificate"), "{}", server.log_text());
        std::fs::write(folder.path().join("certificates/replica-0.pem"), "nothing").expect("written");
        signal(server.id(), "HUP");
        wait_for(&log, "replication.tls.certificate: ").await;
        wait_for(&log, "New connections use the certificates that were read before").await;
        server.ready().await;
    });
}

#[test]
fn a_signal_without_meaning_ends_no_server() {
    run(async {
        let mut server = Server::standalone(level("info")).await;
        for name in ["USR1", "USR2", "ALRM", "PIPE", "XFSZ", "HUP"] {
            signal(server.id(), name);
        }
        let log = server.log.clone();
        for name in ["SIGUSR1 has no", "SIGUSR2 has no", "SIGALRM has no", "limit on the size of files", "SIGHUP: read"]
        {
            wait_for(&log, name).await;
        }
        serves(&server).await;
        signal(server.id(), "QUIT");
        assert_eq!(server.ended().await.code(), Some(0), "in good order");
    });
}

#[test]
fn sighup_ends_a_command_whose_terminal_is_gone() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        // Tests that run under nohup pass an ignored SIGHUP on to the programs that they start.
        let mut command = std::process::Command::new("env");
        command
            .args(["--default-signal=HUP", PROGRAM])
            .args(["status", "--watch", "--admin", &server.admin])
            .stdout(Stdio::piped());
        let mut watching = command.spawn().expect("the program runs");
        let mut first = [0];
        watching.stdout.as_mut().expect("piped").read_exact(&mut first).expect("it shows something");
        signal(watching.id(), "HUP");
        let status = watching.wait().expect("it ends");
        assert_eq!(status.signal(), Some(1), "{status}");
    });
}

#[test]
fn an_election_is_one_line_per_replica() {
    run(async {
        let mut cluster = Cluster::start(level("info")).await;
        let primary = cluster.primary().await;
        cluster.servers[primary].kill().await;
        let lines = |log: String| {
            let is_news = |line: &&str| line.contains(&format!("(was replica {primary})"));
            log.lines().filter(is_news).map(str::to_string).collect::<Vec<_>>()
        };
        for (id, server) in cluster.servers.iter().enumerate().filter(|(id, _)| *id != primary) {
            let told = eventually("the new primary is told of", async || match lines(server.log_text()) {
                told if told.is_empty() => Err(server.log_text()),
                told => Ok(told),
            });
            let told = told.await;
            assert!(told.len() == 1 && told[0].contains(&format!(" replica={id} ")), "{told:?}");
        }
    });
}

#[test]
fn a_quiet_cluster_logs_nothing() {
    run(async {
        let cluster = Cluster::start(level("info")).await;
        eventually("all have said who leads", async || {
            match cluster.servers.iter().find(|server| !server.log_text().contains("is primary of view")) {
                Some(server) => Err(server.log_text()),
                None => Ok(()),
            }
        })
        .await;
        let logs = || cluster.servers.iter().map(Server::log_text).collect::<Vec<_>>();
        let before = logs();
        // There is no event for silence to wait for.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(logs(), before);
    });
}
