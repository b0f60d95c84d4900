//! `range`: prints the rows of one version, page by page.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kv_client::{Client, Hold, RangeRead, Row, Version, prefix_end};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;
use crate::rows_file::{self, row_line};
use crate::targets::ThriftTarget;
use crate::text::Notation;
use crate::usage::{REFUSED, epilogue, whole_number};

/// Rows and bytes per page, so that the server never has to build a huge reply.
const PAGE_ROWS: u64 = 1000;
const PAGE_BYTES: u32 = 1 << 20;

/// A pin of a long read ends at most this long after this program does.
const HOLD: Duration = Duration::from_secs(60);

/// Rows printed for people by default.
const SOME_ROWS: u64 = 100;

/// Print the rows between two keys, in key order, as of one version.
///
/// One row per line: the key, a tab, the value; both with escapes for unprintable bytes (\xNN, \\,
/// \n, \t, \r), or as hexadecimal digits with --hex. So a line is always one row with one tab,
/// whatever the bytes are.
///
/// `--format backup` is for `synodkv import`. It prints all rows by default, with a header and an
/// end mark, so that a truncated or changed file is recognised.
///
/// A long range pins its version at the server that it reads from, so that the version stays
/// readable as long as the command takes, even if the reader of its output pauses. Another server
/// does not have the pin.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv range                          the first 100 rows\n  \
    synodkv range user/ user0              from `user/` up to, not including, `user0`\n  \
    synodkv range --prefix user/ --limit 0\n  \
    synodkv range --reverse --limit 1      the last row\n  \
    synodkv range --format backup > rows   all rows, to be restored by `synodkv import rows`", REFUSED))]
pub struct RangeArgs {
    /// The first key. [default: the very first]
    #[arg(default_value = "", hide_default_value = true)]
    pub begin: OsString,
    /// The key before which the range ends. [default: after the very last key]
    pub end: Option<OsString>,
    /// All keys with this prefix, instead of BEGIN and END.
    #[arg(long, conflicts_with_all = ["begin", "end"])]
    pub prefix: Option<OsString>,
    /// The maximum number of rows to print; 0 means all. [default: 100; all with `--format backup`]
    #[arg(long, value_name = "ROWS", allow_negative_numbers = true, value_parser = whole_number::<u64>)]
    pub limit: Option<u64>,
    /// The last row first.
    #[arg(long)]
    pub reverse: bool,
    /// The rows as of this version, not the newest; see `get --help`.
    #[arg(long, value_name = "VERSION", value_parser = whole_number::<u64>)]
    pub at: Option<u64>,
    /// The column family. [default: default]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub family: String,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// Keys in arguments are text with escapes: \xNN, \\, \n, \t, \r, \0. Without this flag, they
    /// are taken literally.
    #[arg(long, conflicts_with = "hex")]
    pub escape: bool,
    /// Keys in arguments, and keys and values in results, are hexadecimal.
    #[arg(long)]
    pub hex: bool,
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t = RangeFormat::Text)]
    pub format: RangeFormat,
}

/// How `range` prints rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RangeFormat {
    /// One row per line.
    Text,
    /// One JSON document.
    Json,
    /// One row per line between a header and an end mark, for `import`.
    Backup,
}

impl RangeArgs {
    pub fn notation(&self) -> Notation {
        match (self.hex, self.escape) {
            (true, _) => Notation::Hex,
            (false, true) => Notation::Escaped,
            (false, false) => Notation::Plain,
        }
    }
}

pub async fn run(args: RangeArgs) -> Result<ExitCode, Failure> {
    let notation = args.notation();
    let (begin, end) = ends(&args, notation)?;
    let client = args.target.connect().await?;
    let version = match args.at {
        Some(version) => Version(version),
        None => client.read_version().await?,
    };
    let all = args.format == RangeFormat::Backup;
    let mut pages = Pages {
        range: RangeRead {
            begin: begin.into(),
            end: end.into(),
            column_family: args.family.clone(),
            limit: None,
            reverse: args.reverse,
            target_bytes: Some(PAGE_BYTES),
        },
        version,
        remaining: match args.limit {
            Some(0) => u64::MAX,
            Some(rows) => rows,
            None if all => u64::MAX,
            None => SOME_ROWS,
        },
        has_more: true,
    };
    let mut printer = Printer::new(args.format, notation, &args.family, version);
    let mut hold = None;
    printer.flush().await?;
    while let Some(rows) = pages.next(&client).await? {
        if hold.is_none() && pages.has_more && pages.remaining > 0 {
            // Pins before anything is printed, because the reader of the output may be slow.
            hold = begin_hold(&client, version).await;
        }
        printer.rows(rows).await?;
        if output::is_closed() {
            break;
        }
    }
    if let Some(hold) = hold {
        hold.release().await;
    }
    printer.end(pages.has_more).await?;
    Ok(ExitCode::SUCCESS)
}

/// Without a pin, the read continues while its version is within the readable window, and then
/// fails with an explanation.
async fn begin_hold(client: &Client, version: Version) -> Option<Hold> {
    match client.hold_snapshot(version, HOLD).await {
        Ok(hold) => Some(hold),
        Err(error) => {
            output::remark(format!("the version could not be pinned, and may get too old under a long read: {error}"));
            None
        }
    }
}

fn ends(args: &RangeArgs, notation: Notation) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let argument = |what, argument: &OsStr| notation.argument(what, argument);
    if let Some(prefix) = &args.prefix {
        let prefix = argument("--prefix", prefix)?;
        let end = prefix_end(&prefix).to_vec();
        return Ok((prefix, end));
    }
    let end = match &args.end {
        Some(end) => argument("END", end)?,
        None => prefix_end("").to_vec(),
    };
    Ok((argument("BEGIN", &args.begin)?, end))
}

/// Reads a range page by page at one version, so that the output shows one state.
struct Pages {
    /// The part that is left to read.
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
                // The next possible key: the last one followed by a zero byte.
                self.range.begin = [&last.key[..], b"\0"].concat().into();
            }
        }
        Ok(Some(rows.rows))
    }
}

/// Prints rows as they arrive. The connections and the pin are kept alive while the reader of the
/// output is slow.
struct Printer {
    notation: Notation,
    version: Version,
    kind: Kind,
    /// Text that is not written yet.
    text: String,
}

enum Kind {
    Text,
    Json(Vec<Value>),
    Backup(rows_file::Writer),
}

impl Printer {
    fn new(format: RangeFormat, notation: Notation, family: &str, version: Version) -> Self {
        let (kind, text) = match format {
            RangeFormat::Text => (Kind::Text, String::new()),
            RangeFormat::Json => (Kind::Json(Vec::new()), String::new()),
            RangeFormat::Backup => {
                let (writer, header) = rows_file::Writer::begin(notation, family, version.0);
                (Kind::Backup(writer), header)
            }
        };
        Printer { notation, version, kind, text }
    }

    async fn rows(&mut self, rows: Vec<Row>) -> Result<(), Failure> {
        for row in rows {
            match &mut self.kind {
                Kind::Text => self.text += &row_line(&row.key, &row.value, self.notation),
                Kind::Backup(writer) => self.text += &writer.row(&row.key, &row.value),
                Kind::Json(rows) => {
                    rows.push(json!({ "key": self.notation.show(&row.key), "value": self.notation.show(&row.value) }));
                }
            }
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        match self.text.is_empty() {
            true => Ok(()),
            false => output::write_aside(std::mem::take(&mut self.text).into_bytes()).await,
        }
    }

    async fn end(self, has_more: bool) -> Result<(), Failure> {
        match self.kind {
            Kind::Json(rows) => {
                output::write_json(&json!({ "rows": rows, "has_more": has_more, "version": self.version.0 }))?;
            }
            Kind::Backup(writer) => output::write_aside(writer.end().into_bytes()).await?,
            Kind::Text => {}
        }
        if has_more && !output::is_closed() {
            output::remark("there are more rows: see --limit");
        }
        Ok(())
    }
}
