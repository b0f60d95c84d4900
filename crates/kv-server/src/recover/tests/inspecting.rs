//! Looking at a stopped replica.

use std::fs;

use super::super::*;
use super::survivor::{CLUSTER, Directory, ME, disk, everything};
use crate::data_dir::DataDir;
use crate::mode::Mode;

fn refusal(result: Result<Inspection, RecoverError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn an_inspection_says_what_log_and_database_hold() {
    let directory = Directory::new(40, 25);
    let found = directory.inspection();
    assert_eq!((found.replica, found.cluster_id.as_str()), (ME, CLUSTER.to_string().as_str()));
    assert_eq!(found.disk_id, disk(ME).to_string());
    assert_eq!((found.epoch, found.boot, found.promised, found.accepted_view), (1, 3, 513, 257));
    assert_eq!(found.log, LogExtent { first: 1, last: 40, lost: Vec::new() });
    assert_eq!((found.committed, found.next_configuration.as_ref()), (25, None));
    let database = found.database.as_ref().expect("there is one");
    assert_eq!((database.applied, database.persisted, database.feature_level), (25, 25, 2));
    assert_eq!((database.version, database.rows, database.directory.as_str()), (1 + 23, 24, "db"));
    let members = &found.configuration.as_ref().expect("known").members;
    let voters: Vec<(u32, &str)> = members.iter().map(|m| (m.replica, m.role.as_str())).collect();
    assert_eq!(voters, [(0, "voter"), (1, "voter"), (2, "voter")]);
    let text = serde_json::to_string(&found).expect("it serializes");
    assert_eq!(Inspection::from_json(&text, "2.json").expect("read"), found);
    let error = Inspection::from_json(&text.replace("\"format\":1", "\"format\":9"), "2.json").expect_err("later");
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn an_inspection_changes_nothing() {
    let directory = Directory::new(40, 25);
    // The end of the last group is missing, as after a loss of power: a start would repair that.
    let log = directory.replica().join("wal/0000000000000001.wal");
    let mut bytes = fs::read(&log).expect("read");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it is not empty");
    bytes[end..end + 4096].fill(7);
    fs::write(&log, bytes).expect("written");
    let before = everything(&directory.root());
    let _unused = inspect(&directory.root(), None);
    assert!(before == everything(&directory.root()), "something has changed");

    for (generation, applied) in [(0, 0), (0, 25), (3, 25)] {
        let directory = Directory::of(&[ME], generation, 40, applied);
        directory.damage(30);
        let before = everything(&directory.root());
        let found = directory.inspection();
        assert_eq!((found.log.last, found.log.lost.as_slice(), found.applied()), (40, &[(30, 30)][..], applied));
        assert_eq!(directory.inspection(), found);
        assert!(before == everything(&directory.root()), "something has changed");
    }
}

#[test]
fn a_log_that_is_refused_is_described_with_the_file_the_fault_and_the_way_on() {
    type Damage = fn(&mut Vec<u8>, usize);
    let faults: [(&str, Damage); 2] = [
        ("the file is shorter than it was when created", |bytes, end| bytes.truncate(end + 1)),
        ("is neither blank nor a group that belongs there", |bytes, end| {
            bytes[end.next_multiple_of(4096)..][..512].fill(7)
        }),
    ];
    for (fault, damage) in faults {
        let directory = Directory::new(40, 25);
        let log = directory.replica().join("wal/0000000000000001.wal");
        let mut bytes = fs::read(&log).expect("read");
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("it is not empty");
        damage(&mut bytes, end);
        fs::write(&log, bytes).expect("written");
        let before = everything(&directory.root());
        let text = refusal(inspect(&directory.root(), None));
        assert!(before == everything(&directory.root()), "something has changed");
        assert!(text.contains(&format!("{}: ", log.display())) && text.contains(fault), "{text}");
        assert!(text.contains(": 0000000000000001.wal to 000000000000000"), "{text}");
        assert!(text.contains("db, with everything through entry 25: version 24, 24 rows"), "{text}");
        assert!(text.contains("inspect them, and make the plan without this one"), "{text}");
        fs::remove_dir_all(directory.replica().join("db")).expect("removed");
        assert!(refusal(inspect(&directory.root(), None)).contains("- no database"));
    }
}

#[test]
fn a_directory_in_use_is_not_inspected() {
    let directory = Directory::new(5, 5);
    let server = DataDir::open(&directory.root(), Mode::Replicated, &[ME]).expect("free");
    let text = refusal(inspect(&directory.root(), None));
    assert!(text.contains("in use by another process"), "{text}");
    drop(server);
    // A copy of a directory need not have the lock file.
    fs::remove_file(directory.root().join("lock")).expect("removed");
    directory.inspection();
    assert!(!directory.root().join("lock").exists());
}

#[test]
fn a_wrong_directory_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = refusal(inspect(folder.path(), None));
    assert!(text.contains("is no data directory"), "{text}");
    let text = refusal(inspect(&folder.path().join("missing"), None));
    assert!(text.contains("is no data directory"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0, "nothing was created");

    let standalone = folder.path().join("standalone");
    DataDir::open(&standalone, Mode::Standalone, &[]).and_then(|data| data.claim()).expect("claimed");
    let text = refusal(inspect(&standalone, None));
    assert!(text.contains("standalone server"), "{text}");

    let unborn = folder.path().join("unborn");
    DataDir::open(&unborn, Mode::Replicated, &[1]).and_then(|data| data.claim()).expect("claimed");
    let text = refusal(inspect(&unborn, None));
    assert!(text.contains("holds nothing of a cluster"), "{text}");
}

#[test]
fn the_replica_is_named_where_there_are_several() {
    let directory = Directory::of(&[0, 1, ME], 0, 5, 5);
    let text = refusal(inspect(&directory.root(), None));
    assert!(text.contains("holds replicas 0, 1, 2") && text.contains("--replica N"), "{text}");
    let text = refusal(inspect(&directory.root(), Some(7)));
    assert!(text.contains("no replica 7"), "{text}");
    assert_eq!(inspect(&directory.root(), Some(ME)).expect("inspected").log.last, 5);
}

#[test]
fn a_database_that_cannot_be_used_is_none() {
    let directory = Directory::new(30, 20);
    let marker = directory.replica().join("damaged");
    fs::write(&marker, "{\"generation\": 0, \"reason\": \"a block\"}").expect("written");
    let found = directory.inspection();
    assert_eq!((found.database, found.committed), (None, 1));
    assert_eq!(found.database_problem.expect("told"), "the database was found to be damaged: a block");
    fs::write(&marker, "{\"generation\": 4, \"reason\": \"of a former one\"}").expect("written");
    assert_eq!(directory.inspection().applied(), 20);
    fs::remove_file(&marker).expect("removed");
    fs::remove_dir_all(directory.replica().join("db")).expect("removed");
    let found = directory.inspection();
    assert!(found.database_problem.is_some_and(|problem| problem.contains("there is no database")));
    assert_eq!(found.log.last, 30);
}
