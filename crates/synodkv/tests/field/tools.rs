//! Tests of the command-line tools if a server hangs: it accepts connections and never answers.

use serde_json::Value;

use crate::harness::{Cluster, Setup, assert_exit, cli, run, signal, text};
use crate::waiting::eventually;

/// Addresses of all servers, those of this one first.
fn with_first(cluster: &Cluster, first: usize) -> (String, String) {
    let order: Vec<usize> = std::iter::once(first).chain((0..3).filter(|id| *id != first)).collect();
    let join = |addresses: Vec<&str>| addresses.join(",");
    (
        join(order.iter().map(|id| &cluster.servers[*id].thrift[..]).collect()),
        join(order.iter().map(|id| &cluster.servers[*id].admin[..]).collect()),
    )
}

#[test]
fn every_command_works_while_the_first_server_hangs() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        let primary = cluster.primary().await;
        let hung = (primary + 1) % 3;
        let (thrift, admin) = with_first(&cluster, hung);
        signal(cluster.servers[hung].id(), "STOP");
        for (words, input) in [
            (&["get", "k"][..], ""),
            (&["set", "k", "w"], ""),
            (&["delete", "other"], ""),
            (&["range"], ""),
            (&["import", "--no-header"], "a\t1\n"),
            (&["txn", "-e", "get k", "-e", "set k x"], ""),
            (&["shell", "-e", "get k", "-e", "set k y"], ""),
            (&["bench", "load", "--records", "10"], ""),
            (&["family", "create", "f"], ""),
            (&["family", "list"], ""),
            (&["family", "drop", "f"], ""),
        ] {
            let output = cli(&thrift, &admin, words, input.as_bytes());
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        }
        let status = cli(&thrift, &admin, &["status"], b"");
        assert_exit(&status, 0);
        let shown = text(&status.stdout);
        assert!(shown.contains(&format!("primary  replica {primary}")), "{shown}");
        assert!(shown.contains(&format!("NO ANSWER from {}", cluster.servers[hung].admin)), "{shown}");
        let verify = cli(&thrift, &admin, &["verify", "--format", "json"], b"");
        assert_exit(&verify, 3);
        let report: Value = serde_json::from_slice(&verify.stdout).expect("JSON");
        assert!(report["replicas"][hung]["error"].as_str().is_some_and(|error| error.contains("hangs")), "{report}");
        assert_eq!(report["replicas"][hung]["rows"], 0, "{report}");
        let target = (0..3).find(|id| *id != primary && *id != hung).expect("three replicas").to_string();
        let failover = cli(&thrift, &admin, &["failover", "--to", &target], b"");
        assert_exit(&failover, 0);
        assert!(text(&failover.stdout).starts_with(&format!("replica {target} leads now")), "{failover:?}");
        signal(cluster.servers[hung].id(), "CONT");
        eventually("the replicas agree", async || {
            let output = cluster.cli(&["verify"]);
            if output.status.success() { Ok(()) } else { Err(text(&output.stdout)) }
        })
        .await;
    });
}

#[test]
fn a_primary_that_hangs_is_replaced_and_the_tools_find_the_next_one() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        let hung = cluster.primary().await;
        let (thrift, admin) = with_first(&cluster, hung);
        signal(cluster.servers[hung].id(), "STOP");
        eventually("another replica leads", async || {
            let output = cli(&thrift, &admin, &["status", "--format", "json"], b"");
            let status: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
            match status["primary"].as_u64() {
                Some(primary) if primary != hung as u64 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_exit(&cli(&thrift, &admin, &["set", "k", "w"], b""), 0);
        let get = cli(&thrift, &admin, &["get", "k"], b"");
        assert_exit(&get, 0);
        assert_eq!(text(&get.stdout), "w");
        // The request is sent once, and only to a server that answers. A replica that hangs cannot
        // become primary.
        let output = cli(&thrift, &admin, &["failover", "--to", &hung.to_string()], b"");
        let error = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 3)), "{error}");
        signal(cluster.servers[hung].id(), "CONT");
    });
}

#[test]
fn a_watch_continues_while_the_first_server_hangs() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        let hung = (cluster.primary().await + 1) % 3;
        let (_, admin) = with_first(&cluster, hung);
        signal(cluster.servers[hung].id(), "STOP");
        let mut command = std::process::Command::new(crate::harness::PROGRAM);
        command.args(["status", "--watch", "0.1", "--format", "json", "--admin", &admin]);
        let mut watch = command.stdout(std::process::Stdio::piped()).spawn().expect("the program runs");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().expect("piped")));
        for line in lines.take(3) {
            let status: Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
            assert_eq!(status["unanswered"][0]["admin"], cluster.servers[hung].admin, "{status}");
        }
        signal(watch.id(), "INT");
        assert!(watch.wait().expect("it ends").success());
    });
}
