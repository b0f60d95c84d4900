//! Three processes with few descriptors and little memory under clients that behave badly; see
//! `scripts/soak.sh`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use std::{env, fs};

use proof::soak::{Options, run};

const USAGE: &str =
    "usage: soak --program PATH [--minutes M] [--files N] [--memory-mb N] [--seed N] [--folder PATH] [--keep]";

fn parse() -> Result<(Options, bool), String> {
    let (mut program, mut folder, mut keep) = (None, None, false);
    let (mut minutes, mut files, mut memory_mb) = (30.0, 1024, 1024);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut seed = now.as_micros() as u64 % 1_000_000_007;
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value; {USAGE}"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number; {USAGE}"));
        match word.as_str() {
            "--program" => program = Some(PathBuf::from(value()?)),
            "--folder" => folder = Some(PathBuf::from(value()?)),
            "--minutes" => minutes = value()?.parse().map_err(|_| "--minutes needs a number".to_string())?,
            "--files" => files = number(value()?)? as u32,
            "--memory-mb" => memory_mb = number(value()?)?,
            "--seed" => seed = number(value()?)?,
            "--keep" => keep = true,
            _ => return Err(format!("unknown argument {word}; {USAGE}")),
        }
    }
    let program = program.ok_or(USAGE)?;
    let folder = folder.unwrap_or_else(|| env::temp_dir().join(format!("synodkv-soak-{seed}-{}", std::process::id())));
    let duration = Duration::from_secs_f64(minutes * 60.0);
    Ok((Options { program, folder, duration, files, memory_mb, seed }, keep))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let (options, keep) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = fs::create_dir_all(&options.folder) {
        eprintln!("error: {}: {error}", options.folder.display());
        return ExitCode::from(2);
    }
    let report = tokio::select! {
        report = run(&options) => report,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_string()),
    };
    match report {
        Ok(report) => {
            println!("{}", report.summary);
            report.violations.iter().for_each(|violation| println!("VIOLATION: {violation}"));
            if report.violations.is_empty() {
                println!("every promise was kept (seed {})", options.seed);
                if !keep && let Err(error) = fs::remove_dir_all(&options.folder) {
                    eprintln!("{} stays: {error}", options.folder.display());
                }
                return ExitCode::SUCCESS;
            }
            println!("logs and data are in {}", options.folder.display());
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("error: {reason}; logs and data are in {}", options.folder.display());
            ExitCode::from(2)
        }
    }
}
