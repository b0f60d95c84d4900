//! Writes the seeds of a target into a folder, or runs a target on files.
//!
//! ```text
//! fuzz-targets list
//! fuzz-targets seeds TARGET FOLDER
//! fuzz-targets run TARGET FILE…
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use fuzz_targets::{TARGETS, Target};

const USAGE: &str = "usage: fuzz-targets list | seeds TARGET FOLDER | run TARGET FILE…";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["list"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["seeds", target, folder] => find(target).and_then(|target| target.write_seeds(Path::new(folder))),
        ["run", target, ref files @ ..] => find(target).and_then(|target| run_files(target, files)),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> io::Result<&'static Target> {
    Target::named(name).ok_or_else(|| io::Error::other(format!("there is no target {name}; `list` shows all")))
}

fn run_files(target: &Target, files: &[&str]) -> io::Result<()> {
    for file in files {
        target.run(&fs::read(file)?);
        println!("{file}: nothing wrong");
    }
    Ok(())
}
