//! Results on standard output, for people or for programs; everything else goes to standard error.
//!
//! Nothing here panics, whatever the outputs are. If the reader of standard output goes away, as
//! `head` does, that is not a failure: the rest is not written, and the command ends with the
//! status that it would have had. A full disk is a failure.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON document, for programs.
    Json,
}

/// Whether the reader of standard output has gone.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the reader has gone, so that a command that runs only for its output may end.
pub fn is_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

/// Writes bytes to standard output.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    if is_closed() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            IS_CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        result => result.map_err(|error| Failure::Unsure(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes bytes to standard output while timers and connections continue, because a reader may be
/// slow.
pub async fn write_aside(bytes: Vec<u8>) -> Result<(), Failure> {
    let written = tokio::task::spawn_blocking(move || write(&bytes)).await;
    written.unwrap_or_else(|error| Err(Failure::Unsure(format!("cannot write to standard output: {error}"))))
}

pub fn write_line(line: &str) -> Result<(), Failure> {
    write(format!("{line}\n").as_bytes())
}

pub fn write_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|e| Failure::Unsure(e.to_string()))?;
    write_line(&text)
}

/// Prints the result of a change. If that fails, the error says what was done.
pub fn done(format: Format, document: &impl Serialize, text: &str) -> Result<ExitCode, Failure> {
    let written = match format {
        Format::Json => write_json(document),
        Format::Text => write_line(text),
    };
    written.map_err(|failure| failure.after(&format!("it was done, but its result was not printed: {text}; ")))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a remark for people on standard error. Ignores a failure to write, because there is no
/// other place to report it.
pub fn remark(text: impl Display) {
    let mut line = text.to_string();
    line.push('\n');
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A progress bar on standard error if that is a terminal, and nothing otherwise. `length` is
/// `None` if unknown.
pub fn progress(what: &str, length: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{msg} [{bar:40}] {human_pos}/{human_len} ({eta})"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> "));
    bar.set_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Formats a table with aligned columns; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_its_columns() {
        let rows = [vec!["id".to_string(), "role".to_string()], vec!["10".to_string(), "primary".to_string()]];
        assert_eq!(table(&rows), "id  role\n10  primary");
    }
}
