//! Many seeds, on all cores: each run has one thread, threads share nothing but the choice of the
//! next seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::run::{Failure, Settings, run};
use super::steering::Steering;

/// When a campaign ends, if nothing fails before.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Seeds(u64),
    Time(Duration),
}

pub struct Campaign {
    pub figures: Counters,
    pub failures: Vec<Failure>,
    pub took: Duration,
    /// Different pairs of marked paths that were taken one after the other: how much a campaign has
    /// seen.
    pub pairs: usize,
}

impl Campaign {
    pub fn add(&mut self, other: Campaign) {
        self.figures.add(&other.figures);
        self.failures.extend(other.failures);
        self.took += other.took;
        self.pairs = self.pairs.max(other.pairs);
    }
}

/// The settings of a campaign.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seeds from here on.
    pub first: u64,
    pub until: Until,
    pub threads: usize,
    /// The campaign ends after this many failures.
    pub most_failures: usize,
    /// Half of the seeds are variations of those that took rare ways. Needs the cargo feature
    /// `coverage`.
    pub steered: bool,
}

pub fn campaign(plan: Plan, settings: Settings) -> Campaign {
    let Plan { first, until, threads, most_failures, steered } = plan;
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let steering = Mutex::new(Steering::new(first));
    let stopped = AtomicBool::new(false);
    let gathered = Mutex::new((Counters::default(), Vec::new()));
    let work = || {
        let mut figures = Counters::default();
        while !stopped.load(Ordering::Relaxed) {
            let fresh = next.fetch_add(1, Ordering::Relaxed);
            let is_over = match until {
                Until::Seeds(count) => fresh >= first + count,
                Until::Time(time) => started.elapsed() >= time,
            };
            if is_over {
                break;
            }
            let variation = steered.then(|| steering.lock().expect("no holder panics").choose()).flatten();
            let seed = variation.unwrap_or(fresh);
            match run(seed, settings) {
                Ok(success) => {
                    figures.add(&success.figures);
                    steering.lock().expect("no holder panics").learn(seed, success.figures.pairs);
                }
                Err(failure) => {
                    let failures = &mut gathered.lock().expect("no holder panics").1;
                    failures.push(failure);
                    stopped.fetch_or(failures.len() >= most_failures, Ordering::Relaxed);
                }
            }
        }
        gathered.lock().expect("no holder panics").0.add(&figures);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (figures, failures) = gathered.into_inner().expect("no holder panics");
    let pairs = steering.into_inner().expect("no holder panics").pairs();
    Campaign { figures, failures, took: started.elapsed(), pairs }
}
