//! What must hold in every run, whatever the faults.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use rsml::{Divergence, DivergenceKind, HardState, Message, ReplicaId, Sequence, View};

/// Watches the whole cluster from outside.
#[derive(Default)]
pub struct Checks {
    /// One value per sequence, whoever delivers it.
    chosen: BTreeMap<Sequence, Bytes>,
    promises: HashMap<ReplicaId, View>,
    primaries: HashMap<View, ReplicaId>,
    acknowledged: HashMap<Bytes, Sequence>,
    surely_not: HashSet<Bytes>,
    /// The highest sequence that any replica delivered so far.
    delivered_to: Sequence,
    digests: HashMap<Sequence, u64>,
}

impl Checks {
    pub fn delivered(&mut self, replica: ReplicaId, sequence: Sequence, entry: &Bytes) {
        let chosen = self.chosen.entry(sequence).or_insert_with(|| entry.clone());
        assert_eq!(chosen, entry, "replica {replica} delivers another value at {sequence} than was chosen");
        self.delivered_to = self.delivered_to.max(sequence);
    }

    /// Equal at equal sequences, on all replicas and after every restart.
    pub fn applied(&mut self, replica: ReplicaId, sequence: Sequence, digest: u64) {
        let known = *self.digests.entry(sequence).or_insert(digest);
        assert_eq!(known, digest, "replica {replica} has another digest at {sequence}");
    }

    /// A replica stopped because digests differ: a sound one only where nobody can know better.
    pub fn diverged(&self, replica: ReplicaId, is_tainted: bool, divergence: &Divergence) {
        assert!(
            is_tainted || divergence.kind == DivergenceKind::NoMajority,
            "replica {replica} is sound and in the minority: {divergence}"
        );
    }

    /// A message is about to leave: what it claims is durable, and exactly what is durable at this moment (rule 3 of the
    /// protocol). `promised` is the promise in memory, `durable` and `last` what the disk reported.
    /// `sound` is where the entries end that follow each other without a loss.
    pub fn claims(
        &self,
        message: &Message,
        promised: View,
        durable: &HardState,
        last: Sequence,
        sound: Option<Sequence>,
    ) {
        let is_log = |view: u64, end: u64| (View(view), Sequence(end)) == (durable.accepted_view, last);
        match message {
            Message::Prepare(m) => {
                assert!(durable.promised.0 >= m.view, "a 1a leaves before the own promise is durable")
            }
            Message::Promise(m) => {
                assert_eq!(
                    durable.promised.0, m.view,
                    "a 1b leaves before the promise is durable, or after a higher one"
                );
                assert!(is_log(m.accepted_view, m.last), "a 1b tells of another log than the durable one");
            }
            Message::Accepted(m) => {
                assert_eq!(promised.0, m.view, "a 2b leaves in another view than the promised one");
                assert!(durable.promised.0 >= m.view, "a 2b leaves before the promise is durable");
                let end = sound.map_or(last, |sound| sound.min(last));
                let is_durable = (View(m.durable_view), Sequence(m.durable_last)) == (durable.accepted_view, end);
                assert!(
                    is_durable,
                    "a 2b tells of another log than the durable one: {m:?} {durable:?} {last} {sound:?}"
                );
            }
            _ => {}
        }
    }

    /// What a replica was told is durable is there when it starts again.
    pub fn restarted(&mut self, replica: ReplicaId, hard: &HardState) {
        let promised = self.promises.entry(replica).or_default();
        assert!(hard.promised >= *promised, "replica {replica} forgot its promise of {promised}");
        *promised = hard.promised;
    }

    /// Another disk takes the place of this replica's.
    pub fn forget(&mut self, replica: ReplicaId) {
        self.promises.remove(&replica);
    }

    pub fn durable(&mut self, replica: ReplicaId, hard: &HardState) {
        let promised = self.promises.entry(replica).or_default();
        assert!(hard.promised >= *promised, "replica {replica} went back from {promised} to {}", hard.promised);
        *promised = hard.promised;
    }

    /// A replica begins to lead: nobody else ever led that view, and a quorum has promised it for good.
    pub fn leads(&mut self, replica: ReplicaId, view: View, quorum: usize) {
        let promised = self.promises.values().filter(|promised| **promised >= view).count();
        assert!(promised >= quorum, "replica {replica} leads view {view} with {promised} promises");
        let primary = *self.primaries.entry(view).or_insert(replica);
        assert_eq!(primary, replica, "two primaries in view {view}");
    }

    pub fn views_led(&self) -> usize {
        self.primaries.len()
    }

    pub fn acknowledge(&mut self, payload: Bytes, sequence: Sequence) {
        let before = self.acknowledged.insert(payload.clone(), sequence);
        assert_eq!(before, None, "{payload:?} was acknowledged twice");
        assert!(!self.surely_not.contains(&payload), "{payload:?} was executed after it was refused");
    }

    pub fn refuse(&mut self, payload: Bytes) {
        assert!(!self.acknowledged.contains_key(&payload), "{payload:?} was refused after it was acknowledged");
        self.surely_not.insert(payload);
    }

    /// What a read that begins now must cover: not only what was acknowledged, but all that any replica knows as chosen.
    pub fn read_floor(&self) -> Sequence {
        self.delivered_to
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// A read that began when everything up to `floor` was known as chosen somewhere got `point`.
    pub fn read(&self, replica: ReplicaId, floor: Sequence, point: Sequence) {
        assert!(point >= floor, "replica {replica} reads at {point}, but {floor} was delivered before");
    }

    /// In the end: every acknowledged request is there, at its place; none twice; no refused one.
    pub fn final_state(&self, replica: ReplicaId, executed: &[(Sequence, Bytes)]) {
        let mut places: HashMap<&Bytes, Sequence> = HashMap::new();
        for (sequence, payload) in executed {
            assert_eq!(places.insert(payload, *sequence), None, "replica {replica} executed {payload:?} twice");
            assert!(!self.surely_not.contains(payload), "replica {replica} executed {payload:?}, which was refused");
        }
        for (payload, sequence) in &self.acknowledged {
            assert_eq!(places.get(payload), Some(sequence), "replica {replica} lost or moved {payload:?}");
        }
    }
}
