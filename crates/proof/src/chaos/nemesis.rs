//! Carries a schedule out, and sees to it that every process runs that no fault keeps from running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::links::LinkState;
use super::records::Recorder;
use super::schedule::{Fault, Planned, REPLICAS, Schedule, Victims};

/// How often it looks after the processes.
const TICK: Duration = Duration::from_millis(50);

/// How often each kind of fault was injected, and what else happened.
pub type Counts = BTreeMap<&'static str, usize>;

/// A fault in effect.
struct Active {
    planned: Planned,
    replicas: Vec<usize>,
}

pub struct Nemesis {
    cluster: Cluster,
    recorder: Arc<Recorder>,
    active: Vec<Active>,
    /// Not started again before their fault is over.
    down: BTreeSet<usize>,
    /// Those whose disk is full: none is started there.
    starved: BTreeSet<usize>,
    counts: Counts,
    violations: Vec<String>,
}

impl Nemesis {
    pub fn new(cluster: Cluster, recorder: Arc<Recorder>) -> Nemesis {
        Nemesis {
            cluster,
            recorder,
            active: Vec::new(),
            down: BTreeSet::new(),
            starved: BTreeSet::new(),
            counts: Counts::new(),
            violations: Vec::new(),
        }
    }

    pub async fn execute(&mut self, schedule: &Schedule) {
        let started = Instant::now();
        // On a slow machine the plan waits, so that faults don't pile up that were to come one
        // after the other.
        let mut late = Duration::ZERO;
        let mut planned = schedule.faults.iter().peekable();
        while planned.peek().is_some() || !self.active.is_empty() {
            let elapsed = started.elapsed() - late;
            while let Some(over) = self.active.iter().position(|active| active.planned.end <= elapsed) {
                let active = self.active.remove(over);
                self.end(active).await;
            }
            if let Some(next) = planned.next_if(|next| next.begin <= elapsed) {
                self.begin(*next).await;
            }
            self.look_after_processes();
            late = started.elapsed() - elapsed;
            sleep(TICK).await;
        }
    }

    /// Ends all faults, whatever state a run is in.
    pub async fn heal(&mut self) {
        for active in std::mem::take(&mut self.active) {
            self.end(active).await;
        }
        self.cluster.set_links(LinkState::Open, |_, _| true);
        self.down.clear();
        self.look_after_processes();
        self.tell("all is healed");
    }

    pub fn finish(self) -> (Cluster, Vec<String>, Counts) {
        (self.cluster, self.violations, self.counts)
    }

    fn tell(&self, what: &str) {
        println!("{:8.1} s  {what}", self.recorder.now_us() as f64 / 1e6);
    }

    async fn replicas_of(&self, victims: Victims, planned: &Planned) -> Vec<usize> {
        match victims {
            Victims::One(replica) => vec![replica],
            Victims::AllBut(replica) => (0..REPLICAS).filter(|other| *other != replica).collect(),
            Victims::All => (0..REPLICAS).collect(),
            Victims::Primary => {
                let by_chance = planned.begin.as_millis() as usize % REPLICAS;
                vec![self.cluster.primary().await.unwrap_or(by_chance)]
            }
        }
    }

    async fn begin(&mut self, planned: Planned) {
        let fault = planned.fault;
        let replicas = match fault {
            Fault::Kill(victims)
            | Fault::Restart(victims)
            | Fault::Pause(victims)
            | Fault::FillDisk(victims)
            | Fault::FreezeDisk(victims)
            | Fault::Isolate { victims, .. } => self.replicas_of(victims, &planned).await,
            Fault::Wipe { replica } => vec![replica],
            Fault::CutBetween { .. } | Fault::CutOneWay { .. } | Fault::Delay { .. } | Fault::Failover { .. } => {
                Vec::new()
            }
        };
        let seconds = (planned.end - planned.begin).as_secs_f64();
        self.tell(&format!("{fault} {replicas:?} for {seconds:.1} s"));
        let injected = match fault {
            Fault::Failover { to } => self.cluster.failover(to).await.map(|()| true),
            _ => block_in_place(|| self.inject(fault, &replicas)),
        };
        match injected {
            Ok(true) => {
                *self.counts.entry(fault.kind()).or_default() += 1;
                self.recorder.fault_begins(&fault.to_string());
            }
            Ok(false) => {}
            Err(reason) => self.tell(&format!("{}: {reason}", fault.kind())),
        }
        self.active.push(Active { planned, replicas });
    }

    /// False: this fault is not possible here.
    fn inject(&mut self, fault: Fault, replicas: &[usize]) -> Result<bool, String> {
        match fault {
            Fault::Kill(_) => {
                self.down.extend(replicas);
                replicas.iter().for_each(|replica| self.cluster.kill(*replica));
            }
            Fault::Restart(_) => {
                self.down.extend(replicas);
                for &replica in replicas.iter().filter(|replica| self.cluster.is_running(**replica)) {
                    self.cluster.signal(replica, "TERM");
                }
            }
            Fault::Pause(_) => replicas.iter().for_each(|replica| self.cluster.signal(*replica, "STOP")),
            Fault::FillDisk(_) => {
                self.starved.extend(replicas);
                for &replica in replicas {
                    if !self.cluster.replicas[replica].disk.fill()? {
                        return Ok(false);
                    }
                }
            }
            Fault::FreezeDisk(_) => {
                for &replica in replicas {
                    if !self.cluster.replicas[replica].disk.freeze()? {
                        return Ok(false);
                    }
                }
            }
            Fault::Failover { .. } => return Ok(false),
            Fault::Wipe { replica } => {
                self.down.insert(replica);
                self.cluster.kill(replica);
                self.cluster.wipe(replica)?;
            }
            Fault::Isolate { .. } | Fault::CutBetween { .. } | Fault::CutOneWay { .. } | Fault::Delay { .. } => {
                let state = match fault {
                    Fault::Isolate { told: true, .. } => LinkState::Closed,
                    Fault::Delay { milliseconds } => LinkState::Slow { delay: Duration::from_millis(milliseconds) },
                    _ => LinkState::Silent,
                };
                self.cluster.set_links(state, |from, to| match fault {
                    Fault::CutBetween { one, other } => [(one, other), (other, one)].contains(&(from, to)),
                    Fault::CutOneWay { from: cut_from, to: cut_to } => (from, to) == (cut_from, cut_to),
                    Fault::Delay { .. } => true,
                    _ => replicas.contains(&from) || replicas.contains(&to),
                });
            }
        }
        Ok(true)
    }

    async fn end(&mut self, active: Active) {
        let Active { planned: Planned { fault, .. }, replicas } = active;
        match fault {
            Fault::Kill(_) | Fault::Wipe { .. } => self.down.retain(|replica| !replicas.contains(replica)),
            Fault::Restart(_) => {
                for replica in replicas {
                    match self.cluster.is_running(replica) {
                        true => self.expect_clean_end(replica).await,
                        false => self.tell(&format!("replica {replica} was not running")),
                    }
                    self.down.remove(&replica);
                }
            }
            Fault::Pause(_) => replicas.iter().for_each(|replica| self.cluster.signal(*replica, "CONT")),
            Fault::FillDisk(_) => {
                block_in_place(|| replicas.iter().for_each(|replica| self.cluster.replicas[*replica].disk.free()));
                self.look_after_processes();
                self.starved.retain(|replica| !replicas.contains(replica));
            }
            Fault::FreezeDisk(_) => {
                block_in_place(|| replicas.iter().for_each(|replica| self.cluster.replicas[*replica].disk.thaw()));
            }
            Fault::Failover { .. } => {}
            Fault::Isolate { .. } | Fault::CutBetween { .. } | Fault::CutOneWay { .. } | Fault::Delay { .. } => {
                self.cluster.set_links(LinkState::Open, |_, _| true);
            }
        }
        self.recorder.fault_ends(&fault.to_string());
    }

    async fn expect_clean_end(&mut self, replica: usize) {
        match self.cluster.wait_for_end(replica).await {
            Ok(status) if status.success() => {}
            Ok(status) => self.violations.push(format!("replica {replica}, asked to end, ended with {status}")),
            Err(reason) => self.violations.push(reason),
        }
    }

    /// Starts what should run. A process that ended by itself is a violation, on a full disk too.
    fn look_after_processes(&mut self) {
        for replica in 0..REPLICAS {
            if self.down.contains(&replica) {
                continue;
            }
            if let Some(status) = self.cluster.ended(replica) {
                let words = self.cluster.last_words(replica);
                self.tell(&format!("replica {replica} ended by itself: {status}: {words}"));
                self.violations.push(format!("replica {replica} ended by itself: {status}: {words}"));
            }
            if self.cluster.is_running(replica) || self.starved.contains(&replica) {
                continue;
            }
            if let Err(reason) = self.cluster.start(replica) {
                self.violations.push(reason);
            }
        }
    }
}
