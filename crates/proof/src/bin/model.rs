//! The command of the model check:
//! `cargo run --release -p proof --features model --bin model -- --help`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use proof::model::{self, Bounds, Cluster};
use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

/// Visits every state of a small cluster of the shipped consensus core.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 3)]
    replicas: u8,
    /// Of these, the ones with which the cluster begins: the sum of 2^N for each replica N; 0: all
    #[arg(long, default_value_t = 0)]
    founders: u8,
    /// How often a primary is asked for other voters
    #[arg(long, default_value_t = 0)]
    seals: u8,
    /// The voters that it is asked for in odd epochs, in the same way; in even ones, the founders
    #[arg(long, default_value_t = 0)]
    successors: u8,
    /// In each epoch: the number of views that can be led: the first of each replica, then the second of each, and
    /// so on
    #[arg(long, default_value_t = 2)]
    views: u8,
    /// Values that clients propose
    #[arg(long, default_value_t = 1)]
    entries: u8,
    #[arg(long, default_value_t = 0)]
    reads: u8,
    /// Crashes of any replica
    #[arg(long, default_value_t = 0)]
    restarts: u8,
    /// Timeouts other than those that begin a campaign: heartbeats, retries, primaries that step
    /// down
    #[arg(long, default_value_t = 1)]
    ticks: u8,
    /// How often a primary asks each peer where its log ends
    #[arg(long, default_value_t = 1)]
    probes: u8,
    /// Clients propose and read at any replica, not at primaries only
    #[arg(long)]
    clients_everywhere: bool,
    /// Maximum number of values proposed and not yet committed
    #[arg(long, default_value_t = 1)]
    pipeline: u64,
    #[arg(long, value_enum, default_value_t = Disks::Groups)]
    disks: Disks,
    /// Maximum number of steps from the start
    #[arg(long)]
    depth: Option<usize>,
    /// Stops after this time
    #[arg(long)]
    seconds: Option<u64>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, value_enum, default_value_t = Order::Bfs)]
    order: Order,
    /// Of random walks
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Disks {
    /// Log writes complete one by one
    #[value(alias = "orders")]
    Writes,
    /// All log writes in flight complete together; a crash may still keep any number of them
    Groups,
    /// Log writes are durable as soon as they are given
    Instant,
}

impl From<Disks> for model::Disks {
    fn from(disks: Disks) -> Self {
        match disks {
            Disks::Writes => model::Disks::Writes,
            Disks::Groups => model::Disks::Groups,
            Disks::Instant => model::Disks::Instant,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Breadth first: the shortest way to an error; the most memory
    Bfs,
    Dfs,
    /// Random walks without end, for bounds that are too wide to visit every state
    Walk,
}

/// One every ten seconds; whether all is done is looked at more often.
#[derive(Default)]
struct Lines {
    told_at: Duration,
}

impl Reporter<Cluster> for Lines {
    fn report_checking(&mut self, data: ReportData) {
        if data.duration < self.told_at + Duration::from_secs(10) {
            return;
        }
        self.told_at = data.duration;
        eprintln!(
            "{:.0} s: {} states, {} different, depth {}",
            data.duration.as_secs_f64(),
            data.total_states,
            data.unique_states,
            data.max_depth
        );
    }

    fn report_discoveries(&mut self, _: &Cluster, _: BTreeMap<&'static str, ReportDiscovery<Cluster>>) {
        // Told in full at the end.
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(100)
    }
}

fn main() -> ExitCode {
    // Failed assertions are findings, told with the way to them.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::parse();
    let bounds = Bounds {
        replicas: arguments.replicas,
        founders: arguments.founders,
        seals: arguments.seals,
        successors: arguments.successors,
        views: arguments.views,
        entries: arguments.entries,
        reads: arguments.reads,
        restarts: arguments.restarts,
        ticks: arguments.ticks,
        probes: arguments.probes,
        clients_everywhere: arguments.clients_everywhere,
        pipeline: arguments.pipeline,
        disks: arguments.disks.into(),
    };
    let limit = arguments.seconds.map(Duration::from_secs);
    let mut builder = Cluster::new(bounds).checker().threads(arguments.threads);
    builder = builder.finish_when(HasDiscoveries::AnyFailures);
    if let Some(limit) = limit {
        builder = builder.timeout(limit);
    }
    if let Some(depth) = arguments.depth {
        builder = builder.target_max_depth(depth);
    }
    let started = Instant::now();
    match arguments.order {
        Order::Bfs => finish(builder.spawn_bfs().join_and_report(&mut Lines::default()), started, &arguments),
        Order::Dfs => finish(builder.spawn_dfs().join_and_report(&mut Lines::default()), started, &arguments),
        Order::Walk => {
            let walks = builder.spawn_simulation(arguments.seed, UniformChooser);
            finish(walks.join_and_report(&mut Lines::default()), started, &arguments)
        }
    }
}

fn finish(checker: impl Checker<Cluster>, started: Instant, arguments: &Arguments) -> ExitCode {
    let seconds = started.elapsed().as_secs_f64();
    let is_cut = arguments.seconds.is_some_and(|limit| seconds >= limit as f64);
    let is_complete = !is_cut && arguments.depth.is_none() && arguments.order != Order::Walk;
    let (nodes, packets, steps) = checker.model().figures();
    println!(
        "{} states, {} different, depth {}, {seconds:.1} s; {nodes} states of replicas, {packets} messages, {steps} steps",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
    );
    let mut is_broken = false;
    for (property, path) in checker.discoveries() {
        let Some(story) = checker.model().story(path.last_state()) else {
            println!("seen: {property}");
            continue;
        };
        is_broken = true;
        println!("BROKEN: {property}: {story}");
        for (number, action) in (1..).zip(path.into_actions()) {
            println!("  {number:3}. {}", checker.model().describe(action));
        }
    }
    match (is_broken, is_complete) {
        (true, _) => return ExitCode::FAILURE,
        (false, true) => println!("complete: every state within the bounds was visited, and all properties hold"),
        (false, false) => println!("not complete: all properties hold in the states that were visited"),
    }
    ExitCode::SUCCESS
}
