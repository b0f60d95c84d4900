//! The state of a shell between two lines, and the execution of a line.
//!
//! Invariant: while a transaction is open, every statement belongs to it. After a failed assert the
//! transaction can only be rolled back, so that the statements after it do not take effect on their
//! own.

use std::time::Duration;

use kv_client::{ClientError, Committed, Database, ErrorCode, Transaction, TransactionOptions, Version};
use serde_json::{Map, Value};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::ShellArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::statement::commands::{self, find};
use crate::statement::execute::{Outcome, Stop, execute};
use crate::statement::parse::parse;
use crate::statement::{Line, SessionCommand, Statement, present};
use crate::targets::ThriftTarget;
use crate::text::Notation;

/// Long, because people take their time. The server's readable window ends a transaction earlier.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(3600);

const FAILED: &str = "the transaction has failed, and nothing of it will be written: `rollback` ends it";

pub struct Session {
    target: ThriftTarget,
    addresses: Vec<String>,
    timeout: Duration,
    notation: Notation,
    format: Format,
    /// Set on a terminal: writes are then confirmed, and Ctrl-C ends the running command instead of
    /// the shell.
    interrupts: Option<Signal>,
    family: String,
    database: Option<Database>,
    open: Option<Open>,
}

struct Open {
    transaction: Transaction,
    has_written: bool,
    has_failed: bool,
}

/// The next step of the shell after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Continue,
    Quit,
}

impl Session {
    pub fn new(args: &ShellArgs, is_interactive: bool) -> Result<Self, Failure> {
        let addresses = args.target.addresses()?;
        let interrupts = is_interactive.then(|| signal(SignalKind::interrupt())).transpose()?;
        Ok(Session {
            target: args.target.clone(),
            addresses,
            timeout: args.target.timeout(),
            notation: args.presentation.notation(),
            format: args.presentation.format,
            interrupts,
            family: args.family.clone(),
            database: None,
            open: None,
        })
    }

    pub async fn connect(&mut self) -> Result<Database, Failure> {
        if let Some(database) = &self.database {
            return Ok(database.clone());
        }
        let database = self.target.connect().await?.database();
        self.database = Some(database.clone());
        Ok(database)
    }

    pub fn address(&self) -> String {
        self.addresses.join(",")
    }

    /// The prompt, which shows whether a transaction is open and whether it has failed.
    pub fn prompt(&self) -> &'static str {
        match &self.open {
            None => "synodkv> ",
            Some(open) if open.has_failed => "synodkv!> ",
            Some(_) => "synodkv*> ",
        }
    }

    pub fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    pub async fn execute(&mut self, line: &str) -> Result<Next, Failure> {
        match parse(line, self.notation, &self.family).map_err(Failure::Usage)? {
            None => {}
            Some(Line::Session(SessionCommand::Quit)) => return Ok(Next::Quit),
            Some(Line::Session(command)) => self.steer(command).await?,
            Some(Line::Statement(statement)) => match &self.open {
                Some(_) => self.execute_inside(&statement).await?,
                None => self.execute_alone(&statement).await?,
            },
        }
        Ok(Next::Continue)
    }

    async fn steer(&mut self, command: SessionCommand) -> Result<(), Failure> {
        match command {
            SessionCommand::Begin { at } => self.begin(at).await,
            SessionCommand::Commit => self.commit().await,
            SessionCommand::Rollback => self.rollback(),
            SessionCommand::Use { family } => {
                self.family = family;
                Ok(())
            }
            SessionCommand::Help { command: None } => output::write_line(&help()),
            SessionCommand::Help { command: Some(name) } => {
                output::write_line(&find(&name).expect("the parser knows it").help())
            }
            SessionCommand::Quit => unreachable!("handled by the caller"),
        }
    }

    async fn begin(&mut self, at: Option<Version>) -> Result<(), Failure> {
        if self.open.is_some() {
            return Err(Failure::Failed("a transaction is open already: `commit` or `rollback` ends it".to_string()));
        }
        let options = TransactionOptions { timeout: LONGEST_TRANSACTION, ..TransactionOptions::default() };
        let transaction = self.connect().await?.transaction_with(options);
        if let Some(version) = at {
            transaction.set_read_version(version)?;
        }
        self.open = Some(Open { transaction, has_written: false, has_failed: false });
        self.confirm("begin", Map::new(), "")
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        let open = self.open.take().ok_or_else(no_transaction)?;
        if open.has_failed {
            return Err(Failure::Failed("the transaction had failed: nothing of it was written".to_string()));
        }
        let committed = self.bounded(open.transaction.commit()).await;
        let committed = committed.map_err(|cut| match cut {
            Cut::Short(reason) => Failure::Unsure(format!("{reason}: it is unknown whether the commit happened")),
            Cut::Failed(error) => commit_failure(error, self.notation),
        })?;
        self.tell_commit("commit", &committed, open.has_written)
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        self.open.take().ok_or_else(no_transaction)?;
        self.confirm("rollback", Map::new(), "nothing of it was written")
    }

    async fn execute_inside(&mut self, statement: &Statement) -> Result<(), Failure> {
        let open = self.open.as_ref().expect("the caller has looked");
        if open.has_failed {
            return Err(Failure::Failed(FAILED.to_string()));
        }
        if statement.at.is_some() {
            let reason = "a transaction reads at one version: `begin --at VERSION` chooses it";
            return Err(Failure::Usage(reason.to_string()));
        }
        let transaction = open.transaction.clone();
        let notation = self.notation;
        let outcome = self.bounded(execute(&transaction, statement, notation)).await;
        let open = self.open.as_mut().expect("nobody else ends it");
        match outcome {
            Ok(outcome) => {
                open.has_written |= statement.action.writes();
                self.tell(statement, &outcome)
            }
            Err(Cut::Failed(Stop::Assert(reason))) => {
                open.has_failed = true;
                Err(Failure::Failed(format!("{reason}; {FAILED}")))
            }
            Err(Cut::Failed(stop)) => Err(failure_of(stop)),
            Err(Cut::Short(reason)) => Err(Failure::Unsure(reason)),
        }
    }

    /// Executes a transaction of one statement, which is retried on conflicts.
    async fn execute_alone(&mut self, statement: &Statement) -> Result<(), Failure> {
        let database = self.connect().await?;
        let options = TransactionOptions {
            timeout: self.timeout,
            // The rows of a version do not change, so a retry would fail again.
            max_retries: statement.at.map(|_| 0),
            ..TransactionOptions::default()
        };
        let notation = self.notation;
        let body = async |transaction: Transaction| {
            if let Some(version) = statement.at {
                transaction.set_read_version(version)?;
            }
            execute(&transaction, statement, notation).await
        };
        let done = tokio::select! {
            done = database.run_with(options, body) => done.map_err(failure_of),
            () = interruption(&mut self.interrupts) => {
                let what = if statement.action.writes() { "interrupted; the write may have happened" } else { "interrupted" };
                Err(Failure::Unsure(what.to_string()))
            }
        };
        let (outcome, committed) = done?;
        match statement.action.writes() {
            true => self.tell_commit(statement.name, &committed, true),
            false => self.tell(statement, &outcome),
        }
    }

    /// Waits for `work` until the timeout or Ctrl-C.
    async fn bounded<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> Result<T, Cut<E>> {
        tokio::select! {
            done = tokio::time::timeout(self.timeout, work) => match done {
                Ok(done) => done.map_err(Cut::Failed),
                Err(_) => Err(Cut::Short(format!("no answer within {} s", self.timeout.as_secs()))),
            },
            () = interruption(&mut self.interrupts) => Err(Cut::Short("interrupted".to_string())),
        }
    }

    fn tell(&self, statement: &Statement, outcome: &Outcome) -> Result<(), Failure> {
        if self.format == Format::Json {
            return self.confirm(statement.name, present::json(outcome, self.notation).unwrap_or_default(), "");
        }
        let text = present::text(outcome, self.notation, false);
        output::write(text.output.as_bytes())?;
        text.remark.iter().for_each(output::remark);
        Ok(())
    }

    fn tell_commit(&self, command: &str, committed: &Committed, has_written: bool) -> Result<(), Failure> {
        if self.format == Format::Json {
            return self.confirm(command, present::commit_json(committed, has_written, self.notation), "");
        }
        // A single write prints as little as `synodkv set` does, unless on a terminal.
        let text = match self.interrupts.is_some() || command == "commit" {
            true => present::commit_text(committed, has_written, self.notation),
            false => present::stamped_text(committed, self.notation),
        };
        output::write(text.as_bytes())
    }

    /// Confirms a command: one line of JSON, or a word on a terminal.
    fn confirm(&self, command: &str, fields: Map<String, Value>, text: &str) -> Result<(), Failure> {
        if self.format == Format::Json {
            let mut line = Map::new();
            line.insert("command".to_string(), command.into());
            line.extend(fields);
            return output::write_json(&line);
        }
        if self.interrupts.is_some() && !text.is_empty() { output::write_line(text) } else { Ok(()) }
    }
}

/// Why a command was cut short or failed.
enum Cut<E> {
    /// The timeout passed, or the user interrupted it.
    Short(String),
    Failed(E),
}

async fn interruption(interrupts: &mut Option<Signal>) {
    match interrupts {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn no_transaction() -> Failure {
    Failure::Failed("no transaction is open: `begin` starts one".to_string())
}

fn failure_of(stop: Stop) -> Failure {
    match stop {
        Stop::Assert(reason) | Stop::NoNumber(reason) => Failure::Failed(reason),
        Stop::Client(error) => error.into(),
    }
}

fn commit_failure(error: ClientError, notation: Notation) -> Failure {
    let void = if error.maybe_committed() { "" } else { "; nothing was written" };
    let again = if error.code() == Some(&ErrorCode::Conflict) { ": begin again" } else { "" };
    let meanwhile = present::conflicting(&error, notation);
    Failure::from(error).with_text(|text| format!("{text}{meanwhile}{void}{again}"))
}

fn help() -> String {
    format!(
        "Data:\n{}\n\nTransactions and the shell:\n{}\n\n\
        `help COMMAND` explains one. Keys and values: \\xNN is the byte NN; \\\\, \\n, \\t, \\r, \\0 as usual; quotes around what \
        has blanks.\n`#` begins a comment. Tab completes, the arrows and Ctrl-R bring back earlier lines, Ctrl-D ends.",
        commands::list(|command| !command.is_for_shell_only()),
        commands::list(commands::Command::is_for_shell_only)
    )
}
