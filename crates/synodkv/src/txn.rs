//! `txn`: a script of statements as one transaction.

use std::cell::Cell;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use kv_client::{ClientError, Committed, ErrorCode, Transaction, TransactionOptions, Version};
use serde_json::{Map, Value, json};

use crate::cli::TxnArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::statement::execute::{self, Outcome, execute};
use crate::statement::parse::parse;
use crate::statement::{Line, Statement, present};
use crate::text::Notation;

pub async fn run(args: TxnArgs) -> Result<ExitCode, Failure> {
    let notation = args.presentation.notation();
    let source = Source::read(&args)?;
    let script = Script::parse(&source, notation, &args.family)?;
    let database = args.target.connect().await?.database();
    let options = TransactionOptions {
        timeout: args.target.timeout(),
        // At a given version, reads return the same rows again, so a retry would fail again.
        max_retries: (args.no_retry || args.at.is_some()).then_some(0),
        ..TransactionOptions::default()
    };
    let attempts = Cell::new(0);
    let body = |transaction: Transaction| {
        attempts.set(attempts.get() + 1);
        attempt(transaction, &script, args.at.map(Version), notation)
    };
    let report = Report { script: &script, source: &source.name, notation, format: args.presentation.format };
    match database.run_with(options, body).await {
        Ok((outcomes, committed)) => report.success(&outcomes, &committed, attempts.get()),
        Err(stop) => report.failure(stop, attempts.get()),
    }
}

/// Longest script. Larger transactions are rarely intended; note that a script is escaped text.
const MAX_SCRIPT_BYTES: u64 = 256 << 20;

/// The source of the script.
struct Source {
    /// Its name, for messages.
    name: String,
    text: String,
}

impl Source {
    fn read(args: &TxnArgs) -> Result<Self, Failure> {
        if !args.lines.is_empty() {
            return Ok(Source { name: "-e".to_string(), text: args.lines.join("\n") });
        }
        match args.file.as_ref().filter(|file| file.as_os_str() != "-") {
            Some(file) => {
                let name = file.display().to_string();
                let opened = std::fs::File::open(file);
                let opened =
                    opened.map_err(|error| Failure::Usage(format!("cannot read the script {name}: {error}")))?;
                Source::of(name, opened)
            }
            None => {
                if std::io::stdin().is_terminal() {
                    output::remark("reading the script from the terminal; Ctrl-D ends it");
                }
                Source::of("standard input".to_string(), std::io::stdin().lock())
            }
        }
    }

    /// Reads the whole script into memory, so its length is limited.
    fn of(name: String, script: impl Read) -> Result<Self, Failure> {
        let mut text = String::new();
        let read = script.take(MAX_SCRIPT_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::Usage(format!("cannot read the script {name}: {error}")))?;
        if text.len() as u64 > MAX_SCRIPT_BYTES {
            return Err(Failure::Usage(format!("{name}: a script has at most {MAX_SCRIPT_BYTES} bytes")));
        }
        Ok(Source { name, text })
    }
}

/// A statement and the number of its line.
type Numbered = (usize, Statement);

struct Script {
    statements: Vec<Numbered>,
}

impl Script {
    fn parse(source: &Source, notation: Notation, family: &str) -> Result<Self, Failure> {
        let mut statements = Vec::new();
        for (index, text) in source.text.lines().enumerate() {
            let number = index + 1;
            let wrong = |reason: String| Failure::Usage(format!("{}, line {number}: {reason}", source.name));
            match parse(text, notation, family).map_err(wrong)? {
                None => {}
                Some(Line::Statement(Statement { at: Some(_), .. })) => {
                    let reason = "a transaction reads at one version: give `--at` to the command, not to a line";
                    return Err(wrong(reason.to_string()));
                }
                Some(Line::Statement(statement)) => statements.push((number, statement)),
                Some(Line::Session(_)) => {
                    let name = text.split_whitespace().next().unwrap_or_default();
                    return Err(wrong(format!("`{name}` is for `synodkv shell`; all of a script is one transaction")));
                }
            }
        }
        if statements.is_empty() {
            return Err(Failure::Usage(format!("{}: there is no statement, so nothing to do", source.name)));
        }
        Ok(Script { statements })
    }

    fn writes(&self) -> bool {
        self.statements.iter().any(|(_, statement)| statement.action.writes())
    }
}

/// The reason why the script did not commit.
struct Stop {
    /// The line that failed; `None` if the commit failed.
    line: Option<usize>,
    reason: execute::Stop,
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Stop { line: None, reason: error.into() }
    }
}

async fn attempt(
    transaction: Transaction,
    script: &Script,
    at: Option<Version>,
    notation: Notation,
) -> Result<Vec<Outcome>, Stop> {
    if let Some(version) = at {
        transaction.set_read_version(version)?;
    }
    let mut outcomes = Vec::with_capacity(script.statements.len());
    for (line, statement) in &script.statements {
        let outcome = execute(&transaction, statement, notation).await;
        outcomes.push(outcome.map_err(|reason| Stop { line: Some(*line), reason })?);
    }
    Ok(outcomes)
}

struct Report<'s> {
    script: &'s Script,
    source: &'s str,
    notation: Notation,
    format: Format,
}

impl Report<'_> {
    fn success(&self, outcomes: &[Outcome], committed: &Committed, attempts: u32) -> Result<ExitCode, Failure> {
        let is_written = self.script.writes();
        self.tell(outcomes, committed, attempts).map_err(|failure| match is_written {
            true => failure.after(&format!(
                "it is committed at version {}, but its result was not printed: ",
                committed.version.0
            )),
            false => failure,
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, outcomes: &[Outcome], committed: &Committed, attempts: u32) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.success_text(outcomes, committed),
            Format::Json => {
                let mut fields = present::commit_json(committed, self.script.writes(), self.notation);
                fields.insert("attempts".to_string(), attempts.into());
                fields.insert("results".to_string(), self.results(outcomes).into());
                output::write_json(&fields)
            }
        }
    }

    fn success_text(&self, outcomes: &[Outcome], committed: &Committed) -> Result<(), Failure> {
        for outcome in outcomes {
            let text = present::text(outcome, self.notation, true);
            output::write(text.output.as_bytes())?;
            text.remark.iter().for_each(output::remark);
        }
        output::write(present::commit_text(committed, self.script.writes(), self.notation).as_bytes())
    }

    /// The results of the statements that have one.
    fn results(&self, outcomes: &[Outcome]) -> Vec<Value> {
        let each = self.script.statements.iter().zip(outcomes).filter_map(|((line, statement), outcome)| {
            let mut fields = Map::new();
            fields.insert("line".to_string(), (*line).into());
            fields.insert("command".to_string(), statement.name.into());
            fields.extend(present::json(outcome, self.notation)?);
            Some(fields.into())
        });
        each.collect()
    }

    fn failure(&self, stop: Stop, attempts: u32) -> Result<ExitCode, Failure> {
        let (failure, code, maybe_committed) = match stop.reason {
            execute::Stop::Assert(reason) | execute::Stop::NoNumber(reason) => (Failure::Failed(reason), None, false),
            execute::Stop::Client(error) => {
                let (code, maybe_committed) = (error.code().cloned(), error.maybe_committed());
                let meanwhile = present::conflicting(&error, self.notation);
                (Failure::from(error).with_text(|text| format!("{text}{meanwhile}")), code, maybe_committed)
            }
        };
        let place = stop.line.map(|line| format!("{}, line {line}: ", self.source)).unwrap_or_default();
        let void = if self.script.writes() && !maybe_committed { "; nothing was written" } else { "" };
        if self.format == Format::Json {
            // Null means unknown.
            let committed = if maybe_committed { Value::Null } else { false.into() };
            output::write_json(&json!({
                "committed": committed, "line": stop.line, "error": failure.to_string(),
                "error_code": code.as_ref().map(ErrorCode::as_str), "attempts": attempts
            }))?;
        }
        Err(failure.with_text(|reason| format!("{place}{reason}{void}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Result<Script, Failure> {
        let source = Source { name: "s".to_string(), text: text.to_string() };
        Script::parse(&source, Notation::Escaped, "")
    }

    #[test]
    fn statements_know_their_lines() {
        let script = script("# a comment\n\nget a\n  set b c # why\n").expect("a script");
        assert_eq!(script.statements.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4]);
        assert!(script.writes());
    }

    #[test]
    fn an_error_names_its_line() {
        let refused = |text: &str| script(text).err().expect("refused").to_string();
        assert!(refused("get a\nset b").starts_with("s, line 2: VALUE is missing; usage: set"));
        assert!(refused("begin\n").starts_with("s, line 1: `begin` is for `synodkv shell`"));
        assert!(refused("get a --at 7").starts_with("s, line 1: a transaction reads at one version"));
        assert_eq!(refused("# nothing\n"), "s: there is no statement, so nothing to do");
    }

    #[test]
    fn conflicts_and_asserts_do_not_count_as_writes() {
        assert!(!script("assert a b\nconflict c\nrange").expect("a script").writes());
    }
}
