//! `import`: writes rows as `range --format backup` prints them.

use std::fs::File;
use std::io::{BufReader, IsTerminal, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kv_client::{ClientError, Database, Limits, TransactionOptions, Version};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::rows_file::{Pair, Reader};
use crate::targets::ThriftTarget;
use crate::text::Notation;
use crate::usage::epilogue;

/// Rows and bytes of one transaction, large enough that the cost per commit is small.
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of a transaction in addition to its rows.
const COMMIT_BYTES: usize = 64;

/// Write rows that `synodkv range --format backup` has printed.
///
/// The rows of a file are checked before the first one is written: a file that was cut short,
/// changed (by another program's line ends, for example), or that holds rows which the servers do
/// not accept, is refused as a whole. Rows from a pipe are written as they arrive. If the end shows
/// that something is missing, the exit status is 1, and the message says how many rows were
/// written.
///
/// Rows are written in transactions of up to a thousand. An import can be repeated: existing rows
/// are overwritten. Existing rows that are not in the file stay.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv range --format backup > rows\n  \
    synodkv import rows --addr other-cluster:9090\n  \
    synodkv range --format backup --family users | synodkv import --addr other-cluster:9090\n  \
    printf 'a\\t1\\nb\\t2\\n' | synodkv import --no-header",
    "rows are missing, invalid or refused, and those before them were written"))]
pub struct ImportArgs {
    /// The rows. [default: `-`, standard input]
    pub file: Option<PathBuf>,
    /// The column family. [default: the one that the header names]
    #[arg(long, value_name = "NAME")]
    pub family: Option<String>,
    /// The rows have neither header nor end mark, like those that `range` prints for people, or
    /// rows written by hand: a key, a tab, a value. Missing rows are then not detected.
    #[arg(long)]
    pub no_header: bool,
    /// With --no-header: keys and values are hexadecimal, instead of text with \xNN, \\, \n, \t for
    /// other bytes.
    #[arg(long, requires = "no_header")]
    pub hex: bool,
    #[command(flatten)]
    pub target: ThriftTarget,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

pub async fn run(args: ImportArgs) -> Result<ExitCode, Failure> {
    let mut input = Input::open(args.file.as_deref())?;
    let (client, limits) = args.target.connect_with_limits().await?;
    let nothing = |failure: Failure| failure.with_text(|text| format!("{text}; nothing was written"));
    if let Some(rows) = input.again()? {
        // Writes nothing unless all of it is valid.
        open(&args, rows, &limits).and_then(|(mut rows, _)| check(&mut rows)).map_err(nothing)?;
    }
    let (mut rows, named) = open(&args, input.into_rows()?, &limits).map_err(nothing)?;
    let target = Target {
        database: client.database(),
        family: args.family.clone().or(named).unwrap_or_default(),
        timeout: args.target.timeout(),
        batch_bytes: BATCH_BYTES.min(limits.max_transaction_bytes.saturating_sub(COMMIT_BYTES)),
    };
    let (written, last) = target.write_all(&mut rows).await?;
    let text = match written {
        0 => "there is no row, so nothing was written".to_string(),
        _ => format!("{written} rows imported, the last ones at version {}", last.0),
    };
    output::done(args.format, &json!({ "rows": written, "version": last.0 }), &text)
}

/// A source of rows, and its name for messages.
type Named = (String, Box<dyn Read>);

type Rows = Reader<BufReader<Box<dyn Read>>>;

/// The rows, and the column family that their header names.
fn open(args: &ImportArgs, (name, source): Named, limits: &Limits) -> Result<(Rows, Option<String>), Failure> {
    let source = BufReader::new(source);
    if args.no_header {
        let notation = if args.hex { Notation::Hex } else { Notation::Escaped };
        return Ok((Reader::without_marks(&name, source, limits, notation), None));
    }
    let (rows, header) = Reader::begin(&name, source, limits)?;
    Ok((rows, Some(header.family)))
}

fn check(rows: &mut Rows) -> Result<(), Failure> {
    let bar = output::progress("rows checked", None);
    while rows.next()?.is_some() {
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// The source of the rows.
struct Input {
    /// Its name, for messages.
    name: String,
    source: Source,
}

enum Source {
    /// A file that can be read twice, starting at this offset.
    File(File, u64),
    Stream(Box<dyn Read>),
}

impl Input {
    fn open(path: Option<&Path>) -> Result<Input, Failure> {
        let (name, file) = match path.filter(|path| path.as_os_str() != "-") {
            Some(path) => {
                let name = path.display().to_string();
                let file = File::open(path);
                (
                    name.clone(),
                    file.map_err(|error| Failure::Usage(format!("cannot read the rows in {name}: {error}")))?,
                )
            }
            None => {
                if std::io::stdin().is_terminal() {
                    output::remark("reading rows from the terminal (key, tab, value); Ctrl-D ends it");
                }
                // The same open file, without a buffer.
                ("standard input".to_string(), File::from(std::io::stdin().as_fd().try_clone_to_owned()?))
            }
        };
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let source = match (&file).stream_position() {
            Ok(place) if is_file => Source::File(file, place),
            Ok(_) | Err(_) => Source::Stream(Box::new(file)),
        };
        Ok(Input { name, source })
    }

    /// The input for the first of two readings; `None` if it can be read only once.
    fn again(&mut self) -> Result<Option<Named>, Failure> {
        match &self.source {
            Source::File(file, _) => Ok(Some((self.name.clone(), Box::new(file.try_clone()?)))),
            Source::Stream(_) => Ok(None),
        }
    }

    fn into_rows(self) -> Result<Named, Failure> {
        Ok((
            self.name,
            match self.source {
                Source::File(mut file, place) => {
                    file.seek(SeekFrom::Start(place))?;
                    Box::new(file)
                }
                Source::Stream(stream) => stream,
            },
        ))
    }
}

struct Target {
    database: Database,
    family: String,
    timeout: Duration,
    batch_bytes: usize,
}

impl Target {
    /// Writes all rows. Returns their number and the last commit version.
    async fn write_all(&self, rows: &mut Rows) -> Result<(u64, Version), Failure> {
        let bar = output::progress("rows imported", None);
        let (mut written, mut last) = (0_u64, Version::default());
        let mut batch = Batch::default();
        loop {
            // Valid rows before an invalid line are written, like everything before them.
            let next = batch.fill(rows, self.batch_bytes);
            if !batch.rows.is_empty() {
                let stopped = |failure: Failure| match written {
                    0 => failure.with_text(|text| format!("0 rows are written; {text}")),
                    _ => failure.after(&format!("{written} rows are written; ")),
                };
                last = self.write(&batch.rows).await.map_err(stopped)?;
                written += batch.rows.len() as u64;
                bar.inc(batch.rows.len() as u64);
            }
            match next {
                Ok(true) => {}
                Ok(false) => break,
                Err(failure) if written == 0 => {
                    return Err(failure.with_text(|text| format!("{text}; nothing was written")));
                }
                Err(failure) => return Err(failure.after(&format!("{written} rows before it are written; "))),
            }
        }
        bar.finish_and_clear();
        Ok((written, last))
    }

    async fn write(&self, batch: &[Pair]) -> Result<Version, Failure> {
        let options = TransactionOptions { timeout: self.timeout, ..TransactionOptions::default() };
        let body = |transaction: kv_client::Transaction| {
            let transaction = transaction.family(&self.family);
            batch.iter().for_each(|(key, value)| transaction.set(key.clone(), value.clone()));
            async { Ok::<(), ClientError>(()) }
        };
        let ((), committed) = self.database.run_with(options, body).await.map_err(Failure::of_write)?;
        Ok(committed.version)
    }
}

/// The rows of one transaction.
#[derive(Default)]
struct Batch {
    rows: Vec<Pair>,
    /// The next row, which did not fit.
    next: Option<Pair>,
}

impl Batch {
    /// Takes the next rows. Returns whether more may follow, or the error that ended the input.
    fn fill(&mut self, rows: &mut Rows, most_bytes: usize) -> Result<bool, Failure> {
        self.rows.clear();
        let mut bytes = 0;
        while self.rows.len() < BATCH_ROWS {
            let next = match self.next.take() {
                Some(row) => Some(row),
                None => rows.next()?,
            };
            let Some(row) = next else { return Ok(false) };
            bytes += row.0.len() + row.1.len();
            if bytes > most_bytes && !self.rows.is_empty() {
                self.next = Some(row);
                return Ok(true);
            }
            self.rows.push(row);
        }
        Ok(true)
    }
}
