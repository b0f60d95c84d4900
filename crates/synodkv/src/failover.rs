//! `failover`.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::Value;

use crate::admin::AdminClient;
use crate::cli::FailoverArgs;
use crate::failure::Failure;
use crate::output::{self, Format};

/// What the server says it did.
#[derive(Debug, Deserialize)]
struct Done {
    old_primary: u32,
    new_primary: u32,
    view: u64,
    pause_at_most_ms: f64,
}

pub async fn run(args: FailoverArgs) -> Result<ExitCode, Failure> {
    let client = AdminClient::new()?;
    let query: Vec<(&str, String)> = args.to.map(|id| ("to", id.to_string())).into_iter().collect();
    let document: Value = client.post_first(&args.admin, "/failover", &query).await?;
    let done: Done = serde_json::from_value(document.clone())
        .map_err(|error| Failure::Failed(format!("the server answered with what makes no sense: {error}")))?;
    match args.format {
        Format::Json => output::write_json(&document)?,
        Format::Text => output::write_line(&show(&done))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(done: &Done) -> String {
    let Done { old_primary, new_primary, view, pause_at_most_ms } = done;
    if old_primary == new_primary {
        return format!("replica {new_primary} leads already (view {view}): nothing was changed");
    }
    format!(
        "replica {new_primary} leads now (view {view}), and replica {old_primary} follows; writes waited {:.0} ms at most",
        pause_at_most_ms.ceil()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_in_one_line() {
        let done = Done { old_primary: 0, new_primary: 2, view: 514, pause_at_most_ms: 11.2 };
        assert_eq!(show(&done), "replica 2 leads now (view 514), and replica 0 follows; writes waited 12 ms at most");
        let same = Done { old_primary: 2, ..done };
        assert_eq!(show(&same), "replica 2 leads already (view 514): nothing was changed");
    }
}
