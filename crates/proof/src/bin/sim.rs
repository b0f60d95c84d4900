//! Runs simulations: one seed to look at, or many.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Parser};
use proof::simulator::{Campaign, Counters, Mode, Plan, Settings, Until, campaign, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates whole clusters with faults: one seed to look at, or many.
///
/// Exit status: 0 if every promise was kept, 1 if a seed failed (what it did and how to replay it
/// is printed), 2 if the arguments are wrong.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    #[command(flatten)]
    what: What,
    /// Prints what happens (with --seed)
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Prints every message that arrives, too (with --verbose)
    #[arg(long, requires = "verbose")]
    messages: bool,
    /// Begins with seed N instead of one that the clock names
    #[arg(long, value_name = "N")]
    first_seed: Option<u64>,
    /// 1 to 7; mix: the seed decides, mostly three
    #[arg(long, value_name = "R", default_value = "mix")]
    replicas: Replicas,
    /// One per processor if not given
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Ends with the Nth seed that fails
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: usize,
    /// Half of the seeds are variations of those that took rare ways (with --seeds or --minutes)
    #[arg(long)]
    steer: bool,
    /// Writes what --hours has seen to this file, as Markdown
    #[arg(long, value_name = "FILE", requires = "hours")]
    summary: Option<PathBuf>,
    /// Fails when a marked path of the core was never taken
    #[arg(long)]
    require_coverage: bool,
    /// With leases in every run
    #[arg(long, group = "mode")]
    leases: bool,
    /// One replica once executes otherwise than the log says
    #[arg(long, group = "mode")]
    corruption: bool,
    /// Losses that nobody can make good: refusal is expected, wrong data is not
    #[arg(long, group = "mode")]
    beyond_budget: bool,
    /// With changes of the members
    #[arg(long, group = "mode")]
    members: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Replays one seed, twice, and compares what happened
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Runs N seeds
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Runs seeds for M minutes
    #[arg(long, value_name = "M", value_parser = positive)]
    minutes: Option<f64>,
    /// Runs seeds for H hours: all modes in turns, steered
    #[arg(long, value_name = "H", value_parser = positive, conflicts_with = "mode")]
    hours: Option<f64>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "must be a number greater than 0".into())
}

#[derive(Clone, Copy)]
struct Replicas(Option<u8>);

impl FromStr for Replicas {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Replicas, &'static str> {
        let number = || text.parse().ok().filter(|count| (1..=7).contains(count));
        match text {
            "mix" => Ok(Replicas(None)),
            _ => number().map(|count| Replicas(Some(count))).ok_or("must be 1 to 7, or mix"),
        }
    }
}

impl Arguments {
    fn mode(&self) -> Mode {
        match self {
            Arguments { leases: true, .. } => Mode::Leases,
            Arguments { corruption: true, .. } => Mode::Corruption,
            Arguments { beyond_budget: true, .. } => Mode::BeyondBudget,
            Arguments { members: true, .. } => Mode::Members,
            _ => Mode::Any,
        }
    }

    fn settings(&self, mode: Mode) -> Settings {
        Settings { replicas: self.replicas.0, mode, ..Settings::default() }
    }

    fn plan(&self, first: u64, until: Until, steered: bool) -> Plan {
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
        Plan { first, until, threads, most_failures: self.failures, steered }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.what.seed, arguments.what.hours) {
        (Some(seed), _) => replay(seed, &arguments),
        (None, Some(hours)) => run_for_hours(hours, &arguments),
        (None, None) => run_many(&arguments),
    }
}

/// The same seed twice must be the same run, to the last byte.
fn replay(seed: u64, arguments: &Arguments) -> ExitCode {
    let settings = Settings {
        verbose: arguments.verbose,
        messages: arguments.messages,
        trace: true,
        ..arguments.settings(arguments.mode())
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

/// A seed that no campaign before began with.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    now % 1_000_000_000_000
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let first = arguments.first_seed.unwrap_or_else(fresh_seed);
    let until = match (arguments.what.seeds, arguments.what.minutes) {
        (Some(count), _) => Until::Seeds(count),
        (None, minutes) => Until::Time(Duration::from_secs_f64(minutes.unwrap_or(1.0) * 60.0)),
    };
    let plan = arguments.plan(first, until, arguments.steer);
    println!("seeds from {first} on, {} threads", plan.threads);
    let settings = arguments.settings(arguments.mode());
    let done = campaign(plan, settings);
    print!("{}", done.figures);
    if done.pairs > 0 {
        println!("{} pairs of these, one right after the other", done.pairs);
    }
    println!("{:.1} s: {}", done.took.as_secs_f64(), pace(&done));
    print_failures(&done, settings);
    let uncovered = done.figures.uncovered();
    if arguments.require_coverage && (!uncovered.is_empty() || done.figures.coverage.is_empty()) {
        println!("never taken: {uncovered:?}");
        return ExitCode::FAILURE;
    }
    if done.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn pace(done: &Campaign) -> String {
    let seconds = done.took.as_secs_f64();
    format!(
        "{:.1} seeds/s, {:.0} simulated seconds per second",
        done.figures.seeds as f64 / seconds,
        done.figures.simulated_us as f64 / 1e6 / seconds
    )
}

fn print_failures(done: &Campaign, settings: Settings) {
    for failure in &done.failures {
        println!("seed {} FAILED: {}", failure.seed, failure.reason);
        println!("replay: scripts/sim.sh --seed {} {settings} --verbose", failure.seed);
    }
}

/// How long each mode runs at a time, in turns, and which share of the time it gets.
const TURNS: [Mode; 7] =
    [Mode::Any, Mode::Members, Mode::Leases, Mode::Any, Mode::Members, Mode::Corruption, Mode::BeyondBudget];
const TURN: Duration = Duration::from_secs(300);

fn run_for_hours(hours: f64, arguments: &Arguments) -> ExitCode {
    let whole = Duration::from_secs_f64(hours * 3600.0);
    let turn = TURN.min(whole / TURNS.len() as u32);
    let mut first = arguments.first_seed.unwrap_or_else(fresh_seed);
    let began = first;
    let mut sums: Vec<(Mode, Campaign)> = Vec::new();
    let started = Instant::now();
    for mode in TURNS.into_iter().cycle() {
        let left = whole.saturating_sub(started.elapsed());
        let failures: usize = sums.iter().map(|(_, sum)| sum.failures.len()).sum();
        if left < turn / 2 || failures >= arguments.failures {
            break;
        }
        let settings = arguments.settings(mode);
        let done = campaign(arguments.plan(first, Until::Time(turn.min(left)), true), settings);
        println!(
            "{:>6.0} s: {settings}: {} seeds, {}",
            started.elapsed().as_secs_f64(),
            done.figures.seeds,
            pace(&done)
        );
        print_failures(&done, settings);
        first += done.figures.seeds + done.failures.len() as u64;
        match sums.iter_mut().find(|(known, _)| *known == mode) {
            Some((_, sum)) => sum.add(done),
            None => sums.push((mode, done)),
        }
    }
    let summary = summary(began, started.elapsed(), &sums, arguments);
    print!("{summary}");
    if let Some(path) = &arguments.summary
        && let Err(error) = std::fs::write(path, &summary)
    {
        eprintln!("{} cannot be written: {error}", path.display());
        return ExitCode::FAILURE;
    }
    if sums.iter().all(|(_, sum)| sum.failures.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summary(first: u64, took: Duration, sums: &[(Mode, Campaign)], arguments: &Arguments) -> String {
    let minutes = took.as_secs_f64() / 60.0;
    let mut text = format!("{minutes:.0} minutes, seeds from {first} on, half of them steered\n\n");
    text += "| arguments | seeds | simulated seconds | views led | commits acknowledged | pace | failed |\n";
    text += "|---|---|---|---|---|---|---|\n";
    for (mode, sum) in sums {
        let Campaign { figures, failures, .. } = sum;
        let settings = arguments.settings(*mode);
        let simulated = figures.simulated_us / 1_000_000;
        let failed: Vec<String> = failures.iter().map(|failure| failure.seed.to_string()).collect();
        let failed = if failed.is_empty() { "none".into() } else { failed.join(", ") };
        text += &format!(
            "| `{settings}` | {} | {simulated} | {} | {} | {} | {failed} |\n",
            figures.seeds,
            figures.views_led,
            figures.acknowledged,
            pace(sum),
        );
    }
    let mut all = Counters::default();
    sums.iter().for_each(|(_, sum)| all.add(&sum.figures));
    if !all.coverage.is_empty() {
        text += &format!("\nmarked paths never taken: {}\n", join_or_none(&all.uncovered()));
    }
    text
}

fn join_or_none(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
