//! Runs real processes under real faults; see `scripts/chaos.sh`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use std::{env, fs};

use proof::chaos::schedule::Schedule;
use proof::chaos::{Options, run};

const USAGE: &str = "usage: chaos --program PATH [--minutes M] [--seed N] [--folder PATH] [--keep] [--schedule]";

struct Arguments {
    options: Options,
    minutes: f64,
    /// Data and logs stay, whatever happens.
    keep: bool,
    /// Only tells what would be done.
    schedule_only: bool,
}

fn parse() -> Result<Arguments, String> {
    let (mut program, mut folder, mut seed) = (None, None, None);
    let (mut minutes, mut keep, mut schedule_only) = (15.0, false, false);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value; {USAGE}"));
        match word.as_str() {
            "--program" => program = Some(PathBuf::from(value()?)),
            "--folder" => folder = Some(PathBuf::from(value()?)),
            "--seed" => seed = Some(value()?.parse().map_err(|_| "--seed needs a number".to_string())?),
            "--minutes" => minutes = value()?.parse().map_err(|_| "--minutes needs a number".to_string())?,
            "--keep" => keep = true,
            "--schedule" => schedule_only = true,
            _ => return Err(format!("unknown argument {word}; {USAGE}")),
        }
    }
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_micros() as u64 % 1_000_000_007
    });
    let program = program.ok_or(USAGE)?;
    let folder = folder.unwrap_or_else(|| env::temp_dir().join(format!("synodkv-chaos-{seed}-{}", std::process::id())));
    let duration = Duration::from_secs_f64(minutes * 60.0);
    Ok(Arguments { options: Options { program, folder, duration, seed }, minutes, keep, schedule_only })
}

// More than the machine has processors: some wait for the disk.
#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    match parse() {
        Ok(arguments) if arguments.schedule_only => {
            for planned in Schedule::new(arguments.options.seed, arguments.options.duration).faults {
                println!(
                    "{:8.1} to {:8.1} s  {}",
                    planned.begin.as_secs_f64(),
                    planned.end.as_secs_f64(),
                    planned.fault
                );
            }
            ExitCode::SUCCESS
        }
        Ok(arguments) => chaos(&arguments).await,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn chaos(arguments: &Arguments) -> ExitCode {
    let Options { folder, seed, .. } = &arguments.options;
    println!("chaos for {} minutes with seed {seed} in {}", arguments.minutes, folder.display());
    if let Err(error) = fs::create_dir_all(folder) {
        eprintln!("error: {}: {error}", folder.display());
        return ExitCode::from(2);
    }
    let report = tokio::select! {
        report = run(&arguments.options) => report,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_string()),
    };
    match report {
        Ok(report) => {
            println!("{}", report.summary);
            tell(&report.violations, arguments)
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::from(2)
        }
    }
}

fn tell(violations: &[String], arguments: &Arguments) -> ExitCode {
    let Arguments { options: Options { folder, seed, .. }, minutes, keep, .. } = arguments;
    if violations.is_empty() {
        println!("no promise was broken (seed {seed})");
        if !keep {
            remove(folder);
        }
        return ExitCode::SUCCESS;
    }
    for violation in violations {
        println!("VIOLATION: {violation}");
    }
    println!("histories, logs and data are in {}", folder.display());
    println!("the same schedule again: scripts/chaos.sh --minutes {minutes} --seed {seed}");
    ExitCode::FAILURE
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("{} stays: {error}", folder.display());
    }
}
