//! SynodKV in one binary: the server (`serve`), the client commands (`get`, `set`, …), transactions
//! (`txn`, `shell`), the check that all replicas hold the same rows (`verify`) and the benchmarks
//! (`bench`, `bench-disk`).
//!
//! Exit statuses: 0 for success; 1 if the answer is no; 2 for wrong usage, configuration or input,
//! before anything was done; 3 if the answer is unknown, at least now (`serve` exits with 1 for all
//! later failures). docs/CLI.md has the table.

mod access;
mod admin;
mod allocator;
mod auth;
mod backup_cmd;
mod bench;
mod bench_disk;
mod cert;
mod cli;
mod convert;
mod data;
mod debug;
mod doctor;
mod failover;
mod failure;
mod family;
mod generate;
mod health;
mod http;
mod import;
mod logging;
mod member;
mod output;
mod predecessor;
mod range;
mod recover;
mod reload;
mod restore_cmd;
mod rows_file;
mod screen;
mod serve;
mod shell;
mod signals;
mod statement;
mod status;
mod supervisor;
mod targets;
mod text;
mod top;
mod txn;
mod upgrade;
mod usage;
mod verify;
mod version;
mod watch;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let serves = matches!(cli.command, Command::Serve(_));
    cli.access.install();
    match run(cli.command) {
        Ok(code) => code,
        // `serve` has no answer that could be unknown.
        Err(Failure::Unsure(reason)) if serves => fail(&Failure::Failed(reason)),
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    output::remark(format!("error: {failure}"));
    failure.exit_code()
}

/// Prints help, the version, or the error in the command line.
fn explain(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.kind() == ErrorKind::DisplayVersion && std::env::args_os().any(|argument| argument == "--verbose") {
        return match output::write(version::verbose().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(&failure),
        };
    }
    if !error.use_stderr() {
        let shown = if output::is_terminal() { text.ansi().to_string() } else { text.to_string() };
        return match output::write(shown.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(&failure),
        };
    }
    let in_colour = std::io::stderr().is_terminal();
    let shown = if in_colour { text.ansi().to_string() } else { text.to_string() };
    output::remark(shown.trim_end());
    if let Some(hint) = predecessor::hint(error) {
        output::remark(format!("\n{hint}"));
    }
    Failure::Usage(String::new()).exit_code()
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    // A client command runs on one thread, so that it does not compete with the server on a small
    // machine.
    let on_one_thread = || tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from);
    // Rows are compressed, hashed and encrypted beside the connections.
    let on_threads = || tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::from);
    match command {
        Command::Backup(args) => on_threads()?.block_on(backup_cmd::run(args)),
        Command::Restore(args) => on_threads()?.block_on(restore_cmd::run(*args)),
        Command::Serve(args) => serve::run(args),
        Command::Failover(args) => on_one_thread()?.block_on(failover::run(args)),
        Command::Member(args) => on_one_thread()?.block_on(member::run(args)),
        Command::Join(args) => on_one_thread()?.block_on(member::join(args)),
        Command::Upgrade(args) => on_one_thread()?.block_on(upgrade::run(args)),
        Command::Family(args) => on_one_thread()?.block_on(family::run(args)),
        Command::Auth(args) => on_one_thread()?.block_on(auth::run(args)),
        Command::Doctor(args) => on_one_thread()?.block_on(doctor::run(args)),
        Command::Health(args) => on_one_thread()?.block_on(health::run(args)),
        Command::Top(args) => on_one_thread()?.block_on(top::run(args)),
        Command::Debug(args) => on_one_thread()?.block_on(debug::run(args)),
        Command::Slow(args) => on_one_thread()?.block_on(top::slow(args)),
        Command::Status(args) => on_one_thread()?.block_on(status::run(args)),
        Command::Get(args) => on_one_thread()?.block_on(data::get(args)),
        Command::Set(args) => on_one_thread()?.block_on(data::set(args)),
        Command::Delete(args) => on_one_thread()?.block_on(data::delete(args)),
        Command::Range(args) => on_one_thread()?.block_on(range::run(args)),
        Command::Watch(args) => on_one_thread()?.block_on(watch::run(args)),
        Command::Import(args) => on_one_thread()?.block_on(import::run(args)),
        Command::Txn(args) => on_one_thread()?.block_on(txn::run(args)),
        Command::Shell(args) => on_one_thread()?.block_on(shell::run(args)),
        Command::Verify(args) => on_one_thread()?.block_on(verify::run(args)),
        Command::Bench(args) => on_one_thread()?.block_on(bench::run(args)),
        Command::Completion(args) => generate::completion(Cli::command(), args),
        Command::Man(args) => generate::man(Cli::command(), args),
        Command::Cert(args) => cert::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Recover(args) => recover::run(args),
        Command::BenchDisk(args) => bench_disk::run(args),
    }
}
