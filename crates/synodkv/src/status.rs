//! `status`, once or again and again.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use crate::admin::{AdminClient, Replica, Status};
use crate::cli::{StatusArgs, check_addresses};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::screen::Screen;
use crate::signals::Signals;

/// How long `--watch` waits for an answer before it says that there is none.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    if let Some(interval) = args.watch {
        return watch(&args, interval).await;
    }
    let (document, status) = ask(&AdminClient::new()?, &args).await?;
    match args.format {
        Format::Json => output::write_json(&document)?,
        Format::Text => output::write_line(&show(&status))?,
    }
    Ok(ExitCode::from(u8::from(status.primary.is_none())))
}

async fn ask(client: &AdminClient, args: &StatusArgs) -> Result<(Value, Status), Failure> {
    let (address, document): (String, Value) = client.first_status(&args.admin).await?;
    let status: Status = serde_json::from_value(document.clone())
        .map_err(|error| Failure::Failed(format!("{address} answered with a status that makes no sense: {error}")))?;
    Ok((document, status))
}

async fn watch(args: &StatusArgs, interval: Duration) -> Result<ExitCode, Failure> {
    check_addresses("--admin", &args.admin.admin_addresses)?;
    let client = AdminClient::with_timeout(WATCH_TIMEOUT)?;
    let mut signals = Signals::listen()?;
    let screen = if args.format == Format::Text { Screen::open()? } else { None };
    let mut page = Page { interval, last: None };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let answer = tokio::select! {
            _ = signals.next() => break,
            answer = async { ticks.tick().await; ask(&client, args).await } => answer,
        };
        match (&screen, args.format, answer) {
            (Some(screen), _, answer) => screen.draw(&page.of(answer.map(|(_, status)| status)))?,
            (None, Format::Json, Ok((document, _))) => output::write_json(&document)?,
            (None, Format::Text, Ok((_, status))) => output::write_line(&format!("{}\n", show(&status)))?,
            (None, _, Err(failure)) => eprintln!("error: {failure}"),
        }
    }
    if screen.is_some() {
        // What was seen last stays when the screen is given back.
        drop(screen);
        output::write_line(&page.body())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is on the screen: the last status that there was, and since when there is none.
struct Page {
    interval: Duration,
    last: Option<(Instant, Status)>,
}

impl Page {
    fn of(&mut self, answer: Result<Status, Failure>) -> String {
        let heading = match answer {
            Ok(status) => {
                self.last = Some((Instant::now(), status));
                format!("every {} s; Ctrl-C ends", self.interval.as_secs_f64())
            }
            Err(failure) => match &self.last {
                Some((then, _)) => format!("NO ANSWER for {:.0} s: {failure}", then.elapsed().as_secs_f64()),
                None => format!("NO ANSWER: {failure}"),
            },
        };
        format!("{heading}\n\n{}", self.body())
    }

    fn body(&self) -> String {
        self.last.as_ref().map(|(_, status)| show(status)).unwrap_or_default()
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_string(), |value| value.to_string())
}

fn show(status: &Status) -> String {
    let primary = match status.primary {
        Some(id) => format!("replica {id}"),
        None => "none: writes wait until the replicas have elected one".to_string(),
    };
    let mut lines = vec![
        format!("mode     {}", status.mode),
        format!("cluster  {}", or_dash(status.cluster_id.as_ref())),
        format!("primary  {primary}"),
        format!("view     {}", or_dash(status.view)),
        format!("families {}", status.column_families.join(", ")),
        String::new(),
    ];
    let heading = ["replica", "role", "reachable", "view", "last", "committed", "applied", "digest", "thrift", "admin"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(status.replicas.iter().map(show_replica));
    lines.push(output::table(&rows));
    for (id, problem) in status.replicas.iter().filter_map(|replica| Some((replica.id, replica.problem.as_ref()?))) {
        lines.extend([String::new(), format!("PROBLEM: replica {id}: {problem}")]);
    }
    lines.join("\n")
}

fn show_replica(replica: &Replica) -> Vec<String> {
    // A digest means something only together with the sequence that it covers.
    let digest = replica.digest.as_ref().map(|digest| match replica.digest_sequence {
        Some(sequence) => format!("{digest}@{sequence}"),
        None => digest.clone(),
    });
    vec![
        replica.id.to_string(),
        replica.role.clone(),
        if replica.reachable { "yes" } else { "no" }.to_string(),
        or_dash(replica.view),
        or_dash(replica.last_sequence),
        or_dash(replica.committed),
        or_dash(replica.applied),
        or_dash(digest),
        or_dash(replica.thrift.as_ref()),
        or_dash(replica.admin.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_shows_the_primary_and_a_line_for_each_replica() {
        let status: Status = serde_json::from_value(json!({
            "mode": "replicated", "cluster_id": "c1", "node_id": 0, "primary": 1, "view": 7,
            "column_families": ["default", "users"],
            "replicas": [
                {"id": 0, "role": "secondary", "reachable": true, "view": 7, "last_sequence": 9, "committed": 9,
                 "applied": 8, "digest": "00ff", "digest_sequence": 8, "thrift": "127.0.0.1:9090",
                 "admin": "127.0.0.1:9190"},
                {"id": 1, "role": "primary", "reachable": false}
            ]
        }))
        .expect("a status");
        let text = show(&status);
        assert!(text.contains("primary  replica 1") && text.contains("families default, users"), "{text}");
        let replica = text.lines().find(|line| line.starts_with('0')).expect("a line for replica 0");
        let cells: Vec<&str> = replica.split_whitespace().collect();
        assert_eq!(cells, ["0", "secondary", "yes", "7", "9", "9", "8", "00ff@8", "127.0.0.1:9090", "127.0.0.1:9190"]);
    }

    #[test]
    fn what_is_wrong_with_a_replica_is_said_below_the_table() {
        let status: Status = serde_json::from_value(json!({
            "mode": "replicated", "primary": 0,
            "replicas": [
                {"id": 0, "role": "primary", "reachable": true},
                {"id": 1, "role": "unknown", "reachable": false, "problem": "its database has diverged"}
            ]
        }))
        .expect("a status");
        assert!(show(&status).ends_with("\n\nPROBLEM: replica 1: its database has diverged"));
    }

    #[test]
    fn a_page_keeps_the_last_status_while_nobody_answers() {
        let status: Status =
            serde_json::from_value(json!({"mode": "replicated", "primary": 2, "replicas": []})).expect("a status");
        let mut page = Page { interval: Duration::from_millis(500), last: None };
        let nobody = || Err(Failure::Failed("connection refused".to_string()));
        assert_eq!(page.of(nobody()), "NO ANSWER: connection refused\n\n");
        assert!(page.of(Ok(status)).starts_with("every 0.5 s; Ctrl-C ends\n\nmode     replicated\n"));
        let stale = page.of(nobody());
        assert!(stale.starts_with("NO ANSWER for 0 s: connection refused\n\nmode "), "{stale}");
    }

    #[test]
    fn without_a_primary_the_status_says_what_that_means() {
        let status: Status =
            serde_json::from_value(json!({"mode": "replicated", "primary": null, "replicas": []})).expect("a status");
        assert!(show(&status).contains("primary  none: writes wait"));
    }
}
