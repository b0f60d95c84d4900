//! Which survivor is kept.

use super::super::*;

const CLUSTER: &str = "07";

fn members(epoch: u64, voters: &[u32]) -> MembersAt {
    let voter = |id: &u32| MemberEntry {
        replica: *id,
        role: "voter".to_string(),
        disk_id: Some(format!("disk{id}")),
        peer: None,
    };
    MembersAt { epoch, since: 1, members: voters.iter().map(voter).collect() }
}

/// A survivor of three voters whose database has applied 50, with a log of `view` through `last`.
fn survivor(replica: u32, view: u64, last: u64) -> Inspection {
    Inspection {
        format: 1,
        program: "0".to_string(),
        program_levels: (1, 2),
        data_dir: format!("data-{replica}"),
        replica,
        cluster_id: CLUSTER.to_string(),
        disk_id: format!("disk{replica}"),
        epoch: 1,
        boot: 1,
        promised: view,
        accepted_view: view,
        log: LogExtent { first: 1, last, lost: Vec::new() },
        committed: 50,
        database: Some(DatabaseState {
            directory: "db".to_string(),
            applied: 50,
            persisted: 50,
            digest: "0".to_string(),
            version: 60,
            oldest_readable: 1,
            rows: 5,
            feature_level: 2,
        }),
        database_problem: None,
        configuration: Some(members(1, &[0, 1, 2, 3, 4])),
        next_configuration: None,
    }
}

fn losing(inspection: Inspection, lost: &[(u64, u64)]) -> Inspection {
    let log = LogExtent { lost: lost.to_vec(), ..inspection.log };
    Inspection { log, ..inspection }
}

fn with_voters(inspection: Inspection, voters: &[u32]) -> Inspection {
    Inspection { configuration: Some(members(1, voters)), ..inspection }
}

fn planned(survivors: &[Inspection], keep: Option<u32>) -> Result<Plan, RecoverError> {
    let named: Vec<_> = survivors.iter().map(|s| (format!("{}.json", s.replica), s.clone())).collect();
    make_plan(&named, keep)
}

fn kept(survivors: &[Inspection], keep: Option<u32>) -> (u32, u64) {
    let plan = planned(survivors, keep).expect("there is a plan");
    (plan.replica, plan.keep_through)
}

fn refusal(survivors: &[Inspection], keep: Option<u32>) -> String {
    match planned(survivors, keep).expect_err("it is refused") {
        RecoverError::Refused(text) => text,
        other => panic!("not refused: {other}"),
    }
}

#[test]
fn the_view_counts_before_the_length_and_the_epoch_before_both() {
    assert_eq!(kept(&[survivor(0, 257, 90), survivor(1, 512, 70)], None), (1, 70));
    assert_eq!(kept(&[survivor(0, 257, 90), survivor(1, 257, 91)], None), (1, 91));
    let later = Inspection { epoch: 2, configuration: Some(members(2, &[0, 1, 2, 3, 4])), ..survivor(0, 257, 60) };
    assert_eq!(kept(&[later, survivor(1, 512, 90)], None), (0, 60));
}

#[test]
fn of_equal_logs_the_one_is_kept_whose_database_has_applied_most() {
    let mut behind = survivor(0, 257, 90);
    behind.database.as_mut().expect("there is one").applied = 40;
    assert_eq!(kept(&[behind.clone(), survivor(1, 257, 90)], None), (1, 90));
    assert_eq!(kept(&[behind, survivor(1, 257, 90)], Some(0)), (0, 90), "it loses nothing");
}

#[test]
fn survivors_of_different_clusters_are_refused() {
    let other = Inspection { cluster_id: "08".to_string(), ..survivor(1, 257, 90) };
    let text = refusal(&[survivor(0, 257, 90), other], None);
    assert!(text.contains("0.json is of cluster 07, and 1.json of cluster 08"), "{text}");
}

#[test]
fn a_survivor_is_named_once() {
    let error = planned(&[survivor(0, 257, 90), survivor(0, 257, 95)], None).expect_err("twice the same disk");
    assert!(matches!(&error, RecoverError::Input(text) if text.contains("of the same disk")), "{error}");
    let error = planned(&[], None).expect_err("nobody");
    assert!(matches!(error, RecoverError::Input(_)), "{error}");
    let error = planned(&[survivor(0, 257, 90)], Some(3)).expect_err("not inspected");
    assert!(error.to_string().contains("--keep 3: the inspections are of replicas 0"), "{error}");
}

#[test]
fn a_majority_of_the_voters_has_nothing_to_recover() {
    let three = [0, 1, 2].map(|id| survivor(id, 257, 90));
    let text = refusal(&three, None);
    assert!(text.contains("replicas 0, 1, 2 are a majority of the voters 0, 1, 2, 3, 4 of epoch 1"), "{text}");
    assert!(text.contains("Start them"), "{text}");
    let text = refusal(&three, Some(1));
    assert!(text.contains("nothing has to be recovered"), "no flag changes that: {text}");
    kept(&three[..2], None);
    let alone = with_voters(survivor(0, 257, 90), &[0]);
    assert!(refusal(&[alone], None).contains("nothing has to be recovered"));
}

#[test]
fn a_replaced_disk_does_not_count_for_the_majority() {
    let replaced = Inspection { disk_id: "another".to_string(), ..survivor(2, 257, 95) };
    // It follows without a vote, but what it holds counts.
    assert_eq!(kept(&[survivor(0, 257, 90), survivor(1, 257, 90), replaced], None), (2, 95));
}

#[test]
fn a_majority_that_lacks_what_an_election_needs_is_recovered() {
    let damaged = |id| with_voters(losing(survivor(id, 257, 90), &[(60, 61)]), &[0, 1, 2]);
    let text = refusal(&[damaged(0), damaged(1)], None);
    assert!(text.contains("entries are lost"), "{text}");
    assert_eq!(kept(&[damaged(0), damaged(1)], Some(1)), (1, 59));
    // No election needs entries that the databases have applied.
    let applied = |id| with_voters(losing(survivor(id, 257, 90), &[(30, 40)]), &[0, 1, 2]);
    assert!(refusal(&[applied(0), applied(1)], None).contains("nothing has to be recovered"));
}

#[test]
fn a_seal_whose_members_are_gone_needs_a_recovery_though_the_present_majority_is_there() {
    let next = Some(members(2, &[0, 3, 4]));
    let alone = with_voters(survivor(0, 257, 90), &[0]);
    let sealed = Inspection { next_configuration: next, ..alone };
    let plan = planned(std::slice::from_ref(&sealed), None).expect("it would enter the epoch, and find nobody there");
    assert_eq!((plan.replica, plan.lost_voters.as_slice()), (0, &[3, 4][..]));
    let growing = Inspection { next_configuration: Some(members(2, &[0])), ..sealed };
    assert!(refusal(&[growing], None).contains("nothing has to be recovered"));
}

#[test]
fn a_choice_that_loses_more_than_it_must_is_refused() {
    let survivors = [survivor(0, 257, 90), survivor(1, 512, 80), survivor(4, 512, 70)];
    // Of seven voters, so that three are no majority.
    let survivors = survivors.map(|survivor| with_voters(survivor, &[0, 1, 2, 3, 4, 5, 6]));
    assert_eq!(kept(&survivors, Some(1)), (1, 80));
    let text = refusal(&survivors, Some(4));
    assert!(text.contains("--keep 4 would lose more than it must: replica 1 holds entries 71 to 80"), "{text}");
    let text = refusal(&survivors, Some(0));
    assert!(text.contains("replica 1 holds the log of view 512 through entry 80"), "{text}");
}

#[test]
fn lost_entries_that_the_database_has_applied_do_no_harm() {
    assert_eq!(kept(&[losing(survivor(0, 257, 90), &[(20, 50)])], None), (0, 90));
}

#[test]
fn lost_entries_behind_the_database_have_to_be_given_up_by_name() {
    let damaged = losing(survivor(0, 257, 90), &[(20, 25), (70, 71), (80, 80)]);
    let text = refusal(std::slice::from_ref(&damaged), None);
    assert!(text.contains("--keep 0: keeps view 257 through entry 69"), "{text}");
    assert!(text.contains("entries 70 to 90 are lost or behind a lost one"), "{text}");
    let plan = planned(&[damaged], Some(0)).expect("it was named");
    assert_eq!((plan.keep_through, plan.log_last), (69, 90));
    let told = plan.consequences.join("\n");
    assert!(told.contains("lost: entries 70 to 90 of the log"), "{told}");
    assert!(!told.contains("certain:"), "nothing is certain then: {told}");
}

#[test]
fn a_whole_log_is_kept_instead_of_an_equal_one_with_a_hole() {
    let damaged = losing(survivor(0, 257, 90), &[(70, 71)]);
    assert_eq!(kept(&[damaged.clone(), survivor(1, 257, 90)], None), (1, 90));
    // A shorter one holds more of it than the damaged one, and still not all.
    let shorter = survivor(1, 257, 85);
    let text = refusal(&[damaged.clone(), shorter.clone()], None);
    assert!(text.contains("--keep 1: keeps view 257 through entry 85"), "{text}");
    assert_eq!(kept(&[damaged.clone(), shorter.clone()], Some(1)), (1, 85));
    let text = refusal(&[damaged, shorter], Some(0));
    assert!(text.contains("replica 1 holds entries 70 to 85 as well"), "{text}");
}

#[test]
fn an_older_view_is_kept_only_by_name_and_with_a_warning() {
    let damaged = losing(survivor(0, 512, 90), &[(51, 51)]);
    let older = survivor(1, 257, 80);
    let plan = planned(&[damaged, older], Some(1)).expect("it was named");
    let told = plan.consequences.join("\n");
    assert!(told.contains("may contradict acknowledged writes: replica 0 has a log of view 512"), "{told}");
    assert!(told.contains("From entry 51 on"), "{told}");
}

#[test]
fn a_log_that_does_not_reach_what_a_survivor_knows_as_chosen_is_not_the_best() {
    // It got a copy of a later view than that of any log here.
    let mut copied = survivor(1, 257, 100);
    (copied.committed, copied.promised) = (100, 768);
    copied.log.first = 101;
    copied.database.as_mut().expect("there is one").applied = 100;
    assert_eq!(kept(&[survivor(0, 512, 90), copied.clone()], None), (1, 100));
    // A longer log of a view before the copy's may have been overruled.
    let text = refusal(&[survivor(0, 512, 120), copied.clone()], None);
    assert!(text.contains("replica 1 knows entries through 100 as chosen"), "{text}");
    assert_eq!(kept(&[survivor(0, 512, 120), copied.clone()], Some(1)), (1, 100));
    // One of the copy's view holds all that was chosen in it.
    copied.promised = 512;
    assert_eq!(kept(&[survivor(0, 512, 120), copied], None), (0, 120));
}

#[test]
fn a_replica_without_a_database_is_not_kept() {
    let mut apart = survivor(0, 512, 90);
    (apart.database, apart.database_problem) = (None, Some("it is damaged".to_string()));
    apart.log.first = 40;
    apart.configuration = None;
    let text = refusal(std::slice::from_ref(&apart), None);
    assert!(text.contains("nobody knows the members of epoch 1"), "{text}");
    let text = refusal(&[apart.clone(), survivor(1, 257, 80)], None);
    assert!(text.contains("replica 0: unusable, its log holds 40 to 90") && text.contains("it is damaged"), "{text}");
    let text = refusal(&[apart.clone(), survivor(1, 257, 80)], Some(0));
    assert!(text.contains("keep another survivor"), "{text}");
    // The log alone suffices if it holds everything.
    apart.log.first = 1;
    assert_eq!(kept(&[apart, survivor(1, 257, 80)], None), (0, 90));
}

#[test]
fn a_plan_says_what_may_be_lost_and_what_may_come_back() {
    let plan = planned(&[survivor(0, 257, 90), survivor(3, 257, 80)], None).expect("there is a plan");
    assert_eq!((plan.committed, plan.applied, plan.log_last), (50, 50, 90));
    assert_eq!((plan.survivors.as_slice(), plan.lost_voters.as_slice()), (&[0, 3][..], &[1, 2, 4][..]));
    let told = plan.consequences.join("\n");
    for part in [
        "kept: replica 0 (disk disk0), its log of view 257 through entry 90",
        "certain: every write that replicas 0, 3 acknowledged",
        "may be lost: entries from 91 on",
        "replicas 1, 2, 4",
        "may come back: entries 51 to 90",
        "TRANSACTION_TOO_OLD",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
    let text = serde_json::to_string(&plan).expect("it serializes");
    assert_eq!(Plan::from_json(&text, "plan.json").expect("read"), plan);
    assert!(Plan::from_json("{}", "plan.json").expect_err("none").to_string().contains("plan.json"));
    let mut known = survivor(0, 257, 50);
    known.log.last = 50;
    let told = planned(&[known], None).expect("there is a plan").consequences.join("\n");
    assert!(!told.contains("may come back") && told.contains("has applied all of it"), "{told}");
}
