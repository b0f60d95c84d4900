//! Whether every replica computes the same database from the same log (safety rule 12).
//!
//! Each replica records its running digest at every sequence that is a multiple of the digest
//! interval, keeps the last [`KEPT`], and sends them to the others with its reports. Digests of
//! *equal* sequences are compared, of the present start of each replica only. A replica whose
//! digest a majority contradicts has *diverged*: it stops. If no majority is possible any more, or
//! none appeared in the time that a few elections take, it is unknown which replica is right, and
//! every replica that notices stops. A diverged peer sends nothing more; its last digests are
//! excluded from later comparisons.
//!
//! A digest counts as a vote only if the replica computed it by executing the log. A replica
//! restored from a snapshot *inherited* its digest from the donor, and says nothing about whether
//! the donor is right. Its digests are votes again once it is known to have agreed, at the end of
//! the inherited part or later, with a replica that it contradicts now: the two had computed the
//! same until then, and everything after that it computed itself. A snapshot whose digests others
//! contradict is not installed at all, unless a majority has the same digests.
//!
//! A witness has no database, and so no digest: majorities are of the voters that have one.
//!
//! The digest is a fold over everything executed, so one difference shows at every later sequence
//! as well. A digest that was lost, or is no longer kept, is made up for by the next one.

use std::collections::BTreeMap;
use std::fmt;

use super::{CoreOptions, Membership};
use crate::message::MessageHeader;
use crate::{Boot, DiskId, Instant, ReplicaId, Sequence};

/// How many digests are kept per replica.
pub const KEPT: usize = 64;
/// How many digests each report repeats, for peers that missed one.
const REPEATED: usize = 8;
/// One in this many reports repeats all digests: for peers that have restarted, or lag.
const ALL_AGAIN: u64 = 5;
/// A mismatch may stay undecided for this many of the longest election timeouts.
const PATIENCE: u64 = 4;

/// Why a replica must stop: its database is not what the log says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Divergence {
    /// The sequence whose digests were compared.
    pub sequence: Sequence,
    /// The digest of this replica.
    pub own: u64,
    /// The digests of the others, as far as they have reported them.
    pub others: BTreeMap<ReplicaId, u64>,
    /// Whether a majority is known.
    pub kind: DivergenceKind,
}

/// The outcome of comparing digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DivergenceKind {
    /// A majority agrees on another digest: this replica's database is wrong.
    Minority {
        /// The digest of the majority.
        agreed: u64,
    },
    /// No digest has a majority: it is unknown which database is right.
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
pub struct DivergedPeer {
    /// The sequence whose digests differ.
    pub sequence: Sequence,
    /// The digest of the majority.
    pub expected: u64,
    /// The digest of that peer.
    pub found: u64,
}

/// A snapshot that this replica needs and did not install: the digests of another replica
/// contradict it, and it is not known yet which of the two is right.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RefusedCopy {
    /// The replica whose database it is.
    pub source: ReplicaId,
    /// The sequence whose digests differ.
    pub sequence: Sequence,
    /// The snapshot's digest at that sequence.
    pub found: u64,
    /// The digests that others have reported of it.
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

/// The digests in a refused snapshot, and the disk that it came from. `inherited` changes when that
/// replica installs a snapshot itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refusal {
    disk: DiskId,
    inherited: Sequence,
    recorded: Vec<(Sequence, u64)>,
}

/// The digests that one start of a peer has reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    disk: DiskId,
    boot: Boot,
    values: BTreeMap<Sequence, u64>,
    /// Its database was restored from a snapshot of a peer through here.
    inherited: Sequence,
    /// Some digest of it differs from that of this replica. A fold that differs once differs for
    /// good, so this stays when neither keeps an equal sequence for a while.
    differs: bool,
    /// Set once a majority contradicts it.
    diverged: Option<DivergedPeer>,
}

/// The digests of this replica and its peers, and what follows from them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digests {
    interval: u64,
    patience_us: u64,
    /// This replica has no database, and so no digests: it neither votes here nor judges.
    is_witness: bool,
    own: BTreeMap<Sequence, u64>,
    /// The database of this replica was restored from a snapshot of a peer through here.
    inherited: Sequence,
    peers: BTreeMap<ReplicaId, Peer>,
    refusals: BTreeMap<ReplicaId, Refusal>,
    /// The last digest of this replica that was sent to the peers.
    last_published: Sequence,
    reports: u64,
    /// For how long a mismatch has been undecided while this replica ran, and when that was last
    /// judged.
    undecided_us: u64,
    judged: Instant,
    verdict: Option<Divergence>,
}

impl Digests {
    /// `recorded`: the newest digests of this replica's database, which was restored from a
    /// snapshot through `inherited`.
    pub fn new(options: &CoreOptions, recorded: &[(Sequence, u64)], inherited: Sequence, now: Instant) -> Digests {
        let recorded = if options.is_witness { &[] } else { recorded };
        Digests {
            interval: options.digest_interval,
            patience_us: PATIENCE * options.election_max_us,
            is_witness: options.is_witness,
            own: recorded.iter().copied().collect(),
            inherited,
            peers: BTreeMap::new(),
            refusals: BTreeMap::new(),
            last_published: Sequence::ZERO,
            reports: 0,
            undecided_us: 0,
            judged: now,
            verdict: None,
        }
    }

    /// Whether a snapshot of the source with these digests must not be installed. Such a snapshot
    /// is not worth fetching again before more is known: see [`Digests::refused`].
    pub fn refuse(&mut self, source: ReplicaId, recorded: &[(Sequence, u64)], membership: &Membership) -> bool {
        if self.is_witness || self.contradiction(source, recorded, membership).is_none() {
            return false;
        }
        coverage!("rule12.copy_contradicted");
        if let Some(peer) = self.peers.get(&source) {
            let refusal = Refusal { disk: peer.disk, inherited: peer.inherited, recorded: recorded.to_vec() };
            self.refusals.insert(source, refusal);
        }
        true
    }

    /// The snapshot of that peer that was refused, if it would be refused again. Once the peer no
    /// longer reports the sequences that were recorded in it, nothing is known of the snapshots
    /// that it makes now.
    pub fn refused(&self, source: ReplicaId, membership: &Membership) -> Option<RefusedCopy> {
        let recorded = &self.refusals.get(&source)?.recorded;
        let told = self.peers.get(&source).and_then(|peer| peer.values.keys().next());
        let is_outdated = told.is_some_and(|first| recorded.iter().all(|(sequence, _)| sequence < first));
        self.contradiction(source, recorded, membership).filter(|_| !is_outdated)
    }

    /// Forgets refused snapshots, since this replica has caught up.
    pub fn forget_refusals(&mut self) {
        self.refusals.clear();
    }

    /// Where a peer other than `source` has another digest than a snapshot of the source with these
    /// digests, unless a majority, the source included, has the same: that majority could proceed
    /// without this replica anyway.
    fn contradiction(
        &self,
        source: ReplicaId,
        recorded: &[(Sequence, u64)],
        membership: &Membership,
    ) -> Option<RefusedCopy> {
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
        let is_refused = with_the_same < membership.database_majority();
        is_refused.then(|| RefusedCopy { source, sequence, found, others: told(&sequence) })
    }

    /// A snapshot of a peer, which has applied everything through `inherited`, replaces the
    /// database of this replica: digests recorded before say nothing about it.
    pub fn replace(&mut self, inherited: Sequence, recorded: &[(Sequence, u64)], membership: &Membership) {
        coverage!("rule12.database_replaced");
        self.own.clear();
        self.refusals.clear();
        self.inherited = Sequence::ZERO;
        self.last_published = Sequence::ZERO;
        self.undecided_us = 0;
        self.peers.values_mut().for_each(|peer| peer.differs = false);
        self.record(recorded, membership);
        self.inherited = inherited;
    }

    /// Through which sequence the database was restored from a snapshot; 0 if it was not.
    pub fn inherited(&self) -> Sequence {
        self.inherited
    }

    /// The database of this replica reached these sequences with these digests. Digests of
    /// sequences that are inherited by now are of the former database.
    pub fn record(&mut self, recorded: &[(Sequence, u64)], membership: &Membership) {
        if self.is_witness {
            return;
        }
        for (sequence, digest) in recorded.iter().filter(|(sequence, _)| *sequence > self.inherited) {
            self.own.insert(*sequence, *digest);
            for peer in self.peers.values_mut() {
                peer.differs |= peer.values.get(sequence).is_some_and(|value| value != digest);
            }
        }
        keep_newest(&mut self.own);
        self.judge(membership);
    }

    /// The digests to report now: the new ones, and some that were reported before, oldest first.
    pub fn publish(&mut self) -> Vec<(Sequence, u64)> {
        self.reports += 1;
        let fresh = self.own.range(self.last_published.next()..).count();
        let count = if self.reports.is_multiple_of(ALL_AGAIN) { KEPT } else { fresh.max(REPEATED) };
        let values = self.own.iter().rev().take(count).map(|(sequence, digest)| (*sequence, *digest));
        let mut values: Vec<(Sequence, u64)> = values.collect();
        values.reverse();
        self.last_published = values.last().map_or(self.last_published, |(sequence, _)| *sequence);
        values
    }

    /// A peer reported its digests, and through which sequence it inherited its database.
    pub fn observe(
        &mut self,
        from: &MessageHeader,
        inherited: Sequence,
        values: impl Iterator<Item = (Sequence, u64)>,
        membership: &Membership,
    ) {
        let (disk, boot) = (from.disk_id, from.boot);
        let fresh = || Peer { disk, boot, values: BTreeMap::new(), inherited, differs: false, diverged: None };
        self.refusals
            .retain(|id, refusal| *id != from.replica || (refusal.disk, refusal.inherited) == (disk, inherited));
        let known = self.peers.entry(from.replica).or_insert_with(fresh);
        if (known.disk, known.boot, known.inherited) != (disk, boot, inherited) {
            *known = fresh();
        }
        if known.diverged.is_some() {
            return;
        }
        for (sequence, digest) in values.take(KEPT) {
            known.values.insert(sequence, digest);
            known.differs |= self.own.get(&sequence).is_some_and(|own| *own != digest);
        }
        keep_newest(&mut known.values);
        self.judge(membership);
    }

    /// Forgets what that peer reported: it has another disk now.
    pub fn forget(&mut self, peer: ReplicaId) {
        self.peers.remove(&peer);
        self.refusals.remove(&peer);
    }

    /// Time passed. It counts towards [`PATIENCE`] only as far as this replica ran: a replica that
    /// was stalled has not waited.
    pub fn tick(&mut self, now: Instant, most_us: u64, membership: &Membership) {
        let passed = now.since_us(self.judged).min(most_us);
        self.judged = now;
        if self.is_contradicted() {
            self.undecided_us += passed;
            self.judge(membership);
        } else {
            self.undecided_us = 0;
        }
    }

    /// Why this replica must stop, if it must.
    pub fn verdict(&self) -> Option<&Divergence> {
        self.verdict.as_ref()
    }

    /// The peers that have diverged and have not started again since.
    pub fn diverged_peers(&self) -> BTreeMap<ReplicaId, DivergedPeer> {
        self.peers.iter().filter_map(|(id, peer)| Some((*id, peer.diverged?))).collect()
    }

    /// Whether a peer contradicts this replica that no majority has contradicted yet.
    fn is_contradicted(&self) -> bool {
        self.peers.values().any(|peer| peer.differs && peer.diverged.is_none())
    }

    /// Compares all digests of equal sequences, if any differ.
    fn judge(&mut self, membership: &Membership) {
        if !self.is_contradicted() || self.verdict.is_some() {
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
            match self.decide(sequence, own, &others, membership) {
                Decision::OwnIsRight => self.outvote(sequence, own, &others),
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
        self.settle();
        // Without an equal sequence at present, the next reports decide.
        if let Some((sequence, own, others)) = undecided
            && self.undecided_us >= self.patience_us
        {
            coverage!("rule12.never_decided");
            self.verdict = Some(Divergence { sequence, own, others, kind: DivergenceKind::NoMajority });
        }
    }

    /// A peer that agrees at the newest sequence that both have differed with a database that one of
    /// them has replaced since.
    fn settle(&mut self) {
        for peer in self.peers.values_mut().filter(|peer| peer.differs) {
            let newest = self.own.iter().rev().find_map(|(sequence, own)| Some(peer.values.get(sequence)? == own));
            peer.differs = newest != Some(true);
        }
    }

    /// How the digest at `at` counts of a replica that has these digests, and inherited its
    /// database through `inherited`.
    fn vote(&self, values: &BTreeMap<Sequence, u64>, inherited: Sequence, at: Sequence) -> DigestVote {
        if inherited == Sequence::ZERO {
            return DigestVote::Computed;
        }
        let peers = self.peers.values().map(|peer| &peer.values);
        let opponents = || peers.clone().chain([&self.own]).filter(|others| differ(values, others, at));
        let agreed = |(sequence, value): (&Sequence, &u64)| opponents().any(|o| o.get(sequence) == Some(value));
        // No digest is recorded between the end of the inherited part and these.
        let first = Sequence(inherited.0.saturating_add(self.interval));
        let differed = |(sequence, _): (&Sequence, &u64)| opponents().any(|o| differ(values, o, *sequence));
        if values.range(inherited.min(at)..at).any(agreed) {
            DigestVote::Computed
        } else if values.range(..first).any(differed) {
            DigestVote::Inherited
        } else {
            DigestVote::Unknown
        }
    }

    fn decide(
        &self,
        sequence: Sequence,
        own: u64,
        others: &BTreeMap<ReplicaId, u64>,
        membership: &Membership,
    ) -> Decision {
        let majority = membership.database_majority();
        let peers = others.iter().map(|(id, value)| (&self.peers[id], *value));
        let mut votes: Vec<(u64, DigestVote)> =
            peers.map(|(peer, value)| (value, self.vote(&peer.values, peer.inherited, sequence))).collect();
        votes.push((own, self.vote(&self.own, self.inherited, sequence)));
        let votes_for = |digest: u64| votes.iter().filter(|vote| **vote == (digest, DigestVote::Computed)).count();
        // They may turn out as computed, since not all of their earlier digests are known here.
        let open = votes.iter().filter(|(_, vote)| *vote == DigestVote::Unknown).count();
        if votes.iter().any(|(_, vote)| *vote != DigestVote::Computed) {
            coverage!("rule12.no_computed_digest");
        }

        if votes_for(own) >= majority {
            return Decision::OwnIsRight;
        }
        if let Some(agreed) = others.values().copied().find(|digest| votes_for(*digest) >= majority) {
            return Decision::OwnIsWrong { agreed };
        }
        // A diverged peer disagreed before, and can support no digest any more.
        let outvoted = self.peers.values().filter(|peer| peer.diverged.is_some()).count();
        let silent = membership.databases().saturating_sub(1 + others.len() + outvoted);
        let most = others.values().copied().chain([own]).map(votes_for).max().unwrap_or(0);
        if most + silent + open < majority { Decision::Never } else { Decision::NotYet }
    }

    /// A majority has the digest of this replica: the peers that have another one have diverged.
    fn outvote(&mut self, sequence: Sequence, expected: u64, others: &BTreeMap<ReplicaId, u64>) {
        for (id, found) in others.iter().filter(|(_, value)| **value != expected) {
            coverage!("rule12.outvoted");
            let peer = self.peers.get_mut(id).expect("its value was compared");
            peer.diverged = Some(DivergedPeer { sequence, expected, found: *found });
            peer.values.clear();
        }
    }
}

/// How a digest counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DigestVote {
    /// The replica computed it, by executing everything that it depends on: a vote.
    Computed,
    /// It differed already in the part that the replica inherited with a snapshot: no vote.
    Inherited,
    /// The digests that are known do not show whether the inherited part agrees: no vote yet.
    Unknown,
}

enum Decision {
    OwnIsRight,
    OwnIsWrong {
        agreed: u64,
    },
    /// No digest can get a majority any more, whatever the replicas that were not heard from yet
    /// report.
    Never,
    /// More reports may decide it.
    NotYet,
}

/// Whether both have a digest at that sequence, and not the same.
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
