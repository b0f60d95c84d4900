//! One run of one seed.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::cluster::Cluster;
use super::counters::Counters;
use super::faults::Faults;
use super::random::Random;
use super::starting_situations::Opening;
use super::steering::kind_of;
use super::workload::WorkloadProfile;

/// The settings of a run besides its seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `None`: the seed decides, mostly three.
    pub replicas: Option<u8>,
    pub mode: Mode,
    pub verbose: bool,
    /// With `verbose`: every message, too.
    pub messages: bool,
    /// Costs time: the hash over everything that the cores did.
    pub trace: bool,
}

/// The faults that may occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Some kinds often, some seldom, some never.
    #[default]
    Any,
    /// The same, with leases.
    Leases,
    /// The same, and one replica once executes otherwise than the log says.
    Corruption,
    /// The same, and losses that nobody can make good.
    BeyondBudget,
    /// The same, and operators who change the members.
    Members,
}

/// As the arguments that replay it.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replicas = self.replicas.map_or("mix".to_string(), |count| count.to_string());
        write!(f, "--replicas {replicas}")?;
        match self.mode {
            Mode::Any => Ok(()),
            Mode::Leases => f.write_str(" --leases"),
            Mode::Corruption => f.write_str(" --corruption"),
            Mode::BeyondBudget => f.write_str(" --beyond-budget"),
            Mode::Members => f.write_str(" --members"),
        }
    }
}

/// How a run ended that should not have ended so.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub reason: String,
}

/// A run that kept every promise.
pub struct Success {
    pub figures: Counters,
    /// When it was asked for.
    pub trace_hash: Option<u64>,
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what a panic said, and where, instead of printing it. Once per process.
fn catch_panic_texts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_ours = LAST_PANIC.with(|last| last.borrow().is_some());
            if is_ours {
                LAST_PANIC.with(|last| *last.borrow_mut() = Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}

/// Runs a seed to its end.
pub fn run(seed: u64, settings: Settings) -> Result<Success, Failure> {
    catch_panic_texts();
    LAST_PANIC.with(|last| *last.borrow_mut() = Some(String::new()));
    rsml::coverage::take();
    let result = catch_unwind(AssertUnwindSafe(|| run_phases(seed, settings)));
    let text = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default();
    result.map_err(|_| Failure { seed, reason: text })
}

fn run_phases(seed: u64, settings: Settings) -> Success {
    let mut random = Random::new(!kind_of(seed));
    let drawn = random.pick(&[3, 3, 3, 3, 3, 3, 5, 5, 5, 1]);
    // A single one that lost all is another cluster.
    let least = if settings.mode == Mode::BeyondBudget { 3 } else { 1 };
    let replicas = settings.replicas.unwrap_or(drawn.max(least));
    let faults = match settings.mode {
        Mode::Any => Faults::any(&mut random),
        Mode::Leases => Faults::any_and_leases(&mut random),
        Mode::Corruption => Faults::any_and_corruption(&mut random),
        Mode::BeyondBudget => Faults::any_beyond_budget(&mut random),
        Mode::Members => Faults::any_and_members(&mut random),
    };
    let profile = WorkloadProfile::any(&mut random);
    let opening = Opening::any(&mut random);
    if settings.verbose {
        println!("{replicas} replicas\n{faults:?}\n{profile:?}\n{opening:?}");
    }
    let spare = if settings.mode == Mode::Members { random.between(0, 3) as u8 } else { 0 };
    let mut cluster = Cluster::with_spare(replicas, spare, seed, faults, profile);
    if settings.verbose {
        cluster.be_verbose();
        if settings.messages {
            cluster.print_messages();
        }
    }
    if settings.trace {
        cluster.record_trace();
    }
    let faulty_us = random.pick(&[3_000_000, 10_000_000, 10_000_000, 20_000_000]);
    cluster.open(opening);
    cluster.run(faulty_us);
    cluster.expect_progress_of_a_core();
    cluster.finish_upgrade();
    cluster.heal_and_converge(30_000_000);
    let mut figures = cluster.figures();
    if cfg!(feature = "coverage") {
        let (counts, pairs) = rsml::coverage::take();
        (figures.coverage, figures.pairs) = (counts.to_vec(), pairs);
    }
    Success { figures, trace_hash: settings.trace.then(|| cluster.trace_hash()) }
}
