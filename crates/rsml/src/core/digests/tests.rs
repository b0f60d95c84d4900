use super::*;
use crate::{ClusterId, Epoch};

const ELECTION_US: u64 = 600_000;

/// The digests of replica 0, with the membership that its `Replica` would pass to them.
struct Watched {
    digests: Digests,
    membership: Membership,
}

impl std::ops::Deref for Watched {
    type Target = Digests;
    fn deref(&self) -> &Digests {
        &self.digests
    }
}

impl std::ops::DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Digests {
        &mut self.digests
    }
}

impl Watched {
    fn record(&mut self, recorded: &[(Sequence, u64)]) {
        self.digests.record(recorded, &self.membership);
    }

    fn observe(&mut self, from: &MessageHeader, inherited: Sequence, values: impl Iterator<Item = (Sequence, u64)>) {
        self.digests.observe(from, inherited, values, &self.membership);
    }

    fn tick(&mut self, now: Instant, most_us: u64) {
        self.digests.tick(now, most_us, &self.membership);
    }

    fn replace(&mut self, inherited: Sequence, recorded: &[(Sequence, u64)]) {
        self.digests.replace(inherited, recorded, &self.membership);
    }

    fn refuse(&mut self, source: ReplicaId, recorded: &[(Sequence, u64)]) -> bool {
        self.digests.refuse(source, recorded, &self.membership)
    }

    fn refused(&self, source: ReplicaId) -> Option<RefusedCopy> {
        self.digests.refused(source, &self.membership)
    }
}

fn digests(replicas: u8, recorded: &[(u64, u64)]) -> Watched {
    let mut options = CoreOptions::new(ReplicaId(0), (0..replicas).map(ReplicaId).collect(), 0);
    options.election_max_us = ELECTION_US;
    let digests = Digests::new(&options, &values(recorded), Sequence::ZERO, Instant(0));
    Watched { digests, membership: options.membership }
}

fn values(raw: &[(u64, u64)]) -> Vec<(Sequence, u64)> {
    raw.iter().map(|(sequence, digest)| (Sequence(*sequence), *digest)).collect()
}

fn report(digests: &mut Watched, peer: u8, boot: u64, raw: &[(u64, u64)]) {
    report_inherited(digests, peer, boot, 0, raw);
}

fn report_inherited(digests: &mut Watched, peer: u8, boot: u64, inherited: u64, raw: &[(u64, u64)]) {
    digests.observe(&sender(peer, boot), Sequence(inherited), values(raw).into_iter());
}

fn sender(peer: u8, boot: u64) -> MessageHeader {
    MessageHeader {
        replica: ReplicaId(peer),
        cluster_id: ClusterId(1),
        epoch: Epoch(1),
        disk_id: DiskId(u128::from(peer)),
        boot: Boot(boot),
    }
}

fn kind(digests: &Digests) -> Option<DivergenceKind> {
    digests.verdict().map(|divergence| divergence.kind)
}

#[test]
fn values_of_unequal_sequences_are_not_compared() {
    let mut digests = digests(3, &[(1024, 7), (2048, 8)]);
    report(&mut digests, 1, 1, &[(1024, 7), (3072, 9)]);
    report(&mut digests, 2, 1, &[(512, 1), (4096, 2)]);
    assert_eq!((digests.verdict(), digests.diverged_peers().len()), (None, 0));
    assert!(!digests.is_contradicted());
}

#[test]
fn the_minority_stops_and_names_sequence_digests_and_the_replicas_that_agree() {
    let mut digests = digests(3, &[(1024, 0xA)]);
    report(&mut digests, 0, 1, &[(1024, 0xB)]);
    assert_eq!(digests.verdict(), None, "one against one decides nothing");
    report(&mut digests, 2, 1, &[(1024, 0xB)]);
    let text = digests.verdict().expect("two against one").to_string();
    assert_eq!(
        text,
        "its database has diverged: its digest at sequence 1024 is 000000000000000a, replicas 0 and 2 agree on \
         000000000000000b"
    );
}

#[test]
fn the_majority_is_one_of_the_voters_and_not_of_all_members() {
    let mut digests = digests(5, &[(1024, 0xA)]);
    let voters = (0..3).map(|id| (ReplicaId(id), DiskId(u128::from(id)))).collect();
    digests.membership.adopt(&crate::BirthRecord::new(ClusterId(1), &voters).configuration());
    report(&mut digests, 1, 1, &[(1024, 0xB)]);
    assert_eq!(digests.verdict(), None, "one against one decides nothing");
    report(&mut digests, 2, 1, &[(1024, 0xB)]);
    assert_eq!(kind(&digests), Some(DivergenceKind::Minority { agreed: 0xB }));
}

#[test]
fn witnesses_have_no_digests_and_count_for_no_majority_of_them() {
    let witness = |id: u8| {
        let disk = DiskId(u128::from(id));
        (ReplicaId(id), crate::ConfiguredMember::Witness { disk, addresses: Default::default() })
    };
    let with_witnesses = |of: u8, witnesses: std::ops::Range<u8>| {
        let mut digests = digests(of, &[(1024, 0xA)]);
        let voters = (0..of).map(|id| (ReplicaId(id), DiskId(u128::from(id)))).collect();
        let mut configuration = crate::BirthRecord::new(ClusterId(1), &voters).configuration();
        configuration.members.extend(witnesses.map(witness));
        digests.membership.adopt(&configuration);
        digests
    };
    let mut two = with_witnesses(3, 2..3);
    report(&mut two, 1, 1, &[(1024, 0xB)]);
    assert_eq!(kind(&two), Some(DivergenceKind::NoMajority), "nobody else can decide");
    let mut three = with_witnesses(5, 3..5);
    report(&mut three, 1, 1, &[(1024, 0xB)]);
    assert_eq!(three.verdict(), None);
    report(&mut three, 2, 1, &[(1024, 0xB)]);
    assert_eq!(kind(&three), Some(DivergenceKind::Minority { agreed: 0xB }));
}

#[test]
fn a_witness_neither_publishes_digests_nor_judges() {
    let mut options = CoreOptions::new(ReplicaId(0), (0..3).map(ReplicaId).collect(), 0);
    options.is_witness = true;
    let digests = Digests::new(&options, &values(&[(1024, 1)]), Sequence::ZERO, Instant(0));
    let mut witness = Watched { digests, membership: options.membership };
    witness.record(&values(&[(2048, 1)]));
    witness.replace(Sequence(3000), &values(&[(2048, 2)]));
    for peer in [1, 2] {
        report(&mut witness, peer, 1, &[(1024, 2), (2048, 3)]);
    }
    assert_eq!(witness.publish(), Vec::new());
    assert_eq!(witness.verdict(), None);
    assert!(!witness.refuse(ReplicaId(1), &values(&[(2048, 7)])));
}

#[test]
fn the_majority_goes_on_and_outvotes_the_other_until_it_starts_again() {
    let mut digests = digests(3, &[(1024, 0xA), (2048, 0xA)]);
    report(&mut digests, 1, 1, &[(1024, 0xA)]);
    report(&mut digests, 2, 1, &[(1024, 0xB), (2048, 0xC)]);
    let diverged = DivergedPeer { sequence: Sequence(1024), expected: 0xA, found: 0xB };
    assert_eq!(digests.diverged_peers(), [(ReplicaId(2), diverged)].into());
    report(&mut digests, 2, 1, &[(2048, 0xC), (3072, 0xD)]);
    digests.tick(Instant(1 << 40), 1 << 40);
    assert_eq!(digests.verdict(), None, "what it says meanwhile does not count");
    report(&mut digests, 2, 2, &[(2048, 0xA)]);
    assert!(digests.diverged_peers().is_empty(), "its next start is judged again");
}

#[test]
fn a_digest_that_arrives_early_is_compared_once_this_replica_has_its_own() {
    let mut digests = digests(3, &[]);
    report(&mut digests, 0, 1, &[(1024, 0xB)]);
    report(&mut digests, 2, 1, &[(1024, 0xB)]);
    digests.record(&values(&[(1024, 0xA)]));
    assert_eq!(kind(&digests), Some(DivergenceKind::Minority { agreed: 0xB }));
}

#[test]
fn where_no_majority_can_come_about_everyone_stops_at_once() {
    let mut two = digests(2, &[(1024, 1)]);
    report(&mut two, 1, 1, &[(1024, 2)]);
    assert_eq!(kind(&two), Some(DivergenceKind::NoMajority));
    let mut three = digests(3, &[(1024, 1)]);
    report(&mut three, 1, 1, &[(1024, 2)]);
    report(&mut three, 2, 1, &[(1024, 3)]);
    assert_eq!(kind(&three), Some(DivergenceKind::NoMajority));
    let mut five = digests(5, &[(1024, 1)]);
    for (peer, value) in [(1, 1), (2, 2), (3, 2)] {
        report(&mut five, peer, 1, &[(1024, value)]);
    }
    assert_eq!(kind(&five), None, "the fifth decides");
    report(&mut five, 4, 1, &[(1024, 1)]);
    assert_eq!((kind(&five), five.diverged_peers().len()), (None, 2));
}

#[test]
fn a_mismatch_that_stays_undecided_stops_the_replica_but_time_asleep_does_not_count() {
    let mut digests = digests(3, &[(1024, 1)]);
    report(&mut digests, 1, 1, &[(1024, 2)]);
    digests.tick(Instant(100 * ELECTION_US), 50_000);
    assert_eq!(digests.verdict(), None, "it was stalled and has not waited");
    for tick in 1..=60 {
        digests.tick(Instant(100 * ELECTION_US + tick * 50_000), 50_000);
    }
    assert_eq!(kind(&digests), Some(DivergenceKind::NoMajority));
}

#[test]
fn a_replica_that_installed_a_wrong_snapshot_has_no_vote_for_it() {
    let mut digests = digests(3, &[(1024, 1), (2048, 2)]);
    report(&mut digests, 1, 1, &[(1024, 1), (2048, 9)]);
    // It took the copy between the two: whatever it says about 2048 is what it was given.
    report_inherited(&mut digests, 2, 1, 1500, &[(1024, 1), (2048, 9), (3072, 10)]);
    assert_eq!(kind(&digests), Some(DivergenceKind::NoMajority), "it is one against one");
}

#[test]
fn a_replica_that_agreed_since_its_snapshot_with_the_one_it_contradicts_now_has_a_vote() {
    for agreed in [3072, 4096] {
        let mut digests = digests(3, &[(agreed, 1), (5120, 2)]);
        report(&mut digests, 1, 1, &[(5120, 9)]);
        report_inherited(&mut digests, 2, 1, 3072, &[(agreed, 1), (5120, 9)]);
        assert_eq!(kind(&digests), Some(DivergenceKind::Minority { agreed: 9 }));
    }
}

#[test]
fn an_inherited_digest_is_no_vote_though_none_is_known_to_differ() {
    // Earlier digests may still arrive. Without them it stays unknown whether the snapshot was
    // right.
    let mut digests = digests(3, &[(2048, 1), (5120, 2)]);
    report(&mut digests, 1, 1, &[(5120, 9)]);
    report_inherited(&mut digests, 2, 1, 3072, &[(2048, 1), (5120, 9)]);
    assert_eq!(kind(&digests), None, "what it had at 4096 would decide");
    for tick in 1..=60 {
        digests.tick(Instant(tick * 50_000), 50_000);
    }
    assert_eq!(kind(&digests), Some(DivergenceKind::NoMajority));
}

#[test]
fn a_difference_in_the_interval_of_the_copy_is_taken_for_inherited() {
    let mut digests = digests(3, &[(2048, 1), (3072, 2)]);
    report(&mut digests, 1, 1, &[(3072, 9)]);
    report_inherited(&mut digests, 2, 1, 2500, &[(2048, 1), (3072, 9)]);
    assert_eq!(kind(&digests), Some(DivergenceKind::NoMajority));
}

#[test]
fn agreeing_with_the_source_of_the_snapshot_makes_no_vote() {
    let mut digests = digests(3, &[(4096, 2)]);
    report(&mut digests, 1, 1, &[(3072, 8), (4096, 9)]);
    report_inherited(&mut digests, 2, 1, 3072, &[(3072, 8), (4096, 9)]);
    assert_eq!(kind(&digests), None, "the own value at 3072, which is lost, would decide");
}

#[test]
fn a_replica_with_an_inherited_database_stops_only_if_it_knows_that_its_snapshot_was_right() {
    for (agreed, verdict) in [(3072, Some(DivergenceKind::Minority { agreed: 9 })), (2048, None)] {
        let mut digests = digests(5, &[]);
        digests.replace(Sequence(3072), &values(&[(2048, 1), (3072, 1)]));
        digests.record(&values(&[(4096, 2)]));
        for peer in [1, 2] {
            report_inherited(&mut digests, peer, 1, 3072, &[(agreed, 1), (4096, 9)]);
        }
        report(&mut digests, 3, 1, &[(4096, 9)]);
        assert_eq!(kind(&digests), verdict, "agreed at {agreed}");
    }
}

#[test]
fn a_snapshot_that_others_contradict_is_known() {
    let mut digests = digests(3, &[]);
    report(&mut digests, 1, 1, &[(1024, 1), (2048, 9)]);
    report(&mut digests, 2, 1, &[(1024, 1), (2048, 2)]);
    assert!(digests.refuse(ReplicaId(1), &values(&[(1024, 1), (2048, 9)])));
    assert!(!digests.refuse(ReplicaId(1), &values(&[(1024, 1), (3072, 9)])));
}

#[test]
fn a_refused_snapshot_is_worth_another_fetch_once_more_is_known() {
    let refused = || {
        let mut digests = digests(3, &[]);
        report(&mut digests, 1, 1, &[(1024, 1), (2048, 9)]);
        report(&mut digests, 2, 1, &[(1024, 1), (2048, 2)]);
        assert!(digests.refuse(ReplicaId(1), &values(&[(1024, 1), (2048, 9)])));
        let refused = digests.refused(ReplicaId(1)).expect("nothing is known since");
        assert_eq!((refused.sequence, refused.found), (Sequence(2048), 9));
        assert_eq!(refused.others, BTreeMap::from([(ReplicaId(2), 2)]));
        digests
    };
    let mut digests = refused();
    report(&mut digests, 1, 2, &[]);
    assert!(digests.refused(ReplicaId(1)).is_some(), "a new start changes no database");
    assert!(digests.refused(ReplicaId(2)).is_none(), "that one's copy was not seen");
    report(&mut digests, 2, 2, &[(2048, 9)]);
    assert!(digests.refused(ReplicaId(1)).is_none(), "who contradicted has another database now");
    let mut digests = refused();
    digests.observe(&sender(1, 1), Sequence(2048), [].into_iter());
    assert!(digests.refused(ReplicaId(1)).is_none(), "the source has got a copy itself");
    let mut digests = refused();
    digests.forget(ReplicaId(1));
    assert!(digests.refused(ReplicaId(1)).is_none(), "another disk is in the place of the source's");
    let mut digests = refused();
    let later: Vec<(u64, u64)> = (3..=2 + KEPT as u64).map(|place| (1024 * place, place)).collect();
    report(&mut digests, 1, 1, &later);
    assert!(digests.refused(ReplicaId(1)).is_none(), "the source tells nothing any more of what was recorded then");
    let mut digests = refused();
    digests.replace(Sequence(3000), &values(&[(2048, 2)]));
    assert!(digests.refused(ReplicaId(1)).is_none(), "another one's copy was taken");
    let mut digests = refused();
    digests.forget_refusals();
    assert!(digests.refused(ReplicaId(1)).is_none(), "none is needed any more");
}

#[test]
fn a_copy_like_the_databases_of_a_majority_is_taken_though_one_contradicts() {
    let mut digests = digests(5, &[]);
    report(&mut digests, 0, 1, &[(1024, 1), (2048, 9)]);
    report(&mut digests, 1, 1, &[(2048, 2), (3072, 3)]);
    let copy = values(&[(1024, 1), (2048, 2), (3072, 3)]);
    assert!(digests.refuse(ReplicaId(1), &copy), "one against one");
    report(&mut digests, 2, 1, &[(512, 7), (3072, 3)]);
    assert!(digests.refuse(ReplicaId(1), &copy), "two of five");
    report(&mut digests, 3, 1, &[(1024, 1)]);
    assert!(digests.refuse(ReplicaId(1), &copy), "the third tells only what was before the difference");
    report(&mut digests, 3, 1, &[(2048, 2)]);
    assert!(!digests.refuse(ReplicaId(1), &copy));
    assert!(digests.refuse(ReplicaId(0), &values(&[(1024, 1), (2048, 9)])));
}

#[test]
fn values_of_a_database_that_was_replaced_count_no_more() {
    let mut digests = digests(3, &[(1024, 1)]);
    digests.replace(Sequence(3000), &values(&[(2048, 2)]));
    digests.record(&values(&[(1024, 1), (2048, 3), (3072, 4)]));
    let own: Vec<(Sequence, u64)> = digests.digests.own.into_iter().collect();
    assert_eq!(own, values(&[(2048, 2), (3072, 4)]));
}

#[test]
fn a_restart_of_the_other_ends_a_mismatch() {
    let mut digests = digests(3, &[(1024, 1)]);
    report(&mut digests, 1, 1, &[(1024, 2)]);
    report(&mut digests, 1, 2, &[(1024, 1)]);
    for tick in 1..=100 {
        digests.tick(Instant(tick * 50_000), 50_000);
    }
    assert_eq!(digests.verdict(), None);
}

#[test]
fn reports_carry_new_digests_and_a_few_older_ones() {
    let mut digests = digests(3, &[]);
    digests.record(&(1..=20).map(|n| (Sequence(n), n)).collect::<Vec<_>>());
    assert_eq!(digests.publish().len(), 20);
    digests.record(&values(&[(21, 21)]));
    let told: Vec<u64> = digests.publish().iter().map(|(sequence, _)| sequence.0).collect();
    assert_eq!(told, (14..=21).collect::<Vec<u64>>());
    digests.record(&(22..=200).map(|n| (Sequence(n), n)).collect::<Vec<_>>());
    assert_eq!(digests.publish().len(), KEPT);
    assert_eq!(digests.publish().len(), REPEATED);
    assert_eq!(digests.publish().len(), KEPT, "now and then all are told again");
}

#[test]
fn a_peer_that_tells_endlessly_many_values_costs_little() {
    let mut digests = digests(3, &[]);
    digests.observe(&sender(1, 1), Sequence::ZERO, (0..1_000_000).map(|n| (Sequence(n), n)));
    assert!(digests.peers[&ReplicaId(1)].values.len() <= KEPT);
}

#[test]
fn a_mismatch_may_stay_undecided_for_four_election_timeouts() {
    let mut digests = digests(3, &[(1024, 1)]);
    report(&mut digests, 1, 1, &[(1024, 2)]);
    digests.tick(Instant(4 * ELECTION_US - 1), u64::MAX);
    assert_eq!(digests.verdict(), None);
    digests.tick(Instant(4 * ELECTION_US), u64::MAX);
    assert_eq!(kind(&digests), Some(DivergenceKind::NoMajority));
}

#[test]
fn a_mismatch_is_not_forgotten_while_neither_keeps_an_equal_sequence() {
    let mut digests = digests(3, &[(1, 1)]);
    report(&mut digests, 1, 1, &[(1, 2)]);
    let mut recorded = 1;
    for quarter in 1..=16 {
        // More than are kept, before the next report comes.
        let next = recorded + KEPT as u64 + 1;
        digests.record(&(recorded..=next).map(|n| (Sequence(n), n)).collect::<Vec<_>>());
        digests.tick(Instant(quarter * ELECTION_US / 4), u64::MAX);
        assert_eq!(digests.verdict(), None, "{quarter}");
        recorded = next;
    }
    report(&mut digests, 1, 1, &[(recorded, 0)]);
    assert_eq!(kind(&digests), Some(DivergenceKind::NoMajority));
}

#[test]
fn a_mismatch_with_a_database_that_is_replaced_since_does_not_count() {
    let mut digests = digests(3, &[(1024, 1)]);
    report(&mut digests, 1, 1, &[(1024, 2)]);
    report_inherited(&mut digests, 1, 1, 2000, &[(3072, 3)]);
    digests.tick(Instant(4 * ELECTION_US), u64::MAX);
    digests.record(&values(&[(3072, 3), (4096, 4)]));
    report_inherited(&mut digests, 1, 1, 2000, &[(4096, 5)]);
    assert_eq!(digests.verdict(), None, "this one is new");
}

#[test]
fn a_refused_snapshot_counts_as_long_as_its_source_reports_the_last_digest_in_it() {
    let mut digests = digests(3, &[]);
    report(&mut digests, 1, 1, &[(2048, 9)]);
    report(&mut digests, 2, 1, &[(2048, 2)]);
    assert!(digests.refuse(ReplicaId(1), &values(&[(1024, 1), (2048, 9)])));
    assert!(digests.refused(ReplicaId(1)).is_some());
}

#[test]
fn a_digest_where_the_inherited_part_ends_is_of_the_former_database() {
    let mut digests = digests(3, &[]);
    digests.replace(Sequence(2048), &values(&[(2048, 2)]));
    digests.record(&values(&[(2048, 1)]));
    assert_eq!(digests.digests.own, BTreeMap::from([(Sequence(2048), 2)]));
}
