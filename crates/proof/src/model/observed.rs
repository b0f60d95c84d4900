//! The observed state of a replica and its disk: everything that the properties depend on.

use bytes::Bytes;
use rsml::core::Replica;
use rsml::{Configuration, Epoch, HardState, Message, Sequence, View};

use super::voters::Voters;

/// A disk: hard state and log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    pub hard: HardState,
    /// From the first sequence on.
    pub entries: Vec<Bytes>,
}

/// A replica and its disk, as seen from outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// The promise on disk.
    pub durable_promise: View,
    /// The promise in memory.
    pub promised: View,
    /// The view whose log is on disk.
    pub accepted: View,
    pub is_primary: bool,
    /// The log on disk, from the first sequence on, by the hashes of its entries.
    pub disk: Vec<u64>,
    /// The entries that this replica believes to be chosen, in the same way.
    pub chosen: Vec<u64>,
    /// For each of these, the voters of its epoch.
    pub responsible: Vec<Voters>,
    /// The epoch in which this replica acts, and its voters.
    pub epoch: Epoch,
    pub voters: Voters,
    /// The entry that began that epoch, and the view in which it was learned to be chosen.
    pub since: Sequence,
    pub ended_view: View,
    /// How many log writes are on their way to the disk.
    pub writes: usize,
}

pub fn hash(entry: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(entry)
}

impl Observed {
    pub fn of(replica: &Replica, disk: &Disk, writes: usize) -> Observed {
        let status = replica.status();
        let value = |sequence| replica.value_at(Sequence(sequence)).expect("small logs stay in memory");
        let (mut chosen, mut responsible) = (Vec::new(), Vec::new());
        let mut configuration = Configuration::default();
        for sequence in 1..=status.commit.0 {
            let value = value(sequence);
            if let Some(birth) = &value.birth {
                configuration = birth.configuration();
            }
            responsible.push(Voters::from(&configuration));
            let next = value.reconfigure.as_ref().and_then(|seal| configuration.after(seal, Sequence(sequence)));
            configuration = next.unwrap_or(configuration);
            chosen.push(hash(&value.to_bytes()));
        }
        Observed {
            durable_promise: disk.hard.promised,
            promised: status.view,
            accepted: disk.hard.accepted_view,
            is_primary: replica.primary() == Some(replica.id()),
            disk: disk.entries.iter().map(|entry| hash(entry)).collect(),
            chosen,
            responsible,
            epoch: status.epoch,
            voters: Voters::from(&status.configuration),
            since: status.configuration.since,
            ended_view: replica.hard_state().ended_view,
            writes,
        }
    }
}

/// Checks that everything a message claims is exactly what is durable when it leaves (rule 3).
pub fn check_claim(message: &Message, promised: View, disk: &Disk) -> Result<(), &'static str> {
    let durable = &disk.hard;
    let is_log = |view: u64, last: u64| (View(view), last) == (durable.accepted_view, disk.entries.len() as u64);
    let fits = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(text) };
    match message {
        Message::Prepare(m) => {
            fits(durable.promised.0 >= m.view, "a 1a leaves before the promise of its sender is durable")
        }
        Message::Promise(m) => {
            fits(durable.promised.0 == m.view, "a 1b leaves before the promise is durable, or after a higher one")?;
            fits(is_log(m.accepted_view, m.last), "a 1b reports another log than the durable one")
        }
        Message::Accepted(m) => {
            fits(promised.0 == m.view, "a 2b leaves in another view than the promised one")?;
            fits(durable.promised.0 >= m.view, "a 2b leaves before the promise is durable")?;
            fits(is_log(m.durable_view, m.durable_last), "a 2b reports another log than the durable one")
        }
        _ => Ok(()),
    }
}
