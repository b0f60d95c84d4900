//! Making a survivor the only member of a new cluster.

use std::fs;

use bytes::Bytes;
use kv_api::KvError;
use rsml::{ReplicaId, ReplicatedState, Sequence, Storage};

use super::super::*;
use super::survivor::{CLUSTER, Directory, FIRST_WRITE, ME, disk, everything, get};

const BUMP: u64 = 1_000_000;
const STEPS: usize = 10;

fn apply(directory: &Directory, plan: &Plan) -> Recovered {
    Recovery::open(&directory.root(), plan, BUMP).expect("opened").run().expect("done")
}

fn refusal(directory: &Directory, plan: &Plan) -> String {
    match Recovery::open(&directory.root(), plan, BUMP) {
        Err(RecoverError::Refused(text)) => text,
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Checks that the directory is that of a one-member cluster with everything through `through`.
fn check_recovered(directory: &Directory, recovered: &Recovered, through: u64) {
    assert_eq!(directory.open_as_server(&[ME]), Ok(Some(recovered.cluster_id.clone())));
    assert_ne!(recovered.cluster_id, CLUSTER.to_string());
    let mut log = directory.open_log();
    let found = log.recover().expect("recovered");
    drop(log);
    let hard = found.hard_state.expect("written");
    assert_eq!((hard.cluster_id.to_string(), hard.generation), (recovered.cluster_id.clone(), 0));
    assert_ne!(hard.disk_id, disk(ME), "the former disk voted");
    assert_eq!((found.first, found.last), (Sequence(through + 1), Sequence(through)));
    directory.with_database(|database| {
        let (sequence, blob) = database.state_blob().expect("read").expect("there is one");
        let state = ReplicatedState::from_bytes(&blob).expect("a state");
        assert_eq!((sequence, state.cluster_id), (through, hard.cluster_id));
        assert_eq!(state.configuration.voters().collect::<Vec<_>>(), [(ReplicaId(ME as u8), hard.disk_id)]);
        assert!(state.sessions.is_empty());
        let before = 1 + through + 1 - FIRST_WRITE;
        let begins = before + BUMP;
        assert_eq!(database.applied_version().0, begins);
        assert_eq!(database.statistics_now().total_keys, through + 1 - FIRST_WRITE + 1);
        for number in FIRST_WRITE..=through {
            let value = get(database, &format!("key{number}"), begins).expect("readable");
            assert_eq!(value, Some(Bytes::from(number.to_string())), "entry {number}");
        }
        assert_eq!(get(database, &format!("key{}", through + 1), begins), Ok(None));
        assert_eq!(get(database, "newest", begins), Ok(Some(Bytes::from(through.to_string()))));
        // A version that was kept, and one that only lost replicas can have given out.
        for former in [before, before + 17] {
            let old = get(database, "newest", former);
            assert_eq!(old, Err(KvError::TransactionTooOld { read_version: former, oldest: begins }));
        }
    });
}

#[test]
fn a_recovered_directory_is_that_of_a_cluster_of_one_with_all_entries() {
    for (generation, applied) in [(0, 0), (0, 25), (0, 40), (3, 25)] {
        let directory = Directory::of(&[ME], generation, 40, applied);
        let recovered = apply(&directory, &directory.plan());
        assert_eq!(recovered.replica, ME);
        check_recovered(&directory, &recovered, 40);
        assert!(!directory.replica().join("recovering").exists());
    }
}

#[test]
fn what_was_there_before_is_kept_as_it_was() {
    let directory = Directory::new(40, 25);
    let before = everything(&directory.root());
    let recovered = apply(&directory, &directory.plan());
    let after = everything(&directory.root());
    let content = |all: &std::collections::BTreeMap<_, (Option<Vec<u8>>, _)>, path: &std::path::Path| {
        all.get(path).and_then(|(content, _)| content.clone())
    };
    let root = directory.root();
    for (path, (old, _)) in before.iter().filter(|(_, (content, _))| content.is_some()) {
        let name = path.strip_prefix(&root).expect("below the root").display().to_string();
        let kept = name.replace("replica-2/wal/", "replica-2/wal.before-recovery-1/");
        let kept = kept.replace("replica-2/db/", "replica-2/db.before-recovery-1/");
        let kept = if name == "identity.json" { "identity.json.before-recovery-1".to_string() } else { kept };
        assert!(content(&after, &root.join(&kept)) == *old, "{name} is not kept as {kept}");
    }
    assert_eq!(recovered.aside.len(), 3);
    // Going back is three renamings.
    for (name, kept) in [("wal", "wal.before-recovery-1"), ("db", "db.before-recovery-1")] {
        fs::remove_dir_all(directory.replica().join(name)).expect("removed");
        fs::rename(directory.replica().join(kept), directory.replica().join(name)).expect("renamed");
    }
    fs::rename(root.join("identity.json.before-recovery-1"), root.join("identity.json")).expect("renamed");
    assert_eq!(directory.open_as_server(&[ME]), Ok(Some(CLUSTER.to_string())));
    assert_eq!(directory.inspection().applied(), 25);
}

/// Performs the first `done` steps, as if the process had been killed after them.
fn interrupt_after(directory: &Directory, plan: &Plan, done: usize) {
    let mut recovery = Recovery::open(&directory.root(), plan, BUMP).expect("opened");
    for _ in 0..done {
        assert!(recovery.step().expect("done").is_some());
    }
}

#[test]
fn a_recovery_that_is_killed_after_any_step_is_finished_by_repeating_it() {
    for generation in [0, 3] {
        for done in 0..=STEPS {
            let directory = Directory::of(&[ME], generation, 40, 25);
            let plan = directory.plan();
            interrupt_after(&directory, &plan, done);
            match done {
                0 => assert_eq!(directory.open_as_server(&[ME]), Ok(Some(CLUSTER.to_string()))),
                STEPS => assert_ne!(directory.open_as_server(&[ME]), Ok(Some(CLUSTER.to_string()))),
                _ => {
                    let text = directory.open_as_server(&[ME]).expect_err("neither form may be opened");
                    assert!(text.contains("synodkv recover apply"), "after {done}: {text}");
                    let text = inspect(&directory.root(), None).expect_err("not as it was").to_string();
                    assert!(text.contains("has begun and not ended"), "after {done}: {text}");
                    // A second interruption, one step later.
                    interrupt_after(&directory, &plan, 1);
                }
            }
            // Also after the last one: the command may be killed before it has said that it is done.
            let recovered = apply(&directory, &plan);
            check_recovered(&directory, &recovered, 40);
            let before = everything(&directory.root());
            assert_eq!(apply(&directory, &plan), recovered);
            assert!(before == everything(&directory.root()), "a repetition changes nothing");
        }
    }
}

#[test]
fn half_built_files_are_not_relied_on() {
    for done in 1..=5 {
        let directory = Directory::new(40, 25);
        let plan = directory.plan();
        interrupt_after(&directory, &plan, done);
        let building = directory.replica().join("recovering");
        fs::create_dir_all(building.join("db")).expect("created");
        fs::create_dir_all(building.join("wal")).expect("created");
        fs::write(building.join("db/CURRENT"), "MANIFEST-000099\n").expect("written");
        fs::write(building.join("wal/0000000000000001.wal"), [0; 4096]).expect("written");
        check_recovered(&directory, &apply(&directory, &plan), 40);
    }
}

#[test]
fn older_programs_do_not_open_a_directory_that_is_being_recovered() {
    let directory = Directory::new(10, 10);
    let plan = directory.plan();
    let format = || {
        let text = fs::read_to_string(directory.root().join("identity.json")).expect("read");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["format"].clone()
    };
    interrupt_after(&directory, &plan, 1);
    assert_eq!(format(), 2);
    apply(&directory, &plan);
    assert_eq!(format(), 1);
}

#[test]
fn a_recovery_that_has_begun_is_not_mixed_with_another_one() {
    let directory = Directory::new(40, 25);
    let plan = directory.plan();
    interrupt_after(&directory, &plan, 3);
    let other = Plan { keep_through: 30, ..plan.clone() };
    assert!(refusal(&directory, &other).contains("has begun with another plan"));
    match Recovery::open(&directory.root(), &plan, BUMP + 1) {
        Err(RecoverError::Refused(text)) => assert!(text.contains("another --bump-versions (1000000)"), "{text}"),
        _ => panic!("versions would be skipped twice"),
    }
    check_recovered(&directory, &apply(&directory, &plan), 40);
}

#[test]
fn a_plan_is_applied_only_to_the_replica_as_it_was_inspected() {
    let directory = Directory::new(40, 25);
    let plan = directory.plan();
    let before = everything(&directory.root());
    let foreign = Plan { cluster_id: "00".to_string(), ..plan.clone() };
    assert!(refusal(&directory, &foreign).contains("the plan is about cluster 00"));
    let other_disk = Plan { disk_id: "00".to_string(), ..plan.clone() };
    assert!(refusal(&directory, &other_disk).contains("the plan keeps disk 00"));
    let longer = Plan { keep_through: 41, ..plan.clone() };
    let started = [Plan { boot: 2, ..plan.clone() }, Plan { log_last: 39, ..plan.clone() }, longer];
    for changed in started.into_iter().chain([Plan { applied: 24, ..plan.clone() }]) {
        let text = refusal(&directory, &changed);
        assert!(text.contains("has changed since it was inspected"), "{text}");
    }
    assert!(before == everything(&directory.root()), "a refusal changes nothing");
    apply(&directory, &plan);
    assert!(refusal(&directory, &Plan { keep_through: 39, ..plan }).contains("was recovered already"));
}

#[test]
fn a_dry_run_names_every_step_and_changes_nothing() {
    let directory = Directory::new(40, 25);
    let plan = directory.plan();
    let before = everything(&directory.root());
    let steps = Recovery::open(&directory.root(), &plan, BUMP).expect("opened").steps();
    assert_eq!(steps.len(), STEPS);
    assert!(steps[2].contains("through 40"), "{steps:?}");
    assert!(before == everything(&directory.root()), "something has changed");
    interrupt_after(&directory, &plan, 7);
    let rest = Recovery::open(&directory.root(), &plan, BUMP).expect("opened").steps();
    assert!(rest.len() < STEPS && rest.last() == steps.last(), "{rest:?}");
}

#[test]
fn entries_behind_a_lost_one_are_left_out_if_that_was_accepted() {
    let directory = Directory::new(40, 25);
    directory.damage(33);
    let survivors = [("2.json".to_string(), directory.inspection())];
    assert!(make_plan(&survivors, None).is_err());
    let plan = make_plan(&survivors, Some(ME)).expect("it was named");
    assert_eq!(plan.keep_through, 32);
    check_recovered(&directory, &apply(&directory, &plan), 32);
}

#[test]
fn a_database_that_is_damaged_or_gone_is_built_from_a_log_that_holds_everything() {
    let marked = Directory::new(40, 25);
    fs::write(marked.replica().join("damaged"), "{\"generation\": 0, \"reason\": \"a block\"}").expect("written");
    let gone = Directory::new(40, 25);
    fs::remove_dir_all(gone.replica().join("db")).expect("removed");
    for directory in [marked, gone] {
        check_recovered(&directory, &apply(&directory, &directory.plan()), 40);
        assert!(!directory.replica().join("damaged").exists(), "it would be about the new database");
    }
}

#[test]
fn other_replicas_of_the_process_have_to_be_moved_away_first() {
    let directory = Directory::of(&[0, 1, ME], 0, 40, 25);
    fs::create_dir_all(directory.root().join("replica-1/wal")).expect("created");
    let found = inspect(&directory.root(), Some(ME)).expect("inspected");
    let plan = make_plan(&[("2.json".to_string(), found)], None).expect("planned");
    let text = refusal(&directory, &plan);
    assert!(text.contains("replica-1 would stay a member of the former cluster"), "{text}");
    fs::remove_dir_all(directory.root().join("replica-1")).expect("removed");
    let recovered = apply(&directory, &plan);
    assert_eq!(directory.open_as_server(&[0, 1, ME]), Ok(Some(recovered.cluster_id)));
}

#[test]
fn a_second_recovery_keeps_what_the_first_one_kept() {
    let directory = Directory::new(40, 25);
    apply(&directory, &directory.plan());
    let kept = |number: u32| {
        ["wal", "db"].map(|name| everything(&directory.replica().join(format!("{name}.before-recovery-{number}"))))
    };
    let first = kept(1);
    let found = directory.inspection();
    let refused = make_plan(&[("2.json".to_string(), found.clone())], None).expect_err("it can elect itself");
    assert!(refused.to_string().contains("nothing has to be recovered"), "{refused}");
    // As if the cluster had grown, and lost its others again.
    let plan = Plan {
        cluster_id: found.cluster_id.clone(),
        disk_id: found.disk_id.clone(),
        boot: found.boot,
        promised: found.promised,
        accepted_view: found.accepted_view,
        log_last: found.log.last,
        keep_through: found.log.last,
        applied: found.applied(),
        ..Directory::new(5, 5).plan()
    };
    let recovered = apply(&directory, &plan);
    assert_ne!(recovered.cluster_id, found.cluster_id);
    assert!(recovered.aside.iter().all(|path| path.display().to_string().ends_with("before-recovery-2")));
    assert!(kept(1) == first, "the first recovery's files have changed");
    assert_eq!(kept(2).map(|files| files.len() > 1), [true, true]);
    directory.with_database(|database| assert_eq!(database.applied_version().0, 39 + 2 * BUMP));
}
