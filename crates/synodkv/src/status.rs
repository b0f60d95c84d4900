//! `status`: shows the cluster, once or repeatedly.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::admin::{Access, AdminClient, Gathered, LimitedBy, Problem, Replica, Status};
use crate::cli::StatusArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::screen::Screen;
use crate::signals::Signals;

pub async fn run(args: StatusArgs) -> Result<ExitCode, Failure> {
    if let Some(interval) = args.watch {
        return watch(&args, interval).await;
    }
    let seen = Seen::of(&AdminClient::new()?.gather(&args.admin).await?);
    match args.format {
        Format::Json => output::write_json(&seen.document)?,
        Format::Text => output::write_line(&seen.show())?,
    }
    Ok(ExitCode::from(u8::from(seen.status.primary.is_none())))
}

/// The cluster as the most informed server sees it, and the problems of all servers.
struct Seen {
    /// That server's own answer, with the additions of the others.
    document: Value,
    status: Status,
    /// Each problem with the servers that have it.
    problems: Vec<(Problem, Vec<String>)>,
    unanswered: Vec<(String, String)>,
}

impl Seen {
    fn of(gathered: &Gathered) -> Seen {
        let mut problems: Vec<(Problem, Vec<String>)> = Vec::new();
        for answer in &gathered.answers {
            for problem in &answer.status.problems {
                match problems.iter_mut().find(|(known, _)| known == problem) {
                    Some((_, servers)) => servers.push(answer.address.clone()),
                    None => problems.push((problem.clone(), vec![answer.address.clone()])),
                }
            }
        }
        let best = gathered.best();
        let mut document = best.document.clone();
        let listed = problems.iter().map(|(Problem { kind, replica, text, remedy }, servers)| {
            json!({ "kind": kind, "replica": replica, "text": text, "remedy": remedy, "servers": servers })
        });
        document["problems"] = listed.collect();
        let unanswered = gathered.unanswered.clone();
        document["unanswered"] =
            unanswered.iter().map(|(address, reason)| json!({ "admin": address, "reason": reason })).collect();
        Seen { document, status: best.status.clone(), problems, unanswered }
    }

    fn show(&self) -> String {
        let mut text = show(&self.status);
        for (problem, servers) in &self.problems {
            let whose = match problem.replica {
                Some(id) => format!("replica {id}"),
                None => servers.join(", "),
            };
            text += &format!("\n\nPROBLEM: {whose}: {}\n  What to do: {}", problem.text, problem.remedy);
        }
        for (address, reason) in &self.unanswered {
            text += &format!("\n\nNO ANSWER from {address}: {reason}");
        }
        text
    }
}

async fn watch(args: &StatusArgs, interval: Duration) -> Result<ExitCode, Failure> {
    args.admin.addresses()?;
    let client = AdminClient::new()?;
    let mut signals = Signals::listen()?;
    let screen = if args.format == Format::Text { Screen::open()? } else { None };
    let mut page = Page { interval, last: None };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !output::is_closed() {
        let answer = tokio::select! {
            _ = signals.next() => break,
            answer = async { ticks.tick().await; client.gather(&args.admin).await } => answer,
        };
        let answer = answer.map(|gathered| Seen::of(&gathered));
        match (&screen, args.format, answer) {
            (Some(screen), _, answer) => screen.draw(&page.of(answer))?,
            (None, Format::Json, Ok(seen)) => output::write_json(&seen.document)?,
            (None, Format::Text, Ok(seen)) => output::write_line(&format!("{}\n", seen.show()))?,
            (None, _, Err(failure)) => output::remark(format!("error: {failure}")),
        }
    }
    if screen.is_some() {
        // Prints the last status again, so that it stays when the screen is restored.
        drop(screen);
        output::write_line(&page.body())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The content of the screen: the last status, and since when no server answers.
struct Page {
    interval: Duration,
    last: Option<(Instant, Seen)>,
}

impl Page {
    fn of(&mut self, answer: Result<Seen, Failure>) -> String {
        let heading = match answer {
            Ok(seen) => {
                self.last = Some((Instant::now(), seen));
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
        self.last.as_ref().map(|(_, seen)| seen.show()).unwrap_or_default()
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
        format!("epoch    {}", or_dash(status.epoch)),
        format!("view     {}", or_dash(status.view)),
        format!("level    {}", show_level(status)),
        format!("families {}", status.column_families.join(", ")),
        format!("access   {}", show_access(status.access.as_ref())),
    ];
    if let Some(LimitedBy { name, text }) = &status.limited_by {
        lines.push(format!("limit    {name}: {text}"));
    }
    lines.push(String::new());
    let heading = ["replica", "role", "reachable", "view", "last", "committed", "applied", "digest", "thrift", "admin"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(status.replicas.iter().map(show_replica));
    lines.push(output::table(&rows));
    // A problem that the replica's own server reports, with a remedy, need not be repeated.
    let is_told = |id: u32, text: &String| status.problems.iter().any(|p| p.replica == Some(id) && p.text == *text);
    let problems = status.replicas.iter().filter_map(|replica| Some((replica.id, replica.problem.as_ref()?)));
    for (id, problem) in problems.filter(|(id, problem)| !is_told(*id, problem)) {
        lines.extend([String::new(), format!("PROBLEM: replica {id}: {problem}")]);
    }
    lines.join("\n")
}

/// The feature level, and the next one if it can be raised.
fn show_level(status: &Status) -> String {
    let level = or_dash(status.feature_level);
    match status.next_feature_level {
        Some(next) => format!("{level} ({next} after `synodkv upgrade finalize`)"),
        None => level,
    }
}

fn show_access(access: Option<&Access>) -> String {
    match access {
        None => "-".to_string(),
        Some(Access { enabled: false, .. }) => "for everybody (`synodkv auth enable` changes that)".to_string(),
        Some(Access { enabled: true, revision, users, roles, tokens }) => format!(
            "{users} users, {roles} roles, {tokens} tokens, at revision {revision} (`synodkv auth show` lists them)"
        ),
    }
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
    use super::*;
    use crate::admin::Answer;

    #[test]
    fn a_problem_is_shown_once_with_its_remedy_whichever_servers_report_it() {
        let answer = |address: &str, view: u64, problems: Value| {
            let document = json!({
                "mode": "replicated", "primary": 0, "view": view, "problems": problems,
                "replicas": [{"id": 0, "role": "primary", "reachable": true, "problem": "its disk is full"}]
            });
            let status = serde_json::from_value(document.clone()).expect("a status");
            Answer { address: address.to_string(), document, status }
        };
        let full = json!({"kind": "disk_full", "replica": 0, "text": "its disk is full", "remedy": "make space"});
        let few = json!({"kind": "few_descriptors", "replica": null, "text": "256 are few", "remedy": "ulimit -n"});
        let gathered = Gathered {
            answers: vec![answer("a:1", 7, json!([full, few])), answer("b:1", 8, json!([full]))],
            unanswered: vec![("c:1".to_string(), "no answer for 1 s".to_string())],
        };
        let seen = Seen::of(&gathered);
        let text = seen.show();
        assert_eq!(text.matches("its disk is full").count(), 1, "{text}");
        assert!(text.contains("PROBLEM: replica 0: its disk is full\n  What to do: make space"), "{text}");
        assert!(text.contains("PROBLEM: a:1: 256 are few\n  What to do: ulimit -n"), "{text}");
        assert!(text.ends_with("NO ANSWER from c:1: no answer for 1 s"), "{text}");
        assert_eq!(seen.document["view"], 8, "who knows most is shown");
        assert_eq!(seen.document["problems"][0]["servers"], json!(["a:1", "b:1"]));
        assert_eq!(seen.document["unanswered"][0]["admin"], "c:1");
    }

    #[test]
    fn a_status_shows_the_primary_and_a_line_for_each_replica() {
        let status: Status = serde_json::from_value(json!({
            "mode": "replicated", "cluster_id": "c1", "node_id": 0, "primary": 1, "view": 7,
            "column_families": ["default", "users"],
            "access": {"enabled": true, "revision": 9, "users": 2, "roles": 6, "tokens": 3, "details": "/auth"},
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
        assert!(text.contains("access   2 users, 6 roles, 3 tokens, at revision 9 (`synodkv auth show`"), "{text}");
        let replica = text.lines().find(|line| line.starts_with('0')).expect("a line for replica 0");
        let cells: Vec<&str> = replica.split_whitespace().collect();
        assert_eq!(cells, ["0", "secondary", "yes", "7", "9", "9", "8", "00ff@8", "127.0.0.1:9090", "127.0.0.1:9190"]);
    }

    #[test]
    fn the_problem_of_a_replica_is_shown_below_the_table() {
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
    fn a_page_keeps_the_last_status_while_no_server_answers() {
        let status: Status =
            serde_json::from_value(json!({"mode": "replicated", "primary": 2, "replicas": []})).expect("a status");
        let mut page = Page { interval: Duration::from_millis(500), last: None };
        let nobody = || Err(Failure::Failed("connection refused".to_string()));
        assert_eq!(page.of(nobody()), "NO ANSWER: connection refused\n\n");
        let seen = Seen { document: Value::Null, status, problems: Vec::new(), unanswered: Vec::new() };
        assert!(page.of(Ok(seen)).starts_with("every 0.5 s; Ctrl-C ends\n\nmode     replicated\n"));
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
