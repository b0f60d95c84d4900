//! `failover`.

use std::process::ExitCode;

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::admin::{AdminClient, server_of_the_primary};
use crate::cli::FailoverArgs;
use crate::failure::Failure;
use crate::output;

/// The server's report of a failover.
#[derive(Debug, Deserialize)]
struct Done {
    old_primary: u32,
    new_primary: u32,
    view: u64,
    pause_at_most_ms: f64,
}

pub async fn run(args: FailoverArgs) -> Result<ExitCode, Failure> {
    let client = AdminClient::new()?;
    let gathered = client.gather(&args.admin).await?;
    let address = server_of_the_primary(&gathered)?;
    let query: Vec<(&str, String)> = args.to.map(|id| ("to", id.to_string())).into_iter().collect();
    let document: Value = client.change_at(Method::POST, address, "/failover", &query).await?;
    let done: Done = serde_json::from_value(document.clone()).map_err(Failure::of_answer)?;
    output::done(args.format, &document, &show(&done))
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
    use serde_json::json;

    use super::*;
    use crate::admin::{Answer, Gathered};

    #[test]
    fn the_result_is_reported_in_one_line() {
        let done = Done { old_primary: 0, new_primary: 2, view: 514, pause_at_most_ms: 11.2 };
        assert_eq!(show(&done), "replica 2 leads now (view 514), and replica 0 follows; writes waited 12 ms at most");
        let same = Done { old_primary: 2, ..done };
        assert_eq!(show(&same), "replica 2 leads already (view 514): nothing was changed");
    }

    fn answer(node: u32, primary: Option<u32>, view: u64) -> Answer {
        let replicas = (0..3).map(|id| json!({"id": id, "role": "x", "reachable": true, "admin": format!("h{id}:1")}));
        let document = json!({
            "mode": "replicated", "node_id": node, "primary": primary, "view": view, "replicas": replicas.collect::<Vec<_>>()
        });
        let status = serde_json::from_value(document.clone()).expect("a status");
        Answer { address: format!("h{node}:1"), document, status }
    }

    #[test]
    fn the_request_goes_to_the_primary_of_the_newest_view() {
        let answers = vec![answer(0, Some(0), 7), answer(1, Some(2), 8), answer(2, Some(2), 8)];
        assert_eq!(server_of_the_primary(&Gathered { answers, unanswered: Vec::new() }).expect("replica 2"), "h2:1");
        let answers = vec![answer(1, None, 9), answer(0, None, 9)];
        assert_eq!(server_of_the_primary(&Gathered { answers, unanswered: Vec::new() }).expect("it says why"), "h1:1");
    }

    #[test]
    fn a_hanging_primary_gets_no_request_and_the_others_name_the_next_one() {
        let answers = || vec![answer(1, Some(0), 7), answer(2, Some(0), 7)];
        let unanswered = vec![("h0:1".to_string(), "no answer for 1 s".to_string())];
        let failure = server_of_the_primary(&Gathered { answers: answers(), unanswered }).expect_err("it hangs");
        assert!(matches!(&failure, Failure::Unsure(text) if text.contains("h0:1: no answer for 1 s")), "{failure}");
        let address = Gathered { answers: answers(), unanswered: Vec::new() };
        assert_eq!(server_of_the_primary(&address).expect("somebody who redirects"), "h1:1");
    }
}
