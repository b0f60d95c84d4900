//! `debug bundle`: one archive with everything that somebody far away needs to understand a problem.
//!
//! Always: no value, no token, no password and no private key is in it. Values and secrets are
//! nothing that the paths asked here show; keys of rows are, in `/slow` and `/top`, and they are
//! removed unless `--with-keys` is given. `manifest.json` names all that could not be obtained.

mod archive;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use archive::Archive;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin::AdminClient;
use crate::doctor::{self, DoctorArgs};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::AdminTarget;
use crate::usage::{epilogue, whole_number};

/// How long one answer of a server may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// So much of the end of the log file.
const MAX_LOG_BYTES: u64 = 1 << 20;
/// Stands for a key of a row.
const REMOVED: &str = "(removed)";

/// The documents of a server: name in the archive, path, whether it shows keys.
const DOCUMENTS: [(&str, &str, bool); 8] = [
    ("status", "/status", false),
    ("settings", "/console/api/config", false),
    ("members", "/members", false),
    ("threads", "/threads", false),
    ("slow", "/slow?limit=1000", true),
    ("top-reads", "/top?by=reads&limit=128", true),
    ("top-writes", "/top?by=writes&limit=128", true),
    ("top-conflicts", "/top?by=conflicts&limit=128", true),
];

/// Collect what is needed to understand a problem.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Example:\n  synodkv debug bundle --out bundle.tar.zst", "a server refused"))]
pub struct DebugArgs {
    #[command(subcommand)]
    pub command: DebugCommand,
}

#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    Bundle(BundleArgs),
}

/// Write one archive with the state of all servers, to be sent to whoever helps.
///
/// It holds, of each server that answers: status, metrics, settings in force, members, threads, slow
/// requests and hot keys; and the report of `synodkv doctor`. With --config it also holds the end of
/// the log file on this machine, if the server writes one, and the doctor looks at this machine.
///
/// Values, tokens, passwords and private keys are never in it. Keys of rows are removed unless
/// --with-keys is given. Addresses, names of users in slow requests, of column families and of files
/// are in it. Where users and roles are on, it needs admin:member; without it, what is refused is
/// left out, and manifest.json says so.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv debug bundle\n  \
    synodkv debug bundle --admin 10.0.0.1:9190 --out /tmp/synodkv.tar.zst\n  \
    synodkv debug bundle --config /etc/synodkv/synodkv.toml\n  \
    tar --zstd -xOf /tmp/synodkv.tar.zst synodkv-debug/manifest.json", "the archive cannot be written"))]
pub struct BundleArgs {
    /// The archive; it must not exist yet. [default: synodkv-debug-TIME.tar.zst]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Include keys of rows: in slow requests, hot keys and log lines.
    #[arg(long)]
    pub with_keys: bool,
    /// The configuration file of the server on this machine.
    #[arg(long, value_name = "FILE", env = "SYNODKV_CONFIG")]
    pub config: Option<PathBuf>,
    /// The replica of the configuration that this machine runs.
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>, requires = "config")]
    pub node_id: Option<u32>,
    #[command(flatten)]
    pub admin: AdminTarget,
}

pub async fn run(args: DebugArgs) -> Result<ExitCode, Failure> {
    let DebugCommand::Bundle(args) = args.command;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("synodkv-debug-{now}.tar.zst")));
    let config = args.config.as_deref().map(|file| doctor::load(file, args.node_id)).transpose()?;
    let mut archive = Archive::create(&out, now)?;
    let mut missing = Vec::new();

    let checks = DoctorArgs {
        config: args.config.clone(),
        node_id: args.node_id,
        no_cluster: false,
        admin: args.admin.clone(),
        format: Format::Json,
    };
    match doctor::report(&checks).await {
        Ok(report) => archive.add_json("doctor.json", &json!(report))?,
        Err(failure) => missing.push(json!({ "what": "doctor", "why": failure.to_string() })),
    }
    let target = match &config {
        Some(config) => args.admin.or(doctor::configured(config)),
        None => args.admin,
    };
    let servers = add_servers(&mut archive, &target, args.with_keys, &mut missing).await?;
    if let Some(config) = &config {
        match &config.log.file {
            Some(file) => match end_of_log(file, args.with_keys) {
                Ok(lines) => archive.add("server.log", lines.as_bytes())?,
                Err(error) => missing.push(json!({ "what": "log", "why": format!("{}: {error}", file.display()) })),
            },
            None => missing.push(json!({ "what": "log", "why": "log.file is not set: it goes to standard error" })),
        }
    }
    archive.add_json(
        "manifest.json",
        &json!({
            "bundle_version": 1,
            "program": env!("CARGO_PKG_VERSION"),
            "time_s": now,
            "with_keys": args.with_keys,
            "servers": servers,
            "missing": missing,
        }),
    )?;
    archive.finish()?;
    output::write_line(&format!("{} ({} servers)", out.display(), servers.len()))?;
    for left_out in &missing {
        output::remark(format!(
            "left out: {}: {}",
            left_out["what"].as_str().unwrap_or_default(),
            left_out["why"].as_str().unwrap_or_default()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds what the servers show. Returns their addresses.
async fn add_servers(
    archive: &mut Archive,
    target: &AdminTarget,
    with_keys: bool,
    missing: &mut Vec<Value>,
) -> Result<Vec<String>, Failure> {
    let client = AdminClient::new()?;
    let gathered = match client.gather(target).await {
        Ok(gathered) => gathered,
        Err(failure) => {
            missing.push(json!({ "what": "servers", "why": failure.to_string() }));
            return Ok(Vec::new());
        }
    };
    for (address, reason) in gathered.unanswered {
        missing.push(json!({ "what": address, "why": reason }));
    }
    let mut servers = Vec::new();
    for answer in gathered.answers {
        let folder =
            format!("servers/{}", answer.address.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_"));
        for (name, path, shows_keys) in DOCUMENTS {
            match client.get::<Value>(&answer.address, path, &[], TIMEOUT).await {
                Ok(mut document) => {
                    if shows_keys && !with_keys {
                        remove_keys(&mut document);
                    }
                    archive.add_json(&format!("{folder}/{name}.json"), &document)?;
                }
                Err(reason) => {
                    missing.push(json!({ "what": format!("{} {path}", answer.address), "why": reason.to_string() }));
                }
            }
        }
        match client.get_text(&answer.address, "/metrics", TIMEOUT).await {
            Ok(page) => archive.add(&format!("{folder}/metrics.txt"), page.as_bytes())?,
            Err(reason) => {
                missing.push(json!({ "what": format!("{} /metrics", answer.address), "why": reason.to_string() }));
            }
        }
        servers.push(answer.address);
    }
    Ok(servers)
}

/// Replaces every field `key`, at any depth.
fn remove_keys(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "key" {
                    *value = REMOVED.into();
                } else {
                    remove_keys(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(remove_keys),
        _ => {}
    }
}

/// The last lines of the log. Without `with_keys`, without those that show keys of rows, and only
/// with the usual levels: others may show anything.
fn end_of_log(file: &Path, with_keys: bool) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut log = std::fs::File::open(file)?;
    let begin = log.metadata()?.len().saturating_sub(MAX_LOG_BYTES);
    log.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    log.take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be a part of one.
    let whole = if begin == 0 { &*text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(whole.split_inclusive('\n').filter(|line| with_keys || !may_show_keys(line)).collect())
}

fn may_show_keys(line: &str) -> bool {
    let is_usual = ["ERROR", "WARN", "INFO"].iter().any(|level| line.contains(level));
    !is_usual
        || line.contains("synodkv::slow")
        || line.contains("slow request")
        || line.contains("key=")
        || line.contains("\"key\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_removed_wherever_they_stand() {
        let mut document =
            json!({"requests": [{"key": "secret", "family": "f", "n": {"key": [1]}}], "keys": [{"key": 5}]});
        remove_keys(&mut document);
        let removed =
            json!({"requests": [{"key": REMOVED, "family": "f", "n": {"key": REMOVED}}], "keys": [{"key": REMOVED}]});
        assert_eq!(document, removed);
    }

    #[test]
    fn the_log_is_cut_at_a_line_and_loses_lines_that_may_show_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("server.log");
        let slow = "2026-03-01T09:14:07Z  WARN synodkv::slow: slow request key=\"secret\"\n";
        let slow_json = "{\"level\":\"WARN\",\"message\":\"slow request\",\"key\":\"secret\"}\n";
        let line = "2026-03-01T09:14:07Z  INFO rsml: replica 0 leads\n";
        let trace = "2026-03-01T09:14:07Z TRACE anything secret\n";
        std::fs::write(&file, [line, slow, slow_json, trace, line].concat()).expect("written");
        assert_eq!(end_of_log(&file, false).expect("readable"), line.repeat(2));
        assert_eq!(end_of_log(&file, true).expect("readable"), [line, slow, slow_json, trace, line].concat());
        let many = MAX_LOG_BYTES as usize / line.len() + 10;
        std::fs::write(&file, line.repeat(many)).expect("written");
        let kept = end_of_log(&file, false).expect("readable");
        assert!(kept.len() as u64 <= MAX_LOG_BYTES && kept.len() as u64 > MAX_LOG_BYTES / 2);
        assert!(kept.split_inclusive('\n').all(|kept| kept == line));
    }
}
