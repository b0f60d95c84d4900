//! Compares the claims of messages with an independent record of the sender's disk (rule 3) and
//! with the entries that are chosen according to the disks; and compares answers with their
//! requests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rsml::MessageHeader;
use rsml::{Epoch, Message, Sequence, View};
use xxhash_rust::xxh3::xxh3_64;

use super::expected_log::ExpectedLog;
use super::watch::hold;
use crate::checkers::Violation;
use crate::checkers::chosen::Chosen;
use crate::checkers::configurations::Configurations;
use crate::checkers::promises::Promises;

/// The sender of a message, described by its disks.
pub struct Origin<'a> {
    pub sender: MessageHeader,
    /// The promise in memory.
    pub promised: View,
    pub log: &'a ExpectedLog,
    /// Its database has reported this sequence as persisted.
    pub persisted: Sequence,
    /// Whether the sender relies on leases at this moment.
    pub has_lease: bool,
}

/// The requests of primaries, by view.
#[derive(Default)]
struct Asked {
    tokens: BTreeSet<u64>,
    leases: BTreeSet<u64>,
}

#[derive(Default)]
pub struct Claims {
    asked: BTreeMap<View, Asked>,
}

impl Claims {
    /// A message is about to leave: what it claims is durable, and exactly what is durable at this
    /// moment.
    pub fn check(
        &mut self,
        message: &Message,
        payload: &[Bytes],
        origin: &Origin,
        promises: &Promises,
        chosen: &Chosen,
        configurations: &Configurations,
    ) {
        let (ledger, durable) = (origin.log, origin.log.promised());
        let demand = |holds: bool, anomaly: &'static str| {
            if !holds {
                let bounds = format!("{} to {}, {:?} lost", ledger.first(), ledger.last(), ledger.lost());
                let story = format!("{message:?}; durable: {durable:?}, {bounds}");
                hold(Err(Violation { checker: "claims", anomaly, story }));
            }
        };
        let is_log = |view: u64, end: u64| (View(view), Sequence(end)) == (durable.accepted_view, ledger.last());
        let can_supply = |first: u64| first >= ledger.first().0;
        let named = (origin.sender.disk_id, origin.sender.boot);
        demand(named == (durable.disk_id, durable.boot), "a message leaves before the number of its start is durable");
        let is_of_every_epoch = matches!(message, Message::Hello(_));
        demand(
            is_of_every_epoch || origin.sender.epoch == durable.epoch,
            "a message leaves before its epoch is durable",
        );
        // Rules M1 and M4: whoever promises or stands votes in that epoch, and holds all before it.
        let may_promise = |view: u64| {
            let epoch = View(view).epoch();
            let since = configurations.get(epoch).map_or(Sequence::ZERO, |configuration| configuration.since);
            let is_known = !configurations.is_known() || configurations.get(epoch).is_some();
            let is_voter = configurations.is_voter(epoch, origin.sender.replica, durable.disk_id);
            let holds_all = epoch == Epoch::FIRST || ledger.sound_last() >= since;
            is_known && epoch == durable.epoch && (is_voter || !configurations.is_known()) && holds_all
        };
        match message {
            Message::Born(m) if m.birth.is_some() => {
                demand(durable.cluster_id == origin.sender.cluster_id, "the birth is told before it is durable");
            }
            Message::PreVoteReply(m) if m.granted => {
                demand(may_promise(View::floor_of(durable.epoch).0), "a pre-vote of a disk that must not promise");
            }
            Message::Prepare(m) => {
                demand(may_promise(m.view), "a 1a of a disk that must not stand");
                demand(durable.promised.0 >= m.view, "a 1a leaves before the own promise is durable");
            }
            Message::Promise(m) => {
                demand(may_promise(m.view), "a 1b of a disk that must not promise");
                hold(promises.promises(durable.disk_id, View(m.view)));
                demand(durable.promised.0 == m.view, "a 1b leaves before its promise, or after a higher one");
                demand(is_log(m.accepted_view, m.last), "a 1b tells of another log than the durable one");
                demand(can_supply(m.first), "a 1b offers what is gone");
                let names = |lost: &Sequence| m.lost.iter().any(|range| (range.from..=range.to).contains(&lost.0));
                demand(ledger.lost().iter().all(names), "a 1b leaves out what is lost");
                hold(chosen.claims(Sequence(m.commit), View(m.view)));
            }
            Message::Fetched(m) => {
                demand(durable.accepted_view.0 == m.accepted_view, "entries are told to be of another log");
                let mut places = (m.from..).map(Sequence).zip(payload);
                // Entries that were trimmed since they were read are committed, and not known any
                // more.
                let is_held = |(at, entry): (Sequence, &Bytes)| at <= ledger.last() && ledger.allows(at, entry);
                demand(places.all(is_held), "entries are supplied that are not durable");
            }
            Message::Accept(m) => {
                let asked = self.asked.entry(View(m.view)).or_default();
                asked.tokens.insert(m.read_round);
                asked.leases.extend((m.lease_us > 0).then_some(m.lease_from_us));
                hold(chosen.claims(Sequence(m.commit), View(m.view)));
            }
            Message::Accepted(m) => {
                demand(View(m.view).epoch() == durable.epoch, "a 2b of another epoch");
                let may_vote = may_promise(View::floor_of(durable.epoch).0);
                demand(may_vote || m.lease_from_us == 0, "a lease of a disk that must not promise");
                hold(promises.votes(durable.disk_id, View(m.view)));
                demand(origin.promised.0 == m.view, "a 2b leaves in another view than the promised one");
                let sound = (durable.accepted_view, ledger.sound_last());
                let is_sound = (View(m.durable_view), Sequence(m.durable_last)) == sound;
                demand(is_sound, "a 2b tells of another log than the durable one");
                let asked = self.asked.get(&View(m.view));
                let has_asked = |of: fn(&Asked) -> &BTreeSet<u64>, what| asked.is_some_and(|a| of(a).contains(&what));
                demand(
                    m.read_round == 0 || has_asked(|a| &a.tokens, m.read_round),
                    "a 2b confirms a round of another view",
                );
                let is_granted = m.lease_from_us == 0 || has_asked(|a| &a.leases, m.lease_from_us);
                demand(is_granted, "a 2b grants a lease that nobody asked for in its view");
                hold(chosen.claims(Sequence(m.commit), View(m.view)));
            }
            Message::ReadPointReply(m) => hold(chosen.claims(Sequence(m.sequence), View(m.view))),
            Message::SnapshotChunk(m) if m.id != 0 => hold(chosen.claims(Sequence(m.sequence), View(m.view))),
            Message::Report(m) => {
                demand(m.applied <= m.commit, "more is applied than chosen");
                demand(m.persisted <= origin.persisted.0, "a database is said to have persisted more than it has");
                demand(can_supply(m.first), "a report offers what is gone");
                hold(chosen.claims(Sequence(m.commit), View(m.view)));
            }
            Message::Ended(m) => {
                let view = if m.view == 0 { View::floor_of(Epoch(m.epoch)) } else { View(m.view) };
                demand(m.epoch == durable.epoch.0, "another epoch than the own one is said to have begun");
                demand(view <= View::floor_of(durable.epoch), "an epoch is said to have ended in a view after it");
                hold(chosen.claims(Sequence(m.since), view));
            }
            Message::Committed(m) => {
                let view = if m.view == 0 { View::floor_of(durable.epoch) } else { View(m.view) };
                let last = Sequence(m.from + payload.len() as u64 - 1);
                demand(payload.is_empty() || ledger.last() >= last, "entries are supplied that are not durable");
                hold(chosen.claims(if payload.is_empty() { Sequence::ZERO } else { last }, view));
                let mut places = (m.from..).map(Sequence).zip(payload);
                demand(places.all(|(at, entry)| ledger.allows(at, entry)), "other entries are supplied than held");
            }
            Message::Behind(m) => demand(can_supply(m.first), "a primary offers what is gone"),
            Message::Transfer(_) => demand(!origin.has_lease, "a primary hands over, and relies on its leases"),
            _ => {}
        }
    }
}

/// A hash that distinguishes entries.
pub fn hash_of(entry: &[u8]) -> u64 {
    xxh3_64(entry)
}
