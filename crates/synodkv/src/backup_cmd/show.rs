//! `backup list` and `backup describe`.

use std::process::ExitCode;

use backup::{Archive, Backup, Entry, Summary, Window, open_newest, shown_bytes};
use serde_json::{Value, json};

use super::{DescribeArgs, ListArgs, failure, shown_family, users};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::text::Notation;

pub async fn list(args: ListArgs) -> Result<ExitCode, Failure> {
    let target = args.store.open(&args.url, false)?;
    let entries = backup::list(&target).await.map_err(failure)?;
    let archive = Archive::load(&target).await.map_err(failure)?;
    let windows = backup::windows(&target, &entries, &archive).await.map_err(failure)?;
    match args.format {
        Format::Json => {
            let backups: Vec<Value> = entries.iter().map(document).collect();
            let windows: Vec<Value> = windows.iter().map(window_document).collect();
            output::write_json(&json!({
                "backups": backups,
                "restorable": windows,
                "archive": { "segments": archive.segments().count(), "bytes": archive.bytes() },
            }))?;
        }
        Format::Text if entries.is_empty() => output::write_line("there are no backups yet")?,
        Format::Text => {
            let heading = ["version", "finished", "rows", "stored", "encrypted", "folder"];
            let mut rows = vec![heading.map(str::to_string).to_vec()];
            rows.extend(entries.iter().map(row));
            output::write_line(&output::table(&rows))?;
            output::write_line(&restorable(&archive, &windows))?;
        }
    }
    let is_damaged = entries.iter().any(|entry| matches!(entry.summary, Some(Err(_))));
    Ok(if is_damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The versions that can be restored, in words.
fn restorable(archive: &Archive, windows: &[Window]) -> String {
    let lines = windows.iter().map(|window| {
        let Window { from, to, begin_time, end_time } = window;
        match from == to {
            true => format!("\nrestorable  version {from}, {} UTC", shown_time(*begin_time)),
            false => format!(
                "\nrestorable  every version from {from} to {to}, {} to {} UTC",
                shown_time(*begin_time),
                shown_time(*end_time)
            ),
        }
    });
    let archived = match archive.segments().count() {
        0 => String::new(),
        count => format!("\narchive     {count} segments, {}", shown_bytes(archive.bytes())),
    };
    format!("{}{archived}", lines.collect::<String>())
}

fn window_document(window: &Window) -> Value {
    json!({
        "from_version": window.from,
        "to_version": window.to,
        "from_time": shown_time(window.begin_time),
        "to_time": shown_time(window.end_time),
    })
}

/// A time without fractions of seconds.
pub(super) fn shown_time(time: backup::OffsetDateTime) -> String {
    let (date, hour, minute, second) = (time.date(), time.hour(), time.minute(), time.second());
    format!("{date} {hour:02}:{minute:02}:{second:02}")
}

fn row(entry: &Entry) -> Vec<String> {
    let stored = shown_bytes(entry.bytes);
    let mut cells = match &entry.summary {
        Some(Ok(summary)) => vec![
            summary.version.to_string(),
            shown_time(summary.finished),
            if summary.is_partial { format!("{} (in part)", summary.rows) } else { summary.rows.to_string() },
            stored,
            if summary.encryption.is_some() { "yes" } else { "no" }.to_string(),
        ],
        Some(Err(error)) => vec!["?".to_string(), format!("DAMAGED: {error}"), "?".into(), stored, "?".into()],
        None => {
            let text = format!("not finished; last change {}", shown_time(entry.last_change));
            vec!["-".to_string(), text, "-".into(), stored, "-".into()]
        }
    };
    cells.push(entry.folder.clone());
    cells
}

fn document(entry: &Entry) -> Value {
    match &entry.summary {
        Some(Ok(summary)) => {
            let mut document = summary_document(summary);
            document["folder"] = json!(entry.folder);
            document["state"] = json!("complete");
            document
        }
        Some(Err(error)) => json!({ "folder": entry.folder, "state": "damaged", "error": error.to_string() }),
        None => json!({ "folder": entry.folder, "state": "unfinished", "stored_bytes": entry.bytes }),
    }
}

fn summary_document(summary: &Summary) -> Value {
    json!({
        "backup": summary.backup,
        "cluster_id": summary.cluster_id,
        "version": summary.version,
        "feature_level": summary.feature_level,
        "program": summary.program,
        "started": shown_time(summary.started),
        "finished": shown_time(summary.finished),
        "is_partial": summary.is_partial,
        "rows": summary.rows,
        "row_bytes": summary.row_bytes,
        "stored_bytes": summary.stored_bytes(),
        "objects": summary.objects.len(),
        "encrypted": summary.encryption.is_some(),
        "has_users": summary.has_users,
    })
}

pub async fn describe(args: DescribeArgs) -> Result<ExitCode, Failure> {
    let keys = args.keys.read()?;
    let target = args.store.open(&args.url, false)?;
    let mut backup = open_newest(&target, args.version).await.map_err(failure)?;
    if !backup.is_locked() || !keys.is_empty() {
        backup.unlock(&keys).map_err(failure)?;
    }
    let archive = Archive::load(&target).await.map_err(failure)?;
    let (version, is_partial) = (backup.summary().version, backup.summary().is_partial);
    let reach = archive.reach(version).filter(|_| !is_partial).map_or(version, backup::Chain::last);
    match args.format {
        Format::Json => {
            let mut document = summary_document(backup.summary());
            document["restorable_to_version"] = json!(reach);
            document["folder"] = json!(backup.folder());
            if let Some(content) = backup.content() {
                let families = content.families.iter();
                let families = families.map(|family| json!({ "name": shown_family(&family.name), "rows": family.rows, "row_bytes": family.row_bytes }));
                document["families"] = families.collect();
            }
            output::write_json(&document)?;
        }
        Format::Text => {
            let archived = match reach == version {
                true => "none after this backup".to_string(),
                false => format!("every version up to {reach} can be restored from this backup"),
            };
            output::write_line(&format!("{}\narchive     {archived}", text(&backup)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(backup: &Backup) -> String {
    let summary = backup.summary();
    let mut lines = vec![
        format!("folder      {}", backup.folder()),
        match &summary.cluster_id {
            Some(id) => format!("cluster     {id}"),
            None => "cluster     none: a standalone server".to_string(),
        },
        format!("version     {}", summary.version),
        format!("level       {}", summary.feature_level),
        format!(
            "made        {} to {} UTC, by release {}",
            shown_time(summary.started),
            shown_time(summary.finished),
            summary.program
        ),
        format!("rows        {}, {} of keys and values", summary.rows, shown_bytes(summary.row_bytes)),
        format!("stored      {} in {} objects", shown_bytes(summary.stored_bytes()), summary.objects.len()),
        match &summary.encryption {
            Some(how) => format!("encryption  AES-256-GCM, {}", how.describe()),
            None => "encryption  none".to_string(),
        },
        match (backup.content().and_then(|content| content.users.clone()).map(users::read), summary.has_users) {
            (Some(Ok(policy)), _) => format!("users       {}", users::shown(&policy)),
            (Some(Err(reason)), _) => format!("users       DAMAGED: {reason}"),
            (None, true) => "users       encrypted: give --key-file".to_string(),
            (None, false) => "users       not in it".to_string(),
        },
    ];
    match backup.content() {
        Some(content) => {
            if let (Some(begin), Some(end)) = (&content.begin, &content.end) {
                let show = |key| Notation::Escaped.show(key);
                lines.push(format!("range       from `{}` up to, not including, `{}`", show(begin), show(end)));
            }
            lines.extend(content.families.iter().map(|family| {
                format!(
                    "family      {}: {} rows, {}",
                    shown_family(&family.name),
                    family.rows,
                    shown_bytes(family.row_bytes)
                )
            }));
        }
        None => lines.push("families    encrypted: give --key-file".to_string()),
    }
    if summary.is_partial {
        lines.push("It holds only the families or keys that were asked for.".to_string());
    }
    lines.join("\n")
}
