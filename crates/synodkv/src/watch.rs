//! `watch`: prints changes as they happen, each version once, from any server of the cluster.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kv_client::{
    Change, ChangeRange, ChangesBatch, ChangesRequest, ClearCause, ClientError, Effect, Version, prefix_range,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::signals::Signals;
use crate::targets::ThriftTarget;
use crate::text::Notation;
use crate::usage::{epilogue, whole_number};

/// How long one request waits for a change. It bounds how late the end of a server is noticed.
const WAIT: Duration = Duration::from_secs(10);

/// Print the changes of rows as they happen, each version exactly once and in order.
///
/// One line per change: the version, a tab, what happened (set, delete, clear), a tab, the key, and
/// for set a tab and the value; for clear a tab and the key before which the cleared range ends,
/// nothing at the end of the family. Changes of named families have the family in parentheses after
/// what happened. Atomic mutations appear as the value that they resulted in.
///
/// It begins with the changes after now, or after the version of --after. When a server goes away,
/// another one continues without a gap. Servers keep changes for changes.retention_ms, by default
/// ten minutes; --after an older version fails (exit status 1), and the message names the oldest
/// version. Ctrl-C ends it (exit status 0).
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv watch                                every change from now on\n  \
    synodkv watch --prefix user/ --family people\n  \
    synodkv watch --after 1200 --count 10        the ten versions after 1200 that changed something\n  \
    synodkv watch --format json >> changes.jsonl one version per line", "the server refused, or the version is too old"))]
pub struct WatchArgs {
    /// Only keys with this prefix.
    #[arg(long)]
    pub prefix: Option<OsString>,
    /// Only keys from this one on, and before END.
    #[arg(long, num_args = 2, value_names = ["BEGIN", "END"], conflicts_with = "prefix")]
    pub range: Option<Vec<OsString>>,
    /// Only this column family; `default` is the default one. [default: all]
    #[arg(long, value_name = "NAME")]
    pub family: Option<String>,
    /// Begin after this version, not with what happens from now on.
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>)]
    pub after: Option<u64>,
    /// End after this many versions that changed something.
    #[arg(long, value_name = "VERSIONS", value_parser = whole_number::<u64>)]
    pub count: Option<u64>,
    /// Print no values.
    #[arg(long)]
    pub keys_only: bool,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// Keys in arguments are text with escapes: \xNN, \\, \n, \t, \r, \0. Without this flag, they
    /// are taken literally.
    #[arg(long, conflicts_with = "hex")]
    pub escape: bool,
    /// Keys in arguments, and keys and values in results, are hexadecimal.
    #[arg(long)]
    pub hex: bool,
    /// How changes are printed. `json`: one object per version and line, and one without changes
    /// whenever nothing happened for some seconds, with the version to continue after.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl WatchArgs {
    fn notation(&self) -> Notation {
        match (self.hex, self.escape) {
            (true, _) => Notation::Hex,
            (false, true) => Notation::Escaped,
            (false, false) => Notation::Plain,
        }
    }

    fn ranges(&self) -> Result<Vec<ChangeRange>, Failure> {
        let notation = self.notation();
        let family = match self.family.as_deref() {
            None if self.prefix.is_none() && self.range.is_none() => return Ok(Vec::new()),
            None | Some("default") => "",
            Some(name) => name,
        };
        if let Some(prefix) = &self.prefix {
            return Ok(vec![prefix_range(family, &notation.argument("--prefix", prefix)?)]);
        }
        match self.range.as_deref() {
            Some([begin, end]) => {
                let (begin, end) = (notation.argument("BEGIN", begin)?, notation.argument("END", end)?);
                if begin > end {
                    return Err(Failure::Usage("--range: END is before BEGIN".into()));
                }
                Ok(vec![ChangeRange { column_family: family.into(), begin: begin.into(), end: Some(end.into()) }])
            }
            _ => Ok(vec![ChangeRange::family(family)]),
        }
    }
}

pub async fn run(args: WatchArgs) -> Result<ExitCode, Failure> {
    let ranges = args.ranges()?;
    let client = args.target.connect().await?;
    let after = match args.after {
        Some(version) => Version(version),
        None => client.read_version().await?,
    };
    let database = client.database();
    let request =
        ChangesRequest { max_wait: WAIT, with_values: !args.keys_only, ..ChangesRequest::after(after, ranges) };
    let mut feed = match args.count {
        Some(0) => return Ok(ExitCode::SUCCESS),
        _ => database.change_feed(request),
    };
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut signals = Signals::listen()?;
    loop {
        let batch = tokio::select! {
            batch = feed.next() => batch.map_err(explain)?,
            _ = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        print(&args, &batch, &mut left).await?;
        if left == 0 || output::is_closed() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn explain(error: ClientError) -> Failure {
    match error {
        ClientError::ChangesTooOld { oldest, .. } => Failure::from(error).with_text(|text| {
            format!("{text}; begin with `--after {oldest}`, or read the rows and go on from the version of that")
        }),
        error => Failure::from(error),
    }
}

async fn print(args: &WatchArgs, batch: &ChangesBatch, left: &mut u64) -> Result<(), Failure> {
    let notation = args.notation();
    let mut text = String::new();
    for change in batch.changes.iter().take(usize::try_from(*left).unwrap_or(usize::MAX)) {
        match args.format {
            Format::Text => lines(change, notation, args.keys_only, &mut text),
            Format::Json => {
                text.push_str(&document(change, notation, args.keys_only).to_string());
                text.push('\n');
            }
        }
        *left -= 1;
    }
    if args.format == Format::Json && batch.changes.is_empty() {
        text = format!("{}\n", json!({ "through": batch.through.0 }));
    }
    output::write_aside(text.into_bytes()).await
}

fn lines(change: &Change, notation: Notation, keys_only: bool, text: &mut String) {
    for effect in &change.effects {
        let family = match effect.column_family.as_str() {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        let (what, key, rest) = match &effect.effect {
            Effect::Set { key, .. } if keys_only => ("set", key, None),
            Effect::Set { key, value } => ("set", key, Some(notation.show(value))),
            Effect::Delete { key } => ("delete", key, None),
            Effect::Clear { begin, end, .. } => {
                ("clear", begin, Some(end.as_ref().map(|end| notation.show(end)).unwrap_or_default()))
            }
        };
        let rest = rest.map(|rest| format!("\t{rest}")).unwrap_or_default();
        text.push_str(&format!("{}\t{what}{family}\t{}{rest}\n", change.version, notation.show(key)));
    }
}

fn document(change: &Change, notation: Notation, keys_only: bool) -> Value {
    let effects: Vec<Value> = change
        .effects
        .iter()
        .map(|effect| {
            let family = match effect.column_family.as_str() {
                "" => "default",
                name => name,
            };
            match &effect.effect {
                Effect::Set { key, .. } if keys_only => {
                    json!({ "type": "set", "family": family, "key": notation.show(key) })
                }
                Effect::Set { key, value } => {
                    json!({ "type": "set", "family": family, "key": notation.show(key), "value": notation.show(value) })
                }
                Effect::Delete { key } => json!({ "type": "delete", "family": family, "key": notation.show(key) }),
                Effect::Clear { begin, end, cause } => json!({
                    "type": "clear",
                    "family": family,
                    "begin": notation.show(begin),
                    "end": end.as_ref().map(|end| notation.show(end)),
                    "cause": match cause {
                        ClearCause::Transaction => "transaction",
                        ClearCause::FamilyDropped => "family_dropped",
                    },
                }),
            }
        })
        .collect();
    json!({ "version": change.version.0, "log_time_ms": change.time_us / 1000, "changes": effects })
}
