//! Users, roles and tokens in a database: changed by writes, stored with them, and decisive for the
//! writes after them.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kv_api::access::{AccessCommand, AddUser, DisableUser, Policy, TokenRecord, WriteAuthority};
use kv_api::{CommitVerdict, FamilyChange, KvError, LoggedWrite, TimedWrite};
use kv_store::{Durability, RevisionBoard, StateBlob, StoreOptions, TransactionalKvDatabase};
use support::{commit, place, set};

fn options() -> StoreOptions {
    StoreOptions { collect_every: None, ..StoreOptions::replicated() }
}

/// Applies the writes as one batch at level 2.
fn apply(database: &TransactionalKvDatabase, writes: &[LoggedWrite]) -> Vec<CommitVerdict> {
    let writes: Vec<TimedWrite> = writes.iter().map(|write| TimedWrite { time_us: 0, write: write.clone() }).collect();
    let sequence = database.state_blob().unwrap().map_or(0, |(sequence, _)| sequence) + 1;
    let blob = StateBlob { sequence, blob: "state".into() };
    database.prepare_at(&writes, 2).unwrap().commit(blob).unwrap()
}

fn change(command: AccessCommand) -> LoggedWrite {
    LoggedWrite::access(command.into(), 1_700_000_000_000_000).on_behalf_of(Some(WriteAuthority::server()))
}

fn enable() -> LoggedWrite {
    let token = TokenRecord { id: 7, sha256: Bytes::from(vec![1; 32]), ..TokenRecord::default() };
    change(AccessCommand::Enable(token))
}

fn add(name: &str) -> LoggedWrite {
    change(AccessCommand::AddUser(AddUser { name: name.into(), roles: vec!["writer".into()] }))
}

fn shut_out(name: &str) -> LoggedWrite {
    change(AccessCommand::DisableUser(DisableUser { name: name.into(), disabled: true }))
}

fn write_of(user: &str, revision: u64) -> LoggedWrite {
    let authority = WriteAuthority { user: user.into(), revision, ..WriteAuthority::default() };
    LoggedWrite::commit(commit([set("k", user)])).on_behalf_of(Some(authority))
}

#[test]
fn a_change_takes_a_version_and_is_there_after_a_restart() {
    for mut place in place::all(Durability::EveryWrite) {
        let database = place.open_with(options());
        assert_eq!((database.policy().as_ref(), database.enabled_revision()), (&Policy::default(), 0));
        let verdicts = apply(&database, &[enable(), add("ann")]);
        assert_eq!(verdicts.iter().map(|verdict| verdict.as_ref().unwrap().version).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((database.applied_version().0, database.enabled_revision()), (3, 2));
        let policy = database.policy();
        assert!(policy.enabled && policy.users.contains_key("ann"));
        assert_eq!(policy.tokens[&7].created_us, 1_700_000_000_000_000, "the time is that of the write");
        place.crash(database);
        let again = place.open_with(options());
        assert_eq!((again.policy(), again.enabled_revision()), (policy, 2));
    }
}

#[test]
fn a_board_shows_the_revision_of_the_database_that_came_last() {
    for (place, other) in place::all(Durability::EveryWrite).into_iter().zip(place::all(Durability::EveryWrite)) {
        let (database, board) = (place.open_with(options()), Arc::<RevisionBoard>::default());
        let shown = || board.load(Ordering::Acquire);
        database.show_revision_on(board.clone());
        assert_eq!(shown(), 0);
        apply(&database, &[enable()]);
        assert_eq!(shown(), 1);
        let copy = other.open_with(options());
        apply(&copy, &[enable(), add("ann")]);
        copy.show_revision_on(board.clone());
        assert_eq!(shown(), 2);
        apply(&copy, &[shut_out("ann")]);
        assert_eq!((shown(), copy.enabled_revision()), (3, 3));
    }
}

#[test]
fn a_refused_change_changes_nothing() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(options());
        apply(&database, &[enable()]);
        let before = (database.policy(), database.applied_version());
        let verdict = apply(&database, &[shut_out("nobody")]).remove(0);
        assert_eq!(verdict, Err(KvError::InvalidOperation("there is no user 'nobody'".into())));
        assert_eq!((database.policy(), database.applied_version()), before);
    }
}

#[test]
fn a_write_is_refused_once_its_authority_has_ended_wherever_batches_begin() {
    for is_one_batch in [true, false] {
        for place in place::all(Durability::EveryWrite) {
            let database = place.open_with(options());
            let writes = [
                enable(),
                add("ann"),
                add("eve"),
                write_of("eve", 3),
                shut_out("eve"),
                write_of("eve", 3),
                write_of("ann", 3),
            ];
            let verdicts: Vec<CommitVerdict> = match is_one_batch {
                true => apply(&database, &writes),
                false => writes.iter().map(|write| apply(&database, std::slice::from_ref(write)).remove(0)).collect(),
            };
            let succeeded: Vec<bool> = verdicts.iter().map(Result::is_ok).collect();
            assert_eq!(succeeded, [true, true, true, true, true, false, true]);
            let Err(KvError::Forbidden(text)) = &verdicts[5] else { panic!("{:?}", verdicts[5]) };
            assert!(text.contains("'eve'"), "{text}");
        }
    }
}

#[test]
fn a_refused_write_leaves_no_trace() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(options());
        apply(&database, &[enable(), add("eve"), shut_out("eve")]);
        let version = database.applied_version();
        let by_eve = |write: LoggedWrite| write.on_behalf_of(write_of("eve", 2).authority);
        let creating = LoggedWrite { creates: vec!["listed".into()], ..write_of("eve", 2) };
        let family = by_eve(LoggedWrite::family(FamilyChange { name: "made".into(), drop: false }));
        let access = by_eve(add("friend"));
        for verdict in apply(&database, &[creating, family, access]) {
            assert!(matches!(verdict, Err(KvError::Forbidden(_))), "{verdict:?}");
        }
        assert_eq!(database.applied_version(), version);
        assert!(database.column_families().is_empty());
        assert!(!database.policy().users.contains_key("friend"));
    }
}

#[test]
fn a_repeat_of_a_commit_that_has_succeeded_gets_its_result_and_a_refusal_forgets_none() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(options());
        let once = |id: &'static str| {
            let mut write = write_of("eve", 2);
            write.commit.as_mut().unwrap().idempotency_id = id.into();
            write
        };
        let first = apply(&database, &[enable(), add("eve"), once("id")]).remove(2).unwrap();
        apply(&database, &[shut_out("eve")]);
        let mut finishing = write_of("eve", 2);
        finishing.commit.as_mut().unwrap().finished_ids = vec!["id".into()];
        let verdicts = apply(&database, &[finishing, once("id"), once("another")]);
        assert!(matches!(verdicts[0], Err(KvError::Forbidden(_))));
        assert_eq!(verdicts[1], Ok(first));
        assert!(matches!(verdicts[2], Err(KvError::Forbidden(_))));
    }
}

#[test]
fn a_write_that_nobody_vouches_for_is_refused_while_the_policy_is_enabled_and_only_then() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(options());
        let plain = LoggedWrite::commit(commit([set("k", "v")]));
        let disable = change(AccessCommand::Disable(true));
        let verdicts = apply(&database, &[plain.clone(), enable(), plain.clone(), disable, plain]);
        assert!(matches!(verdicts[2], Err(KvError::Unauthenticated(_))), "{:?}", verdicts[2]);
        assert!(verdicts[1].is_ok() && verdicts[4].is_ok());
    }
}

#[test]
fn a_copy_of_a_database_has_the_policy() {
    for home in place::homes() {
        let database = home.open();
        apply(&database, &[enable(), add("ann")]);
        let mut copy = database.copy().unwrap();
        let other = home.another();
        let mut install = other.begin_install();
        install.write(&copy.read(0, copy.total_bytes() as usize).unwrap()).unwrap();
        let (copied, _) = install.finish().unwrap();
        assert_eq!((copied.policy(), copied.level()), (database.policy(), 2));
    }
}
