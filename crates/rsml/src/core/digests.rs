//! Whether every replica executes the same log to the same end (safety rule 12).
//!
//! Each replica records its running digest at every sequence that is a multiple of the digest interval, keeps the last
//! [`KEPT`], and tells them to the others with its reports. Values of *equal* sequences are compared, of this start of
//! each replica only. A replica whose value a majority contradicts has diverged: it stops. Where no majority can come
//! about any more, or none did in the time that a few elections take, nobody knows who is right, and everyone who sees
//! it stops. A replica that stopped says nothing more; what it said last is kept out of later comparisons.
//!
//! Only a replica that executed the requests itself is a witness of what they lead to. One that installed a copy of a
//! peer's database (its *inherited* part) says nothing about whether that peer is right: its values are no votes, unless
//! it is known to have agreed, at the end of what it inherited or later, with a replica that it contradicts now. The two
//! had executed the same until then; what came later, it executed itself. And a copy whose digests others contradict is
//! not installed at all, unless a majority has the same.
//!
//! The digest is a fold over everything executed, so one difference shows at every later sequence as well: a value that
//! was lost, or fell out of what is kept, is made up for by the next.

use std::collections::BTreeMap;
use std::fmt;

use super::CoreOptions;
use crate::message::MessageHeader;
use crate::{Boot, DiskId, Instant, ReplicaId, Sequence};

/// How many values are kept per replica.
pub const KEPT: usize = 64;
/// How many values each report repeats, for those who missed one.
const REPEATED: usize = 8;
/// One in so many reports repeats all: for those who start again, or lag behind.
const ALL_AGAIN: u64 = 5;
/// A mismatch may stay undecided for this many of the longest election timeouts.
const PATIENCE: u64 = 4;

/// Why a replica may not go on: its database is not what the log says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Divergence {
    pub sequence: Sequence,
    pub own: u64,
    /// What the others have there, as far as they told.
    pub others: BTreeMap<ReplicaId, u64>,
    pub kind: DivergenceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DivergenceKind {
    /// A majority agrees on another value: this replica's database is wrong.
    Minority { agreed: u64 },
    /// There is no majority for any value: nobody knows which database is right.
    NoMajority,
}

impl Divergence {
    fn replicas_with(&self, digest: u64) -> Vec<ReplicaId> {
        self.others.iter().filter(|(_, other)| **other == digest).map(|(id, _)| *id).collect()
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { sequence, own, .. } = self;
        match self.kind {
            DivergenceKind::Minority { agreed } => write!(
                f,
                "its database has diverged: its digest at sequence {sequence} is {own:016x}, {} {agreed:016x}",
                agreeing(&self.replicas_with(agreed))
            ),
            DivergenceKind::NoMajority => {
                write!(
                    f,
                    "the databases have diverged, and no majority agrees: the digest at sequence {sequence} is "
                )?;
                write!(f, "{own:016x} here")?;
                self.others.iter().try_for_each(|(id, digest)| write!(f, ", {digest:016x} on replica {id}"))
            }
        }
    }
}

/// `replicas 0 and 2 agree on`.
fn agreeing(replicas: &[ReplicaId]) -> String {
    let ids: Vec<String> = replicas.iter().map(ReplicaId::to_string).collect();
    match ids.split_last() {
        Some((last, [])) => format!("replica {last} has"),
        Some((last, rest)) => format!("replicas {} and {last} agree on", rest.join(", ")),
        None => "nobody has".to_string(),
    }
}

/// A peer whose database a majority, this replica among it, contradicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stray {
    pub sequence: Sequence,
    pub expected: u64,
    pub found: u64,
}

/// A copy of a peer's database that this replica needs and did not take: another one's digests contradict it, and nobody
/// knows yet who is right.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefusedCopy {
    /// Whose database it is.
    pub source: ReplicaId,
    pub sequence: Sequence,
    /// The copy's digest at that sequence.
    pub found: u64,
    /// What others told of it.
    pub others: BTreeMap<ReplicaId, u64>,
}

impl fmt::Display for RefusedCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RefusedCopy { source, sequence, found, others } = self;
        write!(
            f,
            "it needs a copy of the database of replica {source}, whose digest at sequence {sequence} is {found:016x}"
        )?;
        others.iter().try_for_each(|(id, digest)| write!(f, ", {digest:016x} on replica {id}"))?;
        f.write_str("; no majority agrees")
    }
}

/// What a refused copy recorded, and of which disk it was; `inherited` changes when that replica itself gets a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refusal {
    disk: DiskId,
    inherited: Sequence,
    recorded: Vec<(Sequence, u64)>,
}

/// What one start of a peer told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    disk: DiskId,
    boot: Boot,
    values: BTreeMap<Sequence, u64>,
    /// Its database came from a peer through here.
    inherited: Sequence,
    stray: Option<Stray>,
}

/// The values of this replica and its peers, and what follows from them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digests {
    replicas: usize,
    interval: u64,
    patience_us: u64,
    own: BTreeMap<Sequence, u64>,
    /// The own database came from a peer through here.
    inherited: Sequence,
    peers: BTreeMap<ReplicaId, Peer>,
    refusals: BTreeMap<ReplicaId, Refusal>,
    /// The last own value that was told to the peers.
    told: Sequence,
    reports: u64,
    /// How long a mismatch has been undecided while this replica ran, and when that was last judged.
    undecided_us: u64,
    judged: Instant,
    /// Some peer's value differs from the own one of the same sequence.
    differs: bool,
    verdict: Option<Divergence>,
}

impl Digests {
    /// `recorded`: the newest values of the own database, which came from a peer through `inherited`.
    pub fn new(options: &CoreOptions, recorded: &[(Sequence, u64)], inherited: Sequence, now: Instant) -> Digests {
        Digests {
            replicas: options.replicas.len(),
            interval: options.digest_interval,
            patience_us: PATIENCE * options.election_max_us,
            own: recorded.iter().copied().collect(),
            inherited,
            peers: BTreeMap::new(),
            refusals: BTreeMap::new(),
            told: Sequence::ZERO,
            reports: 0,
            undecided_us: 0,
            judged: now,
            differs: false,
            verdict: None,
        }
    }

    /// Whether a copy of the source's database with these values must not be taken. Such a copy is not worth another
    /// transfer before more is known: see [`Digests::refused`].
    pub fn refuse(&mut self, source: ReplicaId, recorded: &[(Sequence, u64)]) -> bool {
        if self.contradiction(source, recorded).is_none() {
            return false;
        }
        coverage!("rule12.copy_contradicted");
        if let Some(peer) = self.peers.get(&source) {
            let refusal = Refusal { disk: peer.disk, inherited: peer.inherited, recorded: recorded.to_vec() };
            self.refusals.insert(source, refusal);
        }
        true
    }

    /// The copy of that peer's database that was refused, if it would be refused again. Once the peer tells nothing any more
    /// of what was recorded then, nothing is known of the copies that it sends now.
    pub fn refused(&self, source: ReplicaId) -> Option<RefusedCopy> {
        let recorded = &self.refusals.get(&source)?.recorded;
        let told = self.peers.get(&source).and_then(|peer| peer.values.keys().next());
        let is_outdated = told.is_some_and(|first| recorded.iter().all(|(sequence, _)| sequence < first));
        self.contradiction(source, recorded).filter(|_| !is_outdated)
    }

    /// What was refused is of no interest any more: this replica has caught up.
    pub fn forget_refusals(&mut self) {
        self.refusals.clear();
    }

    /// Where a peer other than `source` has another value than a copy of the source's database with these values, and
    /// no majority, the source among it, has the same: that could go on without this replica anyway.
    fn contradiction(&self, source: ReplicaId, recorded: &[(Sequence, u64)]) -> Option<RefusedCopy> {
        let others = || self.peers.iter().filter(|(id, _)| **id != source);
        let told = |sequence: &Sequence| -> BTreeMap<ReplicaId, u64> {
            others().filter_map(|(id, peer)| Some((*id, *peer.values.get(sequence)?))).collect()
        };
        let differs = |(sequence, digest): &&(Sequence, u64)| told(sequence).values().any(|other| other != digest);
        let (sequence, found) = *recorded.iter().find(differs)?;
        let agrees = |(_, peer): &(&ReplicaId, &Peer)| {
            recorded.iter().any(|(at, digest)| *at >= sequence && peer.values.get(at) == Some(digest))
        };
        let with_the_same = 1 + others().filter(agrees).count();
        let is_refused = with_the_same < self.replicas / 2 + 1;
        is_refused.then(|| RefusedCopy { source, sequence, found, others: told(&sequence) })
    }

    /// A copy of a peer's database, which has applied everything through `inherited`, takes the place of the own one:
    /// what was recorded before says nothing about it.
    pub fn replace(&mut self, inherited: Sequence, recorded: &[(Sequence, u64)]) {
        coverage!("rule12.database_replaced");
        self.own.clear();
        self.refusals.clear();
        self.inherited = Sequence::ZERO;
        self.told = Sequence::ZERO;
        self.undecided_us = 0;
        self.record(recorded);
        self.inherited = inherited;
    }

    pub fn inherited(&self) -> Sequence {
        self.inherited
    }

    /// The own database reached these sequences with these digests. What comes of those that are inherited by now is of
    /// the database before.
    pub fn record(&mut self, recorded: &[(Sequence, u64)]) {
        for (sequence, digest) in recorded.iter().filter(|(sequence, _)| *sequence > self.inherited) {
            self.own.insert(*sequence, *digest);
            let theirs = self.peers.values().filter_map(|peer| peer.values.get(sequence));
            self.differs |= theirs.into_iter().any(|value| value != digest);
        }
        keep_newest(&mut self.own);
        self.judge();
    }

    /// What to tell the peers now: what is new, and some of what was told before, oldest first.
    pub fn publish(&mut self) -> Vec<(Sequence, u64)> {
        self.reports += 1;
        let fresh = self.own.range(self.told.next()..).count();
        let count = if self.reports.is_multiple_of(ALL_AGAIN) { KEPT } else { fresh.max(REPEATED) };
        let values = self.own.iter().rev().take(count).map(|(sequence, digest)| (*sequence, *digest));
        let mut values: Vec<(Sequence, u64)> = values.collect();
        values.reverse();
        self.told = values.last().map_or(self.told, |(sequence, _)| *sequence);
        values
    }

    /// A peer told its values, and what of its database it inherited.
    pub fn hear(&mut self, from: &MessageHeader, inherited: Sequence, values: impl Iterator<Item = (Sequence, u64)>) {
        let (disk, boot) = (from.disk_id, from.boot);
        let fresh = || Peer { disk, boot, values: BTreeMap::new(), inherited, stray: None };
        self.refusals
            .retain(|id, refusal| *id != from.replica || (refusal.disk, refusal.inherited) == (disk, inherited));
        let known = self.peers.entry(from.replica).or_insert_with(fresh);
        if (known.disk, known.boot, known.inherited) != (disk, boot, inherited) {
            *known = fresh();
        }
        if known.stray.is_some() {
            return;
        }
        for (sequence, digest) in values.take(KEPT) {
            known.values.insert(sequence, digest);
            self.differs |= self.own.get(&sequence).is_some_and(|own| *own != digest);
        }
        keep_newest(&mut known.values);
        self.judge();
    }

    /// What that peer told is over: another disk is in its place.
    pub fn forget(&mut self, peer: ReplicaId) {
        self.peers.remove(&peer);
        self.refusals.remove(&peer);
    }

    /// Time passed. Counts towards the patience only as far as this replica ran: one that was stalled has not waited.
    pub fn tick(&mut self, now: Instant, most_us: u64) {
        let passed = now.since_us(self.judged).min(most_us);
        self.judged = now;
        if self.differs {
            self.undecided_us += passed;
            self.judge();
        } else {
            self.undecided_us = 0;
        }
    }

    /// Why this replica must stop, if it must.
    pub fn verdict(&self) -> Option<&Divergence> {
        self.verdict.as_ref()
    }

    /// The peers found to have diverged, as long as they have not started again.
    pub fn strays(&self) -> BTreeMap<ReplicaId, Stray> {
        self.peers.iter().filter_map(|(id, peer)| Some((*id, peer.stray?))).collect()
    }

    /// Compares all values of equal sequences, if any differ.
    fn judge(&mut self) {
        if !self.differs || self.verdict.is_some() {
            return;
        }
        let mut undecided = None;
        let sequences: Vec<(Sequence, u64)> = self.own.iter().map(|(sequence, own)| (*sequence, *own)).collect();
        for (sequence, own) in sequences {
            let values = self.peers.iter().filter_map(|(id, peer)| Some((*id, *peer.values.get(&sequence)?)));
            let others: BTreeMap<ReplicaId, u64> = values.collect();
            if others.values().all(|value| *value == own) {
                continue;
            }
            match self.decide(sequence, own, &others) {
                Decision::OwnIsRight => self.cast_out(sequence, own, &others),
                Decision::OwnIsWrong { agreed } => {
                    coverage!("rule12.minority");
                    let kind = DivergenceKind::Minority { agreed };
                    self.verdict = Some(Divergence { sequence, own, others, kind });
                    return;
                }
                Decision::Never => {
                    coverage!("rule12.no_majority_left");
                    self.verdict = Some(Divergence { sequence, own, others, kind: DivergenceKind::NoMajority });
                    return;
                }
                Decision::NotYet => undecided = Some((sequence, own, others)),
            }
        }
        let Some((sequence, own, others)) = undecided else {
            self.differs = false;
            self.undecided_us = 0;
            return;
        };
        if self.undecided_us >= self.patience_us {
            coverage!("rule12.never_decided");
            self.verdict = Some(Divergence { sequence, own, others, kind: DivergenceKind::NoMajority });
        }
    }

    /// What the value at `at` of a replica counts for that has these values, and inherited its database through
    /// `inherited`.
    fn standing(&self, values: &BTreeMap<Sequence, u64>, inherited: Sequence, at: Sequence) -> Standing {
        if inherited == Sequence::ZERO {
            return Standing::Witness;
        }
        let peers = self.peers.values().map(|peer| &peer.values);
        let opponents = || peers.clone().chain([&self.own]).filter(|others| differ(values, others, at));
        let agreed = |(sequence, value): (&Sequence, &u64)| opponents().any(|o| o.get(sequence) == Some(value));
        // Between what it inherited and these no digest is recorded.
        let first = Sequence(inherited.0.saturating_add(self.interval));
        let differed = |(sequence, _): (&Sequence, &u64)| opponents().any(|o| differ(values, o, *sequence));
        if values.range(inherited.min(at)..at).any(agreed) {
            Standing::Witness
        } else if values.range(..first).any(differed) {
            Standing::Heir
        } else {
            Standing::Unknown
        }
    }

    fn decide(&self, sequence: Sequence, own: u64, others: &BTreeMap<ReplicaId, u64>) -> Decision {
        let majority = self.replicas / 2 + 1;
        let peers = others.iter().map(|(id, value)| (&self.peers[id], *value));
        let mut votes: Vec<(u64, Standing)> =
            peers.map(|(peer, value)| (value, self.standing(&peer.values, peer.inherited, sequence))).collect();
        votes.push((own, self.standing(&self.own, self.inherited, sequence)));
        let votes_for = |digest: u64| votes.iter().filter(|vote| **vote == (digest, Standing::Witness)).count();
        // What they said before that is not known here, or was lost.
        let open = votes.iter().filter(|(_, standing)| *standing == Standing::Unknown).count();
        if votes.iter().any(|(_, standing)| *standing != Standing::Witness) {
            coverage!("rule12.no_witness");
        }

        if votes_for(own) >= majority {
            return Decision::OwnIsRight;
        }
        if let Some(agreed) = others.values().copied().find(|digest| votes_for(*digest) >= majority) {
            return Decision::OwnIsWrong { agreed };
        }
        // One that was cast out disagreed before, and can support nobody any more.
        let strays = self.peers.values().filter(|peer| peer.stray.is_some()).count();
        let silent = self.replicas.saturating_sub(1 + others.len() + strays);
        let most = others.values().copied().chain([own]).map(votes_for).max().unwrap_or(0);
        if most + silent + open < majority { Decision::Never } else { Decision::NotYet }
    }

    /// A majority has the own value: whoever has another has diverged.
    fn cast_out(&mut self, sequence: Sequence, expected: u64, others: &BTreeMap<ReplicaId, u64>) {
        for (id, found) in others.iter().filter(|(_, value)| **value != expected) {
            coverage!("rule12.cast_out");
            let peer = self.peers.get_mut(id).expect("its value was compared");
            peer.stray = Some(Stray { sequence, expected, found: *found });
            peer.values.clear();
        }
    }
}

/// Whether a replica executed all that a value of it depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Witness,
    /// It differed already in what it inherited.
    Heir,
    /// Whether what it inherited was right can't be seen from the values that are known.
    Unknown,
}

enum Decision {
    OwnIsRight,
    OwnIsWrong {
        agreed: u64,
    },
    /// Whatever those say that have not been heard, no value gets a majority.
    Never,
    NotYet,
}

/// Whether both have a value at that sequence, and not the same.
fn differ(these: &BTreeMap<Sequence, u64>, those: &BTreeMap<Sequence, u64>, at: Sequence) -> bool {
    matches!((these.get(&at), those.get(&at)), (Some(this), Some(that)) if this != that)
}

fn keep_newest(values: &mut BTreeMap<Sequence, u64>) {
    while values.len() > KEPT {
        values.pop_first();
    }
}

#[cfg(test)]
mod tests;
