//! `upgrade`: plans an upgrade, waits for its steps, shows the feature level of a cluster, and
//! raises it.

mod plan;
mod wait;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use self::plan::Plan;
use crate::admin::{AdminClient, Replica, Status, server_of_the_primary};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::{AdminTarget, seconds};
use crate::usage::{epilogue, whole_number};

/// See how far an upgrade has come, and finish it.
///
/// A cluster has a feature level, which decides what its log may hold. A release executes a range
/// of levels. During an upgrade the level stays where it is, so that the previous release can be
/// put back. Once all replicas run the new release, `upgrade finalize` raises the level: only then
/// can its new kinds of changes be used, and releases that do not execute the level cannot be put
/// back any more.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv upgrade plan                   the order of the restarts, and whether now is a good time\n  \
    synodkv upgrade wait --node 1          after the restart of replica 1\n  \
    synodkv upgrade status\n  \
    synodkv upgrade finalize               to the highest level that all replicas execute\n  \
    synodkv upgrade finalize --to 2", NO))]
pub struct UpgradeArgs {
    #[command(subcommand)]
    pub action: UpgradeAction,
}

const NO: &str =
    "the level was not raised, with the reason; `plan`: not now, with the reason; `status`: there is no primary";

#[derive(Debug, Subcommand)]
pub enum UpgradeAction {
    /// Show in which order to restart the servers with a new release, and whether now is a good
    /// time.
    ///
    /// It changes nothing. The order is: observers, then secondaries, then the primary.
    #[command(after_help = epilogue("Example:\n  synodkv upgrade plan",
        "not now: there is no primary, or a replica is away or has a problem"))]
    Plan(UpgradeTarget),
    /// Wait until a replica that was restarted serves, and has caught up.
    ///
    /// Then the next one may be restarted. The replica's own server must answer.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv upgrade wait --node 1\n  \
        synodkv upgrade wait --node 1 --timeout-seconds 1800", "never"))]
    Wait {
        /// The replica; may be repeated.
        #[arg(long = "node", value_name = "N", required = true, value_parser = whole_number::<u32>)]
        nodes: Vec<u32>,
        /// How long to wait, in seconds, 1 to 86400; then the exit status is 3.
        #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = seconds)]
        timeout_seconds: u64,
        #[command(flatten)]
        target: UpgradeTarget,
    },
    /// Show the feature level of the cluster, and the levels that the program of each replica
    /// executes.
    #[command(after_help = epilogue("Example:\n  synodkv upgrade status", "there is no primary"))]
    Status(UpgradeTarget),
    /// Raise the feature level. Releases that do not execute it cannot be put back.
    ///
    /// Every replica must have been heard from within ten seconds. If the level was reached before,
    /// nothing is changed, and the exit status is 0.
    #[command(after_help = epilogue("Examples:\n  \
        synodkv upgrade finalize\n  \
        synodkv upgrade finalize --to 2\n  \
        synodkv upgrade finalize --force       although a disk is lost", "the level was not raised, with the reason"))]
    Finalize {
        /// The feature level. [default: the highest that all replicas execute]
        #[arg(long, value_name = "N", value_parser = whole_number::<u32>)]
        to: Option<u32>,
        /// Raise the level although the disk that votes as some replica is lost, or is down for
        /// long. A majority must be there. A replica that comes back later with an older release
        /// stops until it gets the new one.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        target: UpgradeTarget,
    },
}

#[derive(Debug, Args)]
pub struct UpgradeTarget {
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// The server's report of a raise.
#[derive(Debug, Deserialize)]
struct Done {
    feature_level: u32,
    before: u32,
}

pub async fn run(args: UpgradeArgs) -> Result<ExitCode, Failure> {
    let client = AdminClient::new()?;
    match args.action {
        UpgradeAction::Plan(target) => {
            let gathered = client.gather(&target.admin).await?;
            let plan = Plan::of(&gathered);
            output::done(target.format, &plan.document(), &plan.show())?;
            Ok(ExitCode::from(u8::from(!plan.may_begin())))
        }
        UpgradeAction::Wait { nodes, timeout_seconds, target } => {
            wait::run(&nodes, Duration::from_secs(timeout_seconds), &target).await
        }
        UpgradeAction::Status(target) => {
            let gathered = client.gather(&target.admin).await?;
            let status = &gathered.best().status;
            output::done(target.format, &document(status), &show(status))?;
            Ok(ExitCode::from(u8::from(status.primary.is_none())))
        }
        UpgradeAction::Finalize { to, force, target } => {
            let gathered = client.gather(&target.admin).await?;
            let address = server_of_the_primary(&gathered)?;
            let force = force.then(|| ("force", "true".to_string()));
            let to = to.map(|level| ("to", level.to_string()));
            let query: Vec<(&str, String)> = to.into_iter().chain(force).collect();
            let document: Value = client.change_at(Method::POST, address, "/upgrade/finalize", &query).await?;
            let done: Done = serde_json::from_value(document.clone()).map_err(Failure::of_answer)?;
            output::done(target.format, &document, &show_done(&done))
        }
    }
}

fn document(status: &Status) -> Value {
    let replicas = status.replicas.iter().map(|replica| {
        json!({
            "id": replica.id,
            "feature_level": replica.feature_level,
            "lowest_level": replica.lowest_level,
            "highest_level": replica.highest_level,
        })
    });
    json!({
        "feature_level": status.feature_level,
        "next_feature_level": status.next_feature_level,
        "feature_level_obstacle": status.feature_level_obstacle,
        "replicas": replicas.collect::<Vec<_>>(),
    })
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_string(), |value| value.to_string())
}

/// The levels that the program of a replica executes.
fn executes(replica: &Replica) -> String {
    match (replica.lowest_level, replica.highest_level) {
        (Some(lowest), Some(highest)) if lowest == highest => lowest.to_string(),
        (Some(lowest), Some(highest)) => format!("{lowest} to {highest}"),
        _ => "-".to_string(),
    }
}

fn show(status: &Status) -> String {
    let next = match (status.next_feature_level, &status.feature_level_obstacle) {
        (Some(next), _) => format!("{next}, with `synodkv upgrade finalize`"),
        (None, Some(obstacle)) => format!("none: {obstacle}"),
        (None, None) => "not known: the server is of a release without feature levels".to_string(),
    };
    let mut rows = vec![["replica", "level", "executes", "reachable"].map(str::to_string).to_vec()];
    rows.extend(status.replicas.iter().map(|replica| {
        let reachable = if replica.reachable { "yes" } else { "no" };
        vec![replica.id.to_string(), or_dash(replica.feature_level), executes(replica), reachable.to_string()]
    }));
    format!("level    {}\nnext     {next}\n\n{}", or_dash(status.feature_level), output::table(&rows))
}

fn show_done(done: &Done) -> String {
    let Done { feature_level, before } = done;
    match feature_level == before {
        true => format!("the feature level is {feature_level} already: nothing was changed"),
        false => format!(
            "the feature level is {feature_level} now, and was {before}: releases that do not execute it cannot be put back"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(next: Value, obstacle: Value) -> Status {
        let replica = |id, highest| {
            json!({"id": id, "role": "secondary", "reachable": id != 2, "feature_level": 1, "lowest_level": 1,
                   "highest_level": highest})
        };
        serde_json::from_value(json!({
            "mode": "replicated", "primary": 0, "view": 7, "feature_level": 1, "next_feature_level": next,
            "feature_level_obstacle": obstacle, "replicas": [replica(0, 2), replica(1, 1), {
                "id": 2, "role": "unknown", "reachable": false
            }]
        }))
        .expect("a status")
    }

    #[test]
    fn the_status_shows_the_levels_and_what_stands_in_the_way() {
        let text = show(&status(Value::Null, json!("the program of replica 1 executes level 1: upgrade it first")));
        assert!(text.starts_with("level    1\nnext     none: the program of replica 1"), "{text}");
        let lines: Vec<Vec<&str>> = text.lines().skip(4).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["0", "1", "1", "to", "2", "yes"]);
        assert_eq!(lines[1], ["1", "1", "1", "yes"]);
        assert_eq!(lines[2], ["2", "-", "-", "no"]);
        let text = show(&status(json!(2), Value::Null));
        assert!(text.contains("next     2, with `synodkv upgrade finalize`"), "{text}");
    }

    #[test]
    fn the_result_says_whether_the_level_was_raised() {
        assert!(show_done(&Done { feature_level: 2, before: 1 }).starts_with("the feature level is 2 now, and was 1"));
        assert!(show_done(&Done { feature_level: 2, before: 2 }).contains("already"));
    }
}
