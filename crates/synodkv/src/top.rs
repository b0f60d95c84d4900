//! `top` and `slow`: the keys that clients use most, and the requests that took longest to answer.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use crate::admin::{AdminClient, Gathered};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::targets::AdminTarget;
use crate::usage::epilogue;

/// How keys are used.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum By {
    /// Read, or the begin of a range that was read.
    Reads,
    /// Written, or the begin of a range that was cleared.
    Writes,
    /// Named by a conflict that refused a commit.
    Conflicts,
}

/// Show the keys that clients use most, over the last 30 to 60 seconds.
///
/// Every server counts the requests that it takes itself, reads and writes by a sample of one in
/// sixteen, and this command adds up those of all servers. A count is at most too large by what the
/// sketch cannot tell apart; `at least` is certain within the sample. Keys are shown with escapes
/// and cut after 256 bytes. Where users and roles are on, it needs admin:member, because it shows
/// keys.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv top\n  \
    synodkv top --by conflicts --family orders\n  \
    synodkv top --by writes --limit 5 --format json | jq -r '.keys[].key'", "the server refused"))]
pub struct TopArgs {
    /// What to count.
    #[arg(long, value_enum, default_value_t = By::Reads)]
    pub by: By,
    /// Only keys of this column family. [default: all families]
    #[arg(long, value_name = "NAME")]
    pub family: Option<String>,
    /// So many keys, 1 to 128.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=128))]
    pub limit: u64,
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Show the newest requests that took `log.slow_ms` (100 ms) or longer, of all servers.
///
/// Each server keeps its newest 1000 of them. The time is that from the check of a request to its
/// outcome; a request that waited for the client to send or to receive is not slow. Where users and
/// roles are on, it needs admin:member, because it shows keys.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv slow\n  \
    synodkv slow --limit 10 --format json | jq -r '.requests[] | [.duration_ms, .method, .key] | @tsv'",
    "the server refused"))]
pub struct SlowArgs {
    /// So many requests of each server, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub limit: u64,
    #[command(flatten)]
    pub admin: AdminTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Deserialize)]
struct Used {
    family: String,
    key: String,
    count: u64,
    at_least: u64,
    per_second: f64,
}

pub async fn run(args: TopArgs) -> Result<ExitCode, Failure> {
    let by = match args.by {
        By::Reads => "reads",
        By::Writes => "writes",
        By::Conflicts => "conflicts",
    };
    // The sum of all servers may have another order than each of them.
    let mut query = vec![("by", by.to_string()), ("limit", "128".to_string())];
    query.extend(args.family.map(|family| ("family", family)));
    let answers = of_all(&args.admin, "/top", &query).await?;
    let mut sums: Vec<Used> = Vec::new();
    for (_, answer) in &answers {
        let keys: Vec<Used> = serde_json::from_value(answer["keys"].clone()).map_err(Failure::of_answer)?;
        for used in keys {
            match sums.iter_mut().find(|sum| (&sum.family, &sum.key) == (&used.family, &used.key)) {
                Some(sum) => {
                    sum.count += used.count;
                    sum.at_least += used.at_least;
                    sum.per_second += used.per_second;
                }
                None => sums.push(used),
            }
        }
    }
    sums.sort_by(|one, other| (other.count, &one.family, &one.key).cmp(&(one.count, &other.family, &other.key)));
    sums.truncate(args.limit as usize);
    let document = serde_json::json!({
        "by": by,
        "keys": sums.iter().map(|Used { family, key, count, at_least, per_second }| serde_json::json!({
            "family": family, "key": key, "count": count, "at_least": at_least, "per_second": per_second
        })).collect::<Vec<_>>(),
        "servers": answers.iter().map(|(address, _)| address).collect::<Vec<_>>(),
    });
    let mut rows = vec![["per second", "count", "at least", "family", "key"].map(str::to_string).to_vec()];
    rows.extend(sums.into_iter().map(|used| {
        vec![
            format!("{:.1}", used.per_second),
            used.count.to_string(),
            used.at_least.to_string(),
            used.family,
            used.key,
        ]
    }));
    let text = if rows.len() == 1 { format!("no {by} in the last minute") } else { output::table(&rows) };
    print(args.format, &document, &text)
}

pub async fn slow(args: SlowArgs) -> Result<ExitCode, Failure> {
    let answers = of_all(&args.admin, "/slow", &[("limit", args.limit.to_string())]).await?;
    let mut all: Vec<Value> = Vec::new();
    for (address, mut answer) in answers {
        for request in answer["requests"].as_array_mut().into_iter().flatten() {
            request["server"] = address.clone().into();
            all.push(request.take());
        }
    }
    all.sort_by_key(|request| std::cmp::Reverse(request["time_ms"].as_i64()));
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let columns =
        ["time_ms", "server", "duration_ms", "method", "family", "key", "bytes", "address", "principal", "error"];
    let mut rows = vec![columns.map(str::to_string).to_vec()];
    rows.extend(all.iter().map(|request| {
        columns.map(|name| if request[name].is_null() { "-".to_string() } else { plain(&request[name]) }).to_vec()
    }));
    let text = if all.is_empty() { "no slow requests".to_string() } else { output::table(&rows) };
    print(args.format, &serde_json::json!({ "requests": all }), &text)
}

fn print(format: Format, document: &Value, text: &str) -> Result<ExitCode, Failure> {
    match format {
        Format::Json => output::write_json(document)?,
        Format::Text => output::write_line(text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The answers of all servers that answer, which must not refuse.
async fn of_all(target: &AdminTarget, path: &str, query: &[(&str, String)]) -> Result<Vec<(String, Value)>, Failure> {
    let client = AdminClient::new()?;
    let Gathered { answers, unanswered } = client.gather(target).await?;
    let mut all = Vec::new();
    for answer in answers {
        let shown = client.get(&answer.address, path, query, std::time::Duration::from_secs(5)).await;
        all.push((answer.address.clone(), shown.map_err(|reason| crate::admin::failure_of(&answer.address, reason))?));
    }
    for (address, reason) in unanswered {
        output::remark(format!("no answer from {address}: {reason}"));
    }
    Ok(all)
}
