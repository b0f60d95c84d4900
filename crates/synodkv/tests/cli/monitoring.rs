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
    get(server, "/metrics")
}

/// An answer with its head.
fn get(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(&server.admin).expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", server.admin);
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

/// The value of a sample, by its name and labels.
fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}\n{page}")).trim().parse().expect("a number")
}

fn stage(page: &str, figure: &str, stage: &str) -> f64 {
    sample(page, &format!("synodkv_stage_seconds_{figure}{{stage=\"{stage}\"}}"))
}

#[test]
fn each_write_passes_each_stage_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let replicated = ["queue", "order", "quorum", "apply", "reply"].as_slice();
    let standalone = ["queue", "apply", "log_sync", "reply"].as_slice();
    for (server, stages) in [(cluster(folder.path()), replicated), (Server::start(), standalone)] {
        for _ in 0..3 {
            printed(run(&server, &["set", "k", "v"]));
        }
        printed(run(&server, &["get", "k"]));
        let page = metrics(&server);
        let counts: Vec<f64> = stages.iter().map(|name| stage(&page, "count", name)).collect();
        // The server may have written something itself.
        assert!(counts[0] >= 3.0 && counts.iter().all(|count| *count == counts[0]), "{counts:?}\n{page}");
        assert!(stage(&page, "count", "log_sync") >= 1.0);
        // A stage that ends in the round in which it began takes no time.
        assert!(["queue", "log_sync", "apply", "reply"].iter().all(|name| stage(&page, "sum", name) > 0.0), "{page}");
        assert_eq!(stage(&page, "count", "read_execute"), 1.0);
        assert!(sample(&page, "synodkv_thread_busy_seconds_total{thread=\"log\"}") > 0.0);
    }
}

/// Each field of `value` is in the schema. The schema itself allows others, for later releases.
fn assert_described(schema: &Value, root: &Value, value: &Value, place: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(place) => root.pointer(place.trim_start_matches('#')).expect("it is defined"),
        None => schema,
    };
    if let (Some(described), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, value) in fields {
            let field = described.get(name).unwrap_or_else(|| panic!("{place}.{name} is not in the schema"));
            assert_described(field, root, value, &format!("{place}.{name}"));
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().for_each(|value| assert_described(items, root, value, &format!("{place}[]")));
    }
}

#[test]
fn the_status_follows_its_schema() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/status.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(&file).expect("readable")).expect("JSON");
    let folder = tempfile::tempdir().expect("a folder");
    for server in [cluster(folder.path()), Server::start()] {
        printed(run(&server, &["set", "k", "v"]));
        // Judged from the second sample on.
        let status = loop {
            let answer = get(&server, "/status");
            let body = answer.split_once("\r\n\r\n").expect("a body").1;
            let status: Value = serde_json::from_str(body).expect("JSON");
            if !status["limited_by"].is_null() {
                break status;
            }
            std::thread::yield_now();
        };
        assert_described(&schema, &schema, &status, "status");
        for name in schema["required"].as_array().expect("a list") {
            assert!(status.get(name.as_str().expect("a name")).is_some(), "no {name}: {status}");
        }
        assert!(printed(run(&server, &["status"])).contains("\nlimit    "), "{status}");
        let document = folder.path().join("status.json");
        std::fs::write(&document, status.to_string()).expect("written");
        let check = "import json, sys\ntry:\n    import jsonschema\nexcept ImportError:\n    sys.exit(77)\n\
                     schema, status = (json.load(open(file)) for file in sys.argv[1:])\n\
                     jsonschema.Draft202012Validator.check_schema(schema)\n\
                     jsonschema.Draft202012Validator(schema).validate(status)\n";
        match Command::new("python3").args(["-c", check]).arg(&file).arg(&document).output() {
            Ok(output) if output.status.code() == Some(77) => {
                eprintln!("no jsonschema for Python: types are unchecked")
            }
            Ok(output) => assert!(output.status.success(), "{}", text(&output.stderr)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => eprintln!("no Python: types are unchecked"),
            Err(error) => panic!("{error}"),
        }
    }
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
