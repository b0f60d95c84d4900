//! `get`, `set`, `delete` and `range`.

use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kv_client::{Client, KeyRef, RangeRead, Row, Version};
use serde_json::json;

use crate::cli::{DeleteArgs, GetArgs, RangeArgs, SetArgs};
use crate::failure::Failure;
use crate::output::{self, Format};

/// Rows and bytes asked for at a time: the server never has to build a huge reply.
const PAGE_ROWS: u64 = 1000;
const PAGE_BYTES: u32 = 1 << 20;

/// A long read pins its version for this long, and again before that is over.
const HOLD: Duration = Duration::from_secs(60);

/// Where a range ends unless told otherwise, as in the interface.
const DEFAULT_END: &[u8] = b"\xff";

fn key_ref(key: Vec<u8>, family: String) -> KeyRef {
    KeyRef { key: key.into(), column_family: family }
}

pub async fn get(args: GetArgs) -> Result<ExitCode, Failure> {
    let notation = args.presentation.notation();
    let key = notation.parse("KEY", &args.key)?;
    let client = args.target.connect().await?;
    let key_ref = key_ref(key.clone(), args.family);
    let value = match args.at {
        Some(version) => client.snapshot_get(key_ref, Version(version)).await?,
        None => client.get(key_ref).await?,
    };
    match (&value, args.presentation.format) {
        (_, Format::Json) => {
            let shown = value.as_ref().map(|value| notation.show(value));
            output::write_json(&json!({ "key": notation.show(&key), "found": value.is_some(), "value": shown }))?;
        }
        (Some(value), Format::Text) if args.raw => output::write(value)?,
        (Some(value), Format::Text) => output::write_line(&notation.show(value))?,
        (None, Format::Text) => eprintln!("no such key: {}", notation.show(&key)),
    }
    Ok(ExitCode::from(u8::from(value.is_none())))
}

pub async fn set(args: SetArgs) -> Result<ExitCode, Failure> {
    let notation = args.presentation.notation();
    let key = notation.parse("KEY", &args.key)?;
    let value = if args.value == "-" { standard_input()? } else { notation.parse("VALUE", &args.value)? };
    let client = args.target.connect().await?;
    client.set(key_ref(key.clone(), args.family), value).await.map_err(Failure::of_write)?;
    confirm(args.presentation.format, &notation.show(&key))
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    std::io::stdin().lock().read_to_end(&mut value)?;
    Ok(value)
}

pub async fn delete(args: DeleteArgs) -> Result<ExitCode, Failure> {
    let notation = args.presentation.notation();
    let key = notation.parse("KEY", &args.key)?;
    let client = args.target.connect().await?;
    client.delete(key_ref(key.clone(), args.family)).await.map_err(Failure::of_write)?;
    confirm(args.presentation.format, &notation.show(&key))
}

/// A write that succeeded says nothing to people, as usual in a shell.
fn confirm(format: Format, key: &str) -> Result<ExitCode, Failure> {
    if format == Format::Json {
        output::write_json(&json!({ "key": key, "success": true }))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn range(args: RangeArgs) -> Result<ExitCode, Failure> {
    let notation = args.presentation.notation();
    let (begin, end) = match &args.prefix {
        Some(prefix) => {
            let prefix = notation.parse("--prefix", prefix)?;
            (prefix.clone(), end_of_prefix(&prefix))
        }
        None => {
            let end = args.end.as_ref().map(|end| notation.parse("END", end)).transpose()?;
            (notation.parse("BEGIN", &args.begin)?, end.unwrap_or(DEFAULT_END.to_vec()))
        }
    };
    let client = args.target.connect().await?;
    let version = match args.at {
        Some(version) => Version(version),
        None => client.read_version().await?,
    };
    let mut pages = Pages {
        range: RangeRead {
            begin: begin.into(),
            end: end.into(),
            column_family: args.family,
            limit: None,
            reverse: args.reverse,
            target_bytes: Some(PAGE_BYTES),
        },
        version,
        remaining: if args.limit == 0 { u64::MAX } else { args.limit },
        has_more: true,
    };
    let mut hold = Hold { version, pins: 0, renewed: None };
    let mut collected = Vec::new();
    while let Some(rows) = pages.next(&client).await? {
        if pages.has_more && pages.remaining > 0 {
            // Before anything is printed: whoever reads it may take time.
            hold.renew(&client).await;
        }
        match args.presentation.format {
            Format::Text => {
                let line = |row: &Row| format!("{}\t{}\n", notation.show(&row.key), notation.show(&row.value));
                output::write(rows.iter().map(line).collect::<String>().as_bytes())?;
            }
            Format::Json => collected.extend(
                rows.iter().map(|row| json!({ "key": notation.show(&row.key), "value": notation.show(&row.value) })),
            ),
        }
    }
    hold.release(&client).await;
    match args.presentation.format {
        Format::Json => {
            output::write_json(&json!({ "rows": collected, "has_more": pages.has_more, "version": version.0 }))?;
        }
        Format::Text if pages.has_more => eprintln!("there are more rows: see --limit"),
        Format::Text => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps the version of a long read readable at the server that is asked.
struct Hold {
    version: Version,
    pins: u32,
    renewed: Option<Instant>,
}

impl Hold {
    /// Where it fails, the read goes on as long as its version lies within the readable window, and then says so.
    async fn renew(&mut self, client: &Client) {
        if self.renewed.is_some_and(|at| at.elapsed() < HOLD / 3) {
            return;
        }
        if client.pin_snapshot(self.version, HOLD).await.is_ok() {
            self.pins += 1;
            self.renewed = Some(Instant::now());
        }
    }

    /// Without it they would end by themselves.
    async fn release(self, client: &Client) {
        for _ in 0..self.pins {
            let _ = client.unpin_snapshot(self.version).await;
        }
    }
}

/// Reads a range page by page at one version, so that what is printed is one state.
struct Pages {
    /// What is left to read.
    range: RangeRead,
    version: Version,
    /// Rows that may still be printed.
    remaining: u64,
    has_more: bool,
}

impl Pages {
    async fn next(&mut self, client: &Client) -> Result<Option<Vec<Row>>, Failure> {
        if !self.has_more || self.remaining == 0 {
            return Ok(None);
        }
        let limit = self.remaining.min(PAGE_ROWS) as u32;
        let range = RangeRead { limit: Some(limit), ..self.range.clone() };
        let rows = client.snapshot_get_range(range, self.version).await?;
        self.has_more = rows.has_more && !rows.rows.is_empty();
        self.remaining -= (rows.rows.len() as u64).min(self.remaining);
        if let Some(last) = rows.rows.last() {
            if self.range.reverse {
                self.range.end = last.key.clone();
            } else {
                // The next possible key: the same with a zero byte behind it.
                self.range.begin = [&last.key[..], b"\0"].concat().into();
            }
        }
        Ok(Some(rows.rows))
    }
}

/// The first key after all keys with this prefix: the last byte that can be is increased, and what follows it falls away.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Only 0xFF bytes (or none) have no end among short keys: the longest possible key comes last.
    vec![0xff; 10_000]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_does_not_have_it() {
        assert_eq!(end_of_prefix(b"user/"), b"user0");
        assert_eq!(end_of_prefix(b"a\xff\xff"), b"b");
        assert!(end_of_prefix(b"\xff") > b"\xff\xff\xff".to_vec());
    }
}
