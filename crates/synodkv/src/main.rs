//! SynodKV in one binary: the server (`serve`), the client commands (`get`, `set`, …), transactions (`txn`, `shell`), the
//! check that all replicas hold the same rows (`verify`) and the benchmarks (`bench`, `bench-disk`).
//!
//! Exit statuses: 0 done; 1 a negative answer or a failure; 2 wrong usage or configuration, before anything was opened.

mod admin;
mod allocator;
mod bench;
mod bench_disk;
mod cli;
mod data;
mod failover;
mod failure;
mod family;
mod import;
mod output;
mod screen;
mod serve;
mod shell;
mod signals;
mod statement;
mod status;
mod text;
mod txn;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    // A client command lives on one thread: on a small machine it must not compete with the server.
    let on_one_thread = || tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from);
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Failover(args) => on_one_thread()?.block_on(failover::run(args)),
        Command::Family(args) => on_one_thread()?.block_on(family::run(args)),
        Command::Status(args) => on_one_thread()?.block_on(status::run(args)),
        Command::Get(args) => on_one_thread()?.block_on(data::get(args)),
        Command::Set(args) => on_one_thread()?.block_on(data::set(args)),
        Command::Delete(args) => on_one_thread()?.block_on(data::delete(args)),
        Command::Range(args) => on_one_thread()?.block_on(data::range(args)),
        Command::Import(args) => on_one_thread()?.block_on(import::run(args)),
        Command::Txn(args) => on_one_thread()?.block_on(txn::run(args)),
        Command::Shell(args) => on_one_thread()?.block_on(shell::run(args)),
        Command::Verify(args) => on_one_thread()?.block_on(verify::run(args)),
        Command::Bench(args) => on_one_thread()?.block_on(bench::run(args)),
        Command::BenchDisk(args) => bench_disk::run(args),
    }
}
