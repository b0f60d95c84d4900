//! A converted directory holds everything that it held before, and goes on from there.

use kv_api::{KeyRef, KvDatabase, KvError, ReadAt, TimedWrite};
use kv_store::Durability;

use super::super::content;
use super::*;
use crate::manager::{plan_budget, shared_resources};

#[tokio::test]
async fn everything_is_there_after_each_conversion_and_versions_go_on() {
    let place = Place::new();
    let facts = place.fill().await;

    convert(place.to_replicated());
    let server = place.start_member().await;
    assert_eq!(Facts::of(&database(&server)), facts);
    let cluster = server.database();
    assert_eq!(cluster.read_version().await, Ok(facts.version), "nothing took a version");
    // A repeat of a commit from before has its former result.
    let id_7 = cluster.atomic_commit(commit(repeated(7), "id 7")).await.expect("remembered");
    assert!(id_7.version < facts.version.0, "{id_7:?}");
    let next = cluster.atomic_commit(commit(vec![set(7, "replicated")], "new")).await.expect("committed");
    assert_eq!(next.version, facts.version.0 + 1);
    // Conflicts with writes from before are found.
    let stale = AtomicCommit {
        read_version: OLD.0,
        read_conflicts: vec![KeyRef::new("key 0300"), KeyRef::new("key 0120")],
        ..commit(vec![set(1, "x")], "")
    };
    assert!(matches!(cluster.atomic_commit(stale).await, Err(KvError::Conflict { .. })));
    drop(cluster);
    let (written, before) = (Facts::of(&database(&server)), facts);
    Box::new(server).shutdown().await;

    convert(place.to_standalone());
    let server = place.start_standalone().await;
    assert_eq!(Facts::of(server.database()), written);
    assert_eq!(server.database().state_blob(), Ok(None), "it belongs to no replica any more");
    let value = server.database().get(KeyRef::new("key 0007"), ReadAt::Version(before.version)).await;
    assert_eq!(value, Ok(Some("first".into())), "old versions are readable");
    let id_8 = server.database().atomic_commit(commit(repeated(8), "id 8")).await.expect("remembered");
    assert!(id_8.version < before.version.0);
    let next = server.database().atomic_commit(commit(vec![set(8, "standalone")], "")).await.expect("committed");
    assert_eq!(next.version, written.version.0 + 1);
    let written = Facts::of(server.database());
    Box::new(server).shutdown().await;

    convert(place.to_replicated());
    let server = place.start_member().await;
    assert_eq!(Facts::of(&database(&server)), written);
    Box::new(server).shutdown().await;
}

/// The mutations of commit `id KEY`.
fn repeated(key: u64) -> Vec<Mutation> {
    let in_family = |name: &str| Mutation { column_family: name.into(), ..set(key, "one") };
    vec![set(key, "first"), in_family("fruit"), in_family("gone")]
}

/// The standalone database, opened without a server.
fn open(place: &Place, folder: &str, durability: Durability) -> Arc<TransactionalKvDatabase> {
    let mut config = place.standalone();
    let budget = plan_budget(&mut config).expect("it fits");
    let resources = shared_resources(&config, &budget).expect("valid sizes");
    content::open(&place.root().join(folder), durability, &resources).expect("it opens")
}

#[tokio::test]
async fn time_goes_on_after_a_conversion() {
    let place = Place::new();
    place.fill().await;
    // Months of running, which nobody can wait for.
    let later_us = 1 << 44;
    let standalone = open(&place, "db", Durability::EveryWrite);
    let write = TimedWrite { time_us: later_us, write: LoggedWrite::commit(commit(vec![set(1, "later")], "later")) };
    standalone
        .prepare([&write])
        .expect("decided")
        .commit(kv_store::StateBlob { sequence: 0, blob: Bytes::new() })
        .expect("written");
    standalone.forget_state_blob().expect("written");
    drop(standalone);

    convert(place.to_replicated());
    let server = place.start_member().await;
    server.database().atomic_commit(commit(vec![set(2, "after")], "")).await.expect("committed");
    let replicated_us = database(&server).time_us();
    assert!(replicated_us > later_us, "{replicated_us}: no result is forgotten until time has caught up");
    Box::new(server).shutdown().await;

    convert(place.to_standalone());
    let server = place.start_standalone().await;
    server.database().atomic_commit(commit(vec![set(3, "after")], "")).await.expect("committed");
    assert!(server.database().time_us() > replicated_us);
    Box::new(server).shutdown().await;
}

#[tokio::test]
async fn the_level_of_the_data_stays() {
    let place = Place::new();
    Box::new(place.start_standalone().await).shutdown().await;
    // A database of the first level, as an earlier release has left it.
    std::fs::remove_dir_all(place.root().join("db")).expect("removed");
    drop(open(&place, "db", Durability::EveryWrite));
    convert(place.to_replicated());
    let replica = open(&place, "replica-0/db", Durability::UntilFlush);
    let (sequence, state) = replica.state_blob().expect("readable").expect("written");
    let state = rsml::ReplicatedState::from_bytes(&state).expect("a state");
    assert_eq!((sequence, state.feature_level.0, replica.level()), (rsml::offline::EARLIEST.0, 1, 1));
    drop(replica);
    Box::new(place.start_member().await).shutdown().await;
}

#[tokio::test]
async fn what_only_the_log_holds_is_applied_before_a_replica_becomes_standalone() {
    let place = Place::new();
    place.fill().await;
    convert(place.to_replicated());
    let server = place.start_member().await;
    for key in 0..50 {
        server.database().atomic_commit(commit(vec![set(key, "logged")], "")).await.expect("committed");
    }
    let facts = Facts::of(&database(&server));
    // The database as it was long before: what a crash may leave of it.
    let persisted = database(&server).persisted_sequence().expect("readable");
    assert!(persisted < 50, "{persisted}: it was flushed");
    let copy = place.folder.path().join("copy");
    copy_folder(&place.root(), &copy);
    Box::new(server).shutdown().await;
    std::fs::remove_dir_all(place.root()).expect("removed");
    std::fs::rename(&copy, place.root()).expect("renamed");

    convert(place.to_standalone());
    let server = place.start_standalone().await;
    assert_eq!(Facts::of(server.database()), facts);
    Box::new(server).shutdown().await;
}

/// A copy of the files as they are now. Of those of a database without a log of its own, only what
/// was flushed counts.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("created");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("listed").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_folder(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

/// A new disk cannot come to the rows by the log, which begins with the conversion.
#[tokio::test]
async fn a_new_disk_gets_a_copy_and_never_the_log_alone() {
    let place = Place::new();
    let facts = place.fill().await;
    convert(place.to_replicated());
    let bus = create_shared_message_bus();
    let first = start(load(&place.root(), &entries(2), Some(0)), &bus).await;
    let second = start(load(&place.folder.path().join("other"), &entries(2), Some(1)), &bus).await;
    let replica = &second.local_replicas().replicas()[0].consensus;
    let mut watch = replica.watch();
    watch.wait_for(|role| role.primary.is_some()).await.expect("it finds the primary");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    replica.read_barrier(deadline).await.expect("it has applied everything that was committed");
    // None of it is in a log, since that begins with the conversion.
    assert_eq!(Facts::of(&database(&second)), facts);
    Box::new(second).shutdown().await;
    Box::new(first).shutdown().await;
}
