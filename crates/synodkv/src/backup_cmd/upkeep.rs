//! `backup verify`, `prune`, `check` and `key`.

use std::process::ExitCode;

use backup::{
    ArchiveVerified, Backup, Depth, KeyFile, Keys, OffsetDateTime, Target, TestRows, Verified, open, open_newest,
    plan_prune, shown_bytes,
};
use serde_json::json;

use super::{CheckArgs, KeyArgs, PruneArgs, VerifyArgs, failure, users};
use crate::failure::Failure;
use crate::output::{self, Format};

pub async fn verify(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let keys = args.keys.read()?;
    let target = args.store.open(&args.url, false)?;
    let folders = match args.all {
        true => complete_folders(&target).await?,
        false => vec![open_newest(&target, args.version).await.map_err(failure)?.folder().to_string()],
    };
    let (mut is_sound, mut documents) = (true, Vec::new());
    for folder in &folders {
        let (verified, is_locked) = match open(&target, folder).await {
            Ok(backup) => verify_one(&args, backup, &keys).await?,
            Err(backup::BackupError::Damaged { object, reason }) => {
                let findings = vec![backup::Finding { object, reason }];
                (Verified { findings, ..Verified::default() }, false)
            }
            Err(error) => return Err(failure(error)),
        };
        is_sound &= verified.findings.is_empty();
        let findings: Vec<_> = verified.findings.iter().map(finding_document).collect();
        documents.push(json!({
            "folder": folder,
            "sound": verified.findings.is_empty(),
            "objects": verified.objects,
            "rows": verified.rows,
            "rows_checked": !args.quick && !is_locked,
            "findings": findings,
        }));
        if args.format == Format::Text {
            output::write_line(&told(&args, folder, &verified, is_locked))?;
        }
    }
    let archive = verify_archive(&args, &target, &keys).await?;
    is_sound &= archive.findings.is_empty();
    match args.format {
        Format::Json => output::write_json(&json!({
            "sound": is_sound,
            "backups": documents,
            "archive": {
                "sound": archive.findings.is_empty(),
                "segments": archive.segments,
                "changes": archive.changes,
                "changes_checked": !args.quick && !archive.is_locked,
                "findings": archive.findings.iter().map(finding_document).collect::<Vec<_>>(),
            },
        }))?,
        Format::Text if archive.segments > 0 || !archive.findings.is_empty() => {
            output::write_line(&told_of_archive(&args, &archive))?;
        }
        Format::Text => {}
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn finding_document(finding: &backup::Finding) -> serde_json::Value {
    json!({ "object": finding.object, "reason": finding.reason })
}

/// Checks the archive, which belongs to all backups together.
async fn verify_archive(args: &VerifyArgs, target: &Target, keys: &Keys) -> Result<ArchiveVerified, Failure> {
    let entries = backup::list(target).await.map_err(failure)?;
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    let bar = output::progress("bytes of the archive verified", None);
    let verified = backup::verify_archive(target, &entries, depth, keys, |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    verified.map_err(failure)
}

fn told_of_archive(args: &VerifyArgs, verified: &ArchiveVerified) -> String {
    let ArchiveVerified { segments, changes, is_locked, findings } = verified;
    if !findings.is_empty() {
        let lines = findings.iter().map(|finding| format!("\n  {}: {}", finding.object, finding.reason));
        return format!("log: DAMAGED{}", lines.collect::<String>());
    }
    let what = match (args.quick, is_locked) {
        (true, _) => "none is missing between others".to_string(),
        (_, true) => {
            "their hashes are right, and each follows the one before; the changes were not read: give --key-file"
                .to_string()
        }
        _ => format!("all follow each other, and all {changes} changes can be read"),
    };
    format!("log: sound, {segments} segments: {what}")
}

async fn complete_folders(target: &Target) -> Result<Vec<String>, Failure> {
    let entries = backup::list(target).await.map_err(failure)?;
    let folders: Vec<String> =
        entries.into_iter().filter(|entry| entry.summary.is_some()).map(|entry| entry.folder).collect();
    match folders.is_empty() {
        true => Err(Failure::Usage(format!("{target} holds no complete backup"))),
        false => Ok(folders),
    }
}

/// The result, and whether the rows could not be read for lack of a key.
async fn verify_one(args: &VerifyArgs, mut backup: Backup, keys: &Keys) -> Result<(Verified, bool), Failure> {
    let is_locked = backup.is_locked() && keys.is_empty();
    if is_locked && args.restore_test {
        // The error names the key.
        backup.unlock(keys).map_err(failure)?;
    }
    if !is_locked && !args.quick {
        match backup.unlock(keys) {
            Err(backup::BackupError::Damaged { object, reason }) => {
                let findings = vec![backup::Finding { object, reason }];
                return Ok((Verified { findings, ..Verified::default() }, false));
            }
            unlocked => unlocked.map_err(failure)?,
        }
        let kept = backup.content().and_then(|content| content.users.clone());
        if let Some(Err(reason)) = kept.map(users::read) {
            let findings = vec![backup::Finding { object: format!("{}/manifest.json", backup.folder()), reason }];
            return Ok((Verified { findings, ..Verified::default() }, false));
        }
    }
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    let bar = output::progress("bytes verified", Some(backup.summary().stored_bytes()));
    let test = |chunk: &backup::ChunkInfo, rows: &[(bytes::Bytes, bytes::Bytes)]| {
        let expected = kv_server::restore::ExpectedRows {
            family: chunk.family.clone(),
            first_key: chunk.first_key.clone(),
            rows: chunk.rows,
            hash: chunk.hash,
        };
        kv_server::restore::test(&expected, rows).map_err(|error| error.to_string())
    };
    let with_rows: Option<&TestRows<'_>> = if args.restore_test { Some(&test) } else { None };
    let verified = backup::verify(&backup, depth, with_rows, |bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    Ok((verified.map_err(failure)?, is_locked))
}

fn told(args: &VerifyArgs, folder: &str, verified: &Verified, is_locked: bool) -> String {
    let Verified { objects, rows, findings } = verified;
    if !findings.is_empty() {
        let lines = findings.iter().map(|finding| format!("\n  {}: {}", finding.object, finding.reason));
        return format!("{folder}: DAMAGED{}", lines.collect::<String>());
    }
    let what = match (args.quick, is_locked, args.restore_test) {
        (true, ..) => "all objects are there, with their sizes".to_string(),
        (_, true, _) => "the hashes of all objects are right; the rows were not read: give --key-file".to_string(),
        (.., false) => format!("all objects and all {rows} rows are right"),
        (.., true) => format!("all objects are right, and all {rows} rows were restored into memory"),
    };
    format!("{folder}: sound, {objects} objects: {what}")
}

pub async fn prune(args: PruneArgs) -> Result<ExitCode, Failure> {
    let target = args.store.open(&args.url, false)?;
    let plan = plan_prune(&target, args.keep, OffsetDateTime::now_utc(), args.force).await.map_err(failure)?;
    if !args.dry_run {
        backup::prune(&target, &plan).await.map_err(failure)?;
    }
    let freed = plan.bytes();
    let removed: Vec<_> =
        plan.removed.iter().map(|p| json!({ "folder": p.folder, "bytes": p.bytes, "reason": p.reason })).collect();
    let kept: Vec<_> = plan.kept.iter().map(|k| json!({ "folder": k.folder, "reason": k.reason })).collect();
    let document = json!({ "dry_run": args.dry_run, "removed": removed, "kept": kept, "segments_removed": plan.segments.len(), "freed_bytes": freed });
    let mut lines: Vec<String> =
        plan.kept.iter().map(|kept| format!("kept     {}: {}", kept.folder, kept.reason)).collect();
    let word = if args.dry_run { "to go  " } else { "removed" };
    lines.extend(plan.removed.iter().map(|gone| format!("{word}  {}: {}", gone.folder, gone.reason)));
    if let (Some(first), Some(last)) = (plan.segments.first(), plan.segments.last()) {
        let (count, from, to) = (plan.segments.len(), first.first, last.last);
        lines.push(format!(
            "{word}  {count} segments of the archive, versions {from} to {to}: no backup that stays needs them"
        ));
    }
    lines.push(match (plan.removed.is_empty() && plan.segments.is_empty(), args.dry_run) {
        (true, _) => "nothing is old enough to be removed".to_string(),
        (_, true) => format!("{} would be freed; nothing was removed (--dry-run)", shown_bytes(freed)),
        (_, false) => format!("{} freed", shown_bytes(freed)),
    });
    output::done(args.format, &document, &lines.join("\n"))
}

pub async fn check(args: CheckArgs) -> Result<ExitCode, Failure> {
    let target = args.store.open(&args.url, true)?;
    let checked = backup::check(&target).await.map_err(failure)?;
    let document = json!({
        "conditional_put": checked.conditional_put,
        "clock_ahead_seconds": checked.clock_ahead_seconds,
        "put_bytes_per_second": checked.put_bytes_per_second,
        "get_bytes_per_second": checked.get_bytes_per_second,
        "warnings": checked.warnings,
    });
    let mut lines = vec![format!(
        "{target} can hold backups: objects can be stored, read, listed and removed; one put {:.0} MB/s, one get {:.0} MB/s",
        checked.put_bytes_per_second / 1e6,
        checked.get_bytes_per_second / 1e6
    )];
    lines.extend(checked.warnings.iter().map(|warning| format!("WARNING: {warning}")));
    output::done(args.format, &document, &lines.join("\n"))
}

pub fn key(args: &KeyArgs) -> Result<ExitCode, Failure> {
    KeyFile::create(&args.out).map_err(failure)?;
    output::write_line(&format!(
        "{} is written: keep a copy in another place than the cluster and its backups",
        args.out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
