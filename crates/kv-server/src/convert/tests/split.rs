//! Several replicas in one process, and one process for each afterwards.

use kv_api::KvDatabase;

use super::*;
use crate::data_dir::{DataDir, DataDirError};
use crate::mode::Mode;

async fn three_in_one(place: &Place) -> ReplicatedServerManager {
    let mut config = load(&place.root(), &entries(3), Some(0));
    config.replication.node_id = None;
    start(config, &create_shared_message_bus()).await
}

async fn fill(place: &Place) {
    let server = three_in_one(place).await;
    for key in 0..20 {
        server.database().atomic_commit(commit(vec![set(key, "kept")], "")).await.expect("committed");
    }
    Box::new(server).shutdown().await;
}

fn opens(root: &Path, replicas: &[u32]) -> bool {
    root.exists() && DataDir::open(root, Mode::Replicated, replicas).is_ok()
}

/// Starts one server for each replica, and looks whether all are voters and hold the rows.
async fn serve_apart(place: &Place) {
    let bus = create_shared_message_bus();
    let mut servers = Vec::new();
    for id in 0..3 {
        let root = place.out().join(format!("replica-{id}"));
        servers.push(start(load(&root, &entries(3), Some(id)), &bus).await);
    }
    let cluster = servers[1].database();
    let next = cluster.atomic_commit(commit(vec![set(20, "new")], "")).await.expect("committed");
    assert_eq!(next.version, 22, "20 commits came before");
    for (id, server) in servers.iter().enumerate() {
        let replica = &server.local_replicas().replicas()[0];
        assert!(replica.consensus.status().core.is_voter, "replica {id} is another disk");
        assert_eq!(server.database().read_version().await, Ok(Version(next.version)));
        assert_eq!(database(server).hash_rows("", b"", Version(next.version), 100).expect("readable").count, 21);
    }
    for server in servers {
        Box::new(server).shutdown().await;
    }
}

#[tokio::test]
async fn three_replicas_in_one_directory_get_one_each() {
    let place = Place::new();
    fill(&place).await;
    convert(place.split());
    serve_apart(&place).await;
    let error = DataDir::open(&place.root(), Mode::Replicated, &[0, 1, 2]).expect_err("it is split");
    assert!(matches!(error, DataDirError::Split { .. }), "{error}");
    assert!(planned(place.split()).is_done(), "the same again is a success");
    assert!(refusal(place.to_standalone()).contains(&place.out().display().to_string()), "it says where they are");
    let elsewhere = place.folder.path().join("elsewhere");
    let other = Conversion::Split { data_dir: place.root(), replicas: vec![0, 1, 2], out: elsewhere };
    assert!(refusal(other).contains("give that as --out"));
}

/// After any step, each replica can be opened in one place at most: in the old directory with all
/// others, or in its own. The same split again finishes the rest.
#[tokio::test]
async fn a_split_may_end_after_any_step() {
    let mut steps = 1;
    loop {
        let place = Place::new();
        fill(&place).await;
        if steps > planned(place.split()).steps.len() {
            break;
        }
        interrupt(place.split(), steps);
        let is_whole = opens(&place.root(), &[0, 1, 2]);
        for id in 0..3 {
            let places = [place.out().join(format!("replica-{id}")), place.root().join(format!("split-{id}"))];
            let apart = places.iter().filter(|root| opens(root, &[id])).count();
            assert!(apart + usize::from(is_whole) <= 1, "after {steps} steps replica {id} is in {apart} places");
            let old = place.root();
            let data = places.iter().chain([&old]).map(|root| root.join(format!("replica-{id}/wal")));
            assert_eq!(data.filter(|wal| wal.exists()).count(), 1, "after {steps} steps");
        }
        convert(place.split());
        serve_apart(&place).await;
        steps += 1;
    }
    assert_eq!(steps, 10, "lock, note, turn, and two for each replica");
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let place = Place::new();
    fill(&place).await;
    let before = place.names();
    let with =
        |replicas: &[u32], out: PathBuf| Conversion::Split { data_dir: place.root(), replicas: replicas.to_vec(), out };
    assert!(refusal(with(&[0, 1], place.out())).contains("give --split 0,1,2"));
    let taken = place.folder.path().join("taken");
    std::fs::create_dir_all(taken.join("replica-1/precious")).expect("created");
    assert!(refusal(with(&[0, 1, 2], taken)).contains("is not empty"));
    let shared_memory = Path::new("/dev/shm");
    if shared_memory.exists() && !place.root().starts_with(shared_memory) {
        assert!(refusal(with(&[0, 1, 2], shared_memory.join("never"))).contains("another file system"));
    }
    let server = three_in_one(&place).await;
    assert!(refusal(place.split()).contains("in use by another process"));
    Box::new(server).shutdown().await;
    assert!(before.iter().filter(|path| path.is_dir()).all(|path| path.exists()));
    assert!(!place.root().join("convert.json").exists() && !place.out().exists());
}
