//! `upgrade wait`: until replicas that were restarted serve, and have caught up, so that the next
//! one may be restarted.
//!
//! A replica counts as back once its *own* server reports it: the others may still remember the
//! process before. It has to serve linearizable reads, and to have applied everything that was
//! committed when the wait began.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::UpgradeTarget;
use crate::admin::{AdminClient, Gathered, Replica};
use crate::failure::Failure;
use crate::output;

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long a server may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn run(nodes: &[u32], timeout: Duration, target: &UpgradeTarget) -> Result<ExitCode, Failure> {
    let client = AdminClient::new()?;
    let began = Instant::now();
    let mut committed = None;
    loop {
        let missing = match client.gather(&target.admin).await {
            Ok(gathered) => {
                committed = committed.or_else(|| greatest_committed(&gathered));
                first_missing(&client, &gathered, nodes, committed.unwrap_or(0)).await?
            }
            Err(failure @ Failure::Usage(_)) => return Err(failure),
            Err(failure) => Some(failure.to_string()),
        };
        let Some(reason) = missing else {
            let seconds = began.elapsed().as_secs_f64();
            let document = json!({ "nodes": nodes, "waited_seconds": seconds });
            return output::done(target.format, &document, &show(nodes, seconds));
        };
        if began.elapsed() >= timeout {
            let waited = timeout.as_secs();
            return Err(Failure::Unsure(format!("after {waited} s: {reason}; do not restart another replica now")));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn show(nodes: &[u32], seconds: f64) -> String {
    let all: Vec<String> = nodes.iter().map(u32::to_string).collect();
    let (noun, verb) = if nodes.len() == 1 { ("replica", "serves, and has") } else { ("replicas", "serve, and have") };
    format!("{noun} {} {verb} caught up (after {seconds:.1} s)", all.join(", "))
}

fn greatest_committed(gathered: &Gathered) -> Option<u64> {
    let replicas = gathered.answers.iter().flat_map(|answer| &answer.status.replicas);
    replicas.filter_map(|replica| replica.committed).max()
}

/// The first replica that is not back, and why.
async fn first_missing(
    client: &AdminClient,
    gathered: &Gathered,
    nodes: &[u32],
    committed: u64,
) -> Result<Option<String>, Failure> {
    let status = &gathered.best().status;
    for id in nodes {
        let Some(known) = status.replicas.iter().find(|replica| replica.id == *id) else {
            let ids: Vec<String> = status.replicas.iter().map(|replica| replica.id.to_string()).collect();
            return Err(Failure::Usage(format!("--node {id}: there is no such replica; there are {}", ids.join(", "))));
        };
        let own = own_report(gathered, known);
        let Some((address, own)) = own else { return Ok(Some(format!("replica {id}: its server does not answer"))) };
        if let Some(reason) = behind(own, committed) {
            return Ok(Some(reason));
        }
        if let Err(reason) = client.get::<Value>(address, "/health/ready", &[], READY_TIMEOUT).await {
            return Ok(Some(format!("replica {id} does not serve yet: {reason}")));
        }
    }
    Ok(None)
}

/// The report of a replica's own server about it.
fn own_report<'a>(gathered: &'a Gathered, known: &Replica) -> Option<(&'a str, &'a Replica)> {
    let answers = gathered.answers.iter();
    let own = answers.filter(|answer| {
        let is_same = |place: &str| Some(place) == known.admin.as_deref();
        answer.status.node_id == Some(known.id) || is_same(&answer.address)
    });
    own.filter_map(|answer| {
        let replica = answer.status.replicas.iter().find(|replica| replica.id == known.id)?;
        Some((answer.address.as_str(), replica))
    })
    .next()
}

fn behind(replica: &Replica, committed: u64) -> Option<String> {
    let id = replica.id;
    if let Some(problem) = &replica.problem {
        return Some(format!("replica {id}: {problem}"));
    }
    if matches!(replica.role.as_str(), "unknown" | "candidate") {
        return Some(format!("replica {id} follows no primary yet"));
    }
    // Standalone there is no log, and nothing to catch up with.
    let applied = replica.applied?;
    (applied < committed).then(|| format!("replica {id} has applied {applied} of {committed} entries"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Answer, Status};

    fn answer(node: u32, address: &str, applied: u64) -> Answer {
        let replica = |id: u32| {
            json!({"id": id, "role": "secondary", "reachable": true, "committed": 9, "applied": if id == node { applied } else { 3 },
                   "admin": format!("h{id}:1")})
        };
        let document = json!({"mode": "replicated", "node_id": node, "primary": 0, "view": 7, "replicas": [replica(0), replica(1)]});
        let status: Status = serde_json::from_value(document.clone()).expect("a status");
        Answer { address: address.to_string(), document, status }
    }

    #[test]
    fn only_the_own_server_of_a_replica_counts() {
        let all = Gathered { answers: vec![answer(0, "h0:1", 9), answer(1, "forwarded:7", 8)], unanswered: Vec::new() };
        let known = all.answers[0].status.replicas[1].clone();
        let (address, own) = own_report(&all, &known).expect("it answered, at another address");
        assert_eq!((address, own.applied), ("forwarded:7", Some(8)));
        let others = Gathered { answers: vec![answer(0, "h0:1", 9)], unanswered: Vec::new() };
        assert!(own_report(&others, &known).is_none(), "what the others remember does not count");
    }

    #[test]
    fn a_replica_that_has_not_applied_everything_is_behind() {
        let replica = answer(1, "h1:1", 8).status.replicas[1].clone();
        assert_eq!(behind(&replica, 9).expect("behind"), "replica 1 has applied 8 of 9 entries");
        assert_eq!(behind(&Replica { applied: Some(9), ..replica.clone() }, 9), None);
        let lost = Replica { role: "unknown".to_string(), ..replica };
        assert!(behind(&lost, 0).expect("no primary").contains("follows no primary"));
    }

    #[test]
    fn the_result_names_the_replicas() {
        assert_eq!(show(&[2], 1.25), "replica 2 serves, and has caught up (after 1.2 s)");
        assert_eq!(show(&[0, 1], 0.0), "replicas 0, 1 serve, and have caught up (after 0.0 s)");
    }
}
