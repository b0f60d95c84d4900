//! Many seeds, on all cores: each run has one thread, threads share nothing but the next seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::figures::Figures;
use super::run::{Failure, Settings, run};

/// When a campaign ends, if nothing fails before.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Seeds(u64),
    Time(Duration),
}

pub struct Campaign {
    pub figures: Figures,
    pub failures: Vec<Failure>,
    pub took: Duration,
}

/// Runs seeds from `first` on, until the first failure, or so many of them.
pub fn campaign(first: u64, until: Until, threads: usize, settings: Settings, most_failures: usize) -> Campaign {
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let stopped = AtomicBool::new(false);
    let gathered = Mutex::new((Figures::default(), Vec::new()));
    let work = || {
        let mut figures = Figures::default();
        while !stopped.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = match until {
                Until::Seeds(count) => seed >= first + count,
                Until::Time(time) => started.elapsed() >= time,
            };
            if is_over {
                break;
            }
            match run(seed, settings) {
                Ok(success) => figures.add(&success.figures),
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
    Campaign { figures, failures, took: started.elapsed() }
}
