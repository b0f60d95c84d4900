//! `import`: writes rows as `range` prints them.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use kv_client::{ClientError, Database, TransactionOptions, Version};
use serde_json::json;

use crate::cli::ImportArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::text::Notation;

/// Rows and bytes of one transaction: far below the limits of the servers, and enough that commits cost little.
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

/// Longest line, in bytes: the longest key and value, each byte written as `\xNN`, and something over.
const MAX_LINE_BYTES: u64 = 1 << 20;

type Pair = (Vec<u8>, Vec<u8>);

pub async fn run(args: ImportArgs) -> Result<ExitCode, Failure> {
    let mut rows = Rows::open(&args)?;
    let target = Target {
        database: args.target.connect().await?.database(),
        family: args.family,
        timeout: Duration::from_secs(args.target.timeout_seconds),
    };
    let bar = output::progress("rows imported", None);
    let (mut written, mut last) = (0_u64, Version::default());
    loop {
        // What is right before a wrong line is written like everything before it.
        let (batch, outcome) = rows.batch();
        if !batch.is_empty() {
            let stopped = |failure: Failure| failure.after(&format!("{written} rows are written; "));
            last = target.write(&batch).await.map_err(stopped)?;
            written += batch.len() as u64;
            bar.inc(batch.len() as u64);
        }
        match outcome {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => return Err(failure.after(&format!("{written} rows before it are written; "))),
        }
    }
    bar.finish_and_clear();
    match args.presentation.format {
        Format::Json => output::write_json(&json!({ "rows": written, "version": last.0 }))?,
        Format::Text if written == 0 => output::write_line("there is no row, so nothing was written")?,
        Format::Text => output::write_line(&format!("{written} rows imported, the last ones at version {}", last.0))?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Target {
    database: Database,
    family: String,
    timeout: Duration,
}

impl Target {
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

/// Reads rows line by line.
struct Rows {
    /// For messages.
    name: String,
    source: Box<dyn BufRead>,
    notation: Notation,
    line: u64,
}

impl Rows {
    fn open(args: &ImportArgs) -> Result<Rows, Failure> {
        let (name, source): (String, Box<dyn BufRead>) = match args.file.as_ref().filter(|file| file.as_os_str() != "-")
        {
            Some(file) => {
                let name = file.display().to_string();
                let opened = std::fs::File::open(file);
                let opened =
                    opened.map_err(|error| Failure::Usage(format!("cannot read the rows in {name}: {error}")))?;
                (name, Box::new(BufReader::new(opened)))
            }
            None => {
                if std::io::stdin().is_terminal() {
                    eprintln!("reading rows from the terminal (key, tab, value); Ctrl-D ends it");
                }
                ("standard input".to_string(), Box::new(BufReader::new(std::io::stdin())))
            }
        };
        Ok(Rows { name, source, notation: args.presentation.notation(), line: 0 })
    }

    /// The next rows, and whether more may come, or why there are none behind them.
    fn batch(&mut self) -> (Vec<Pair>, Result<bool, Failure>) {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            match self.next() {
                Ok(Some(row)) => {
                    bytes += row.0.len() + row.1.len();
                    rows.push(row);
                }
                Ok(None) => return (rows, Ok(false)),
                Err(failure) => return (rows, Err(failure)),
            }
        }
        (rows, Ok(true))
    }

    fn next(&mut self) -> Result<Option<Pair>, Failure> {
        let mut text = Vec::new();
        self.source.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
        if text.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let wrong = |reason: &str| Failure::Usage(format!("{}, line {}: {reason}", self.name, self.line));
        if text.pop_if(|byte| *byte == b'\n').is_none() && text.len() as u64 >= MAX_LINE_BYTES {
            return Err(wrong(&format!("it is longer than {MAX_LINE_BYTES} bytes, and no row is")));
        }
        let text = String::from_utf8(text).map_err(|_| wrong("it is not UTF-8; other bytes are written as \\xNN"))?;
        let Some((key, value)) = text.split_once('\t') else {
            return Err(wrong("expected a key, a tab and a value, as `synodkv range` prints them"));
        };
        let parse = |what, text| self.notation.parse(what, text).map_err(|failure| wrong(&failure.to_string()));
        Ok(Some((parse("key", key)?, parse("value", value)?)))
    }
}
