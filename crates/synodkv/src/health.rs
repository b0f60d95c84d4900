//! `health`: asks servers whether they work, for containers and scripts that have no other client
//! of HTTP.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::admin::{AdminClient, NoAnswer};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::AdminTarget;
use crate::usage::epilogue;

/// Longer than a server takes for its probes.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Ask servers whether they serve.
///
/// Each given server answers for itself; others are not asked. By default the question is whether a
/// linearizable read succeeds now. A supervisor that restarts processes asks with --live, which
/// never depends on other replicas, nor on the space on the disk.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv health                                          does it serve reads?\n  \
    synodkv health --writes --admin 127.0.0.1:9190,127.0.0.1:9191\n  \
    synodkv health --live                                   can the process do its work?", "a server does not serve"))]
pub struct HealthArgs {
    /// Only ask whether the process can do its work.
    #[arg(long, conflicts_with = "writes")]
    pub live: bool,
    /// Also ask whether an empty write succeeds.
    #[arg(long)]
    pub writes: bool,
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Whether one server serves; otherwise the reason.
struct Told {
    address: String,
    outcome: Result<(), NoAnswer>,
}

pub async fn run(args: HealthArgs) -> Result<ExitCode, Failure> {
    let client = AdminClient::new()?;
    let path = if args.live { "/health/live" } else { "/health/ready" };
    let query: Vec<(&str, String)> = if args.writes { vec![("writes", "1".to_string())] } else { Vec::new() };
    let mut all = Vec::new();
    for address in args.admin.addresses()? {
        let outcome = client.get::<Value>(&address, path, &query, TIMEOUT).await.map(drop);
        all.push(Told { address, outcome });
    }
    match args.format {
        Format::Json => output::write_json(&document(&all))?,
        Format::Text => output::write_line(&show(&all, if args.live { "live" } else { "ready" }))?,
    }
    Ok(ExitCode::from(status_of(&all)))
}

fn status_of(all: &[Told]) -> u8 {
    let refuses = |told: &Told| matches!(told.outcome, Err(NoAnswer::Refused(..)));
    match (all.iter().any(refuses), all.iter().all(|told| told.outcome.is_ok())) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 3,
    }
}

fn document(all: &[Told]) -> Value {
    let of = |told: &Told| {
        json!({
            "admin": told.address, "ok": told.outcome.is_ok(), "reason": told.outcome.as_ref().err().map(ToString::to_string)
        })
    };
    json!({ "servers": all.iter().map(of).collect::<Vec<_>>() })
}

fn show(all: &[Told], word: &str) -> String {
    let line = |told: &Told| match &told.outcome {
        Ok(()) => format!("{}: {word}", told.address),
        Err(NoAnswer::Refused(_, reason)) => format!("{}: not {word}: {reason}", told.address),
        Err(reason) => format!("{}: no answer: {reason}", told.address),
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    #[test]
    fn a_refusal_is_a_no_and_silence_is_unknown() {
        let told = |outcome| Told { address: "h:1".to_string(), outcome };
        let refused = || NoAnswer::Refused(StatusCode::SERVICE_UNAVAILABLE, "no primary".to_string());
        assert_eq!(status_of(&[told(Ok(())), told(Ok(()))]), 0);
        assert_eq!(status_of(&[told(Ok(())), told(Err(NoAnswer::NotSent("refused".into())))]), 3);
        assert_eq!(status_of(&[told(Err(NoAnswer::NotSent("refused".into()))), told(Err(refused()))]), 1);
        let text = show(&[told(Ok(())), told(Err(refused()))], "ready");
        assert_eq!(text, "h:1: ready\nh:1: not ready: no primary");
    }
}
