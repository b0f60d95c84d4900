//! Runs simulations: one seed to look at, or many.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use proof::simulator::{Mode, Settings, Until, campaign, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str =
    "sim --seed N [--verbose] | --seeds N | --minutes M  [--first-seed N] [--replicas 1|3|5|mix] [--threads N]
  --seed N        replays one seed, twice, and compares what happened
  --verbose       prints what happens (with --seed)
  --messages      ... and every message that arrives
  --seeds N       runs N fresh seeds
  --minutes M     runs fresh seeds for M minutes
  --first-seed N  begins with seed N instead of one that the clock names
  --replicas R    1, 3 or 5; mix (the default): the seed decides
  --threads N     default: one per processor
  --beyond-budget losses that nobody can make good: refusal is expected, wrong data is not
  --failures N    goes on until so many seeds have failed
  --leases        with leases in every run
  --corruption    one replica once executes otherwise than the log says
  --require-coverage  fails when a marked path of the core was never taken";

#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    verbose: bool,
    messages: bool,
    seeds: Option<u64>,
    minutes: Option<f64>,
    first_seed: Option<u64>,
    replicas: Option<u8>,
    threads: Option<usize>,
    require_coverage: bool,
    mode: Mode,
    failures: Option<u64>,
}

fn parse() -> Result<Arguments, String> {
    let mut parsed = Arguments::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--verbose" {
            parsed.verbose = true;
            continue;
        }
        if name == "--messages" {
            parsed.messages = true;
            continue;
        }
        if name == "--require-coverage" {
            parsed.require_coverage = true;
            continue;
        }
        let mode = match name.as_str() {
            "--corruption" => Some(Mode::Corruption),
            "--leases" => Some(Mode::Leases),
            "--beyond-budget" => Some(Mode::BeyondBudget),
            _ => None,
        };
        if let Some(mode) = mode {
            parsed.mode = mode;
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name}: unknown, or its value is missing"))?;
        let wrong = || format!("{name} {value}: not a number that fits");
        let number = || value.parse::<u64>().map_err(|_| wrong());
        match name.as_str() {
            "--seed" => parsed.seed = Some(number()?),
            "--seeds" => parsed.seeds = Some(number()?),
            "--minutes" => parsed.minutes = Some(value.parse().map_err(|_| wrong())?),
            "--first-seed" => parsed.first_seed = Some(number()?),
            "--failures" => parsed.failures = Some(number()?),
            "--threads" => parsed.threads = Some(number()? as usize),
            "--replicas" if value == "mix" => parsed.replicas = None,
            "--replicas" => {
                parsed.replicas = Some(value.parse().ok().filter(|r| (1..=7).contains(r)).ok_or_else(wrong)?)
            }
            _ => return Err(format!("{name} is unknown")),
        }
    }
    if [parsed.seed.is_some(), parsed.seeds.is_some(), parsed.minutes.is_some()].iter().filter(|given| **given).count()
        != 1
    {
        return Err("one of --seed, --seeds and --minutes is needed".into());
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments.seed {
        Some(seed) => replay(seed, &arguments),
        None => run_many(&arguments),
    }
}

/// The same seed twice must be the same run, to the last byte.
fn replay(seed: u64, arguments: &Arguments) -> ExitCode {
    let settings = Settings {
        replicas: arguments.replicas,
        mode: arguments.mode,
        verbose: arguments.verbose,
        messages: arguments.messages,
        trace: true,
    };
    let first = run(seed, settings);
    let second = run(seed, Settings { verbose: false, ..settings });
    match (first, second) {
        (Ok(first), Ok(second)) if first.trace_hash == second.trace_hash => {
            print!("{}", first.figures);
            println!("seed {seed}: trace {:016x}, twice", first.trace_hash.unwrap_or_default());
            ExitCode::SUCCESS
        }
        (Err(first), Err(second)) if first.reason == second.reason => {
            println!("seed {seed} fails, twice in the same way:\n{}", first.reason);
            ExitCode::FAILURE
        }
        (first, second) => {
            let told = |result: Result<proof::simulator::Success, proof::simulator::Failure>| match result {
                Ok(success) => format!("trace {:016x}", success.trace_hash.unwrap_or_default()),
                Err(failure) => failure.reason,
            };
            println!("seed {seed} ran differently the second time:\n{}\n{}", told(first), told(second));
            ExitCode::FAILURE
        }
    }
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let first = arguments.first_seed.unwrap_or(now % 1_000_000_000_000);
    let until = match (arguments.seeds, arguments.minutes) {
        (Some(count), _) => Until::Seeds(count),
        (None, minutes) => Until::Time(Duration::from_secs_f64(minutes.unwrap_or(1.0) * 60.0)),
    };
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
    println!("seeds from {first} on, {threads} threads");
    let settings = Settings { replicas: arguments.replicas, mode: arguments.mode, ..Settings::default() };
    let done = campaign(first, until, threads, settings, arguments.failures.unwrap_or(1) as usize);
    print!("{}", done.figures);
    let seconds = done.took.as_secs_f64();
    println!(
        "{seconds:.1} s: {:.1} seeds/s, {:.0} simulated seconds per second",
        done.figures.seeds as f64 / seconds,
        done.figures.simulated_us as f64 / 1e6 / seconds
    );
    for failure in &done.failures {
        println!("seed {} FAILED: {}", failure.seed, failure.reason);
        println!("replay: scripts/sim.sh --seed {} {settings} --verbose", failure.seed);
    }
    let uncovered = done.figures.uncovered();
    if arguments.require_coverage && (!uncovered.is_empty() || done.figures.coverage.is_empty()) {
        println!("never taken: {uncovered:?}");
        return ExitCode::FAILURE;
    }
    if done.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
