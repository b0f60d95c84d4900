//! The alerts and the dashboard in `deploy` name metrics that a running cluster has, and a process
//! has few series.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::server::{PROGRAM, Server, unused_address};
use crate::{assert_exit, printed, run, text};

/// Beyond this, a process costs its Prometheus server too much.
const MAX_SERIES: usize = 2000;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// Three replicas in one process, on disk, with a certificate for Thrift clients that want one.
fn cluster(folder: &Path) -> Server {
    let key = rcgen::KeyPair::generate().expect("a key");
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_string()]).expect("a valid name");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join("server.pem"), certificate.pem()).expect("written");
    std::fs::write(folder.join("server.key"), key.serialize_pem()).expect("written");
    let mut settings = format!(
        "mode = \"replicated\"\n[server]\nthrift_addr = \"127.0.0.1:0\"\nadmin_addr = \"127.0.0.1:0\"\n\
         [server.tls]\nmode = \"allow\"\ncertificate = \"{folder}/server.pem\"\nkey = \"{folder}/server.key\"\n\
         [admin.tls]\nmode = \"off\"\n[replication]\nwal_segment_mb = 1\n",
        folder = folder.display()
    );
    for id in 0..3 {
        settings += &format!("[[replication.replicas]]\nid = {id}\npeer = \"{}\"\n", unused_address());
    }
    let file = folder.join("cluster.toml");
    std::fs::write(&file, settings).expect("written");
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--config"]).arg(file).stderr(Stdio::null());
    Server::start_by(&mut command, folder.join("data"))
}

fn metrics(server: &Server) -> String {
    let mut stream = TcpStream::connect(&server.admin).expect("the server listens");
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.admin);
    stream.write_all(request.as_bytes()).expect("written");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("text");
    page
}

/// The names of metrics in a query.
fn names(query: &str) -> impl Iterator<Item = String> + '_ {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("synodkv_")).map(str::to_string)
}

fn names_in_dashboard(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| match (key.as_str(), value) {
            ("expr" | "query", Value::String(query)) => into.extend(names(query)),
            (_, value) => names_in_dashboard(value, into),
        }),
        Value::Array(values) => values.iter().for_each(|value| names_in_dashboard(value, into)),
        _ => {}
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_a_running_cluster_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = cluster(folder.path());
    printed(run(&server, &["set", "k", "v"]));
    // For the counter of errors.
    assert_exit(&run(&server, &["get", "--family", "none", "k"]), 1);
    let page = metrics(&server);
    let samples: Vec<&str> = page.lines().filter(|line| line.starts_with("synodkv_")).collect();
    assert!(samples.len() < MAX_SERIES, "{} series", samples.len());
    let present: BTreeSet<&str> = samples.iter().filter_map(|line| line.split(['{', ' ']).next()).collect();

    let alerts = std::fs::read_to_string(deploy("prometheus/alerts.yml")).expect("readable");
    let mut wanted: BTreeSet<String> = names(&alerts).collect();
    assert!(wanted.len() > 10, "{wanted:?}");
    let dashboard = std::fs::read_to_string(deploy("grafana/synodkv.json")).expect("readable");
    names_in_dashboard(&serde_json::from_str(&dashboard).expect("JSON"), &mut wanted);
    assert!(wanted.len() > 30, "{wanted:?}");
    let unknown: Vec<&String> = wanted.iter().filter(|name| !present.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}\n{page}");
}

#[test]
fn promtool_accepts_the_alerts_and_they_fire_when_they_should() {
    let promtool = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).current_dir(deploy("prometheus")).output();
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("promtool is not installed: nothing was checked");
                return;
            }
            output => output.expect("promtool runs"),
        };
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    };
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}
