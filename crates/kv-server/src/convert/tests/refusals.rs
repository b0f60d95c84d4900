//! What is refused, and leaves everything as it was.

use super::*;

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let place = Place::new();
    let server = place.start_standalone().await;
    assert!(refusal(place.to_replicated()).contains("in use by another process"));
    Box::new(server).shutdown().await;
    convert(place.to_replicated());
    let server = place.start_member().await;
    assert!(refusal(place.to_standalone()).contains("in use by another process"));
    // Nothing is left to do, so nothing is refused.
    assert!(planned(place.to_replicated()).is_done());
    Box::new(server).shutdown().await;
}

#[tokio::test]
async fn a_directory_that_is_none_of_a_server_is_refused() {
    let place = Place::new();
    assert!(refusal(place.to_replicated()).contains("does not exist"));
    assert!(refusal(place.to_standalone()).contains("does not exist"));
    assert!(refusal(place.split()).contains("does not exist"));
    assert!(!place.root().exists(), "a refusal creates nothing");
    std::fs::create_dir(place.root()).expect("created");
    std::fs::write(place.root().join("thesis.tex"), "x").expect("written");
    assert!(refusal(place.to_replicated()).contains("holds no data of this program"));
    assert_eq!(place.names().len(), 1);
}

#[tokio::test]
async fn a_configuration_that_fits_nothing_is_refused() {
    let place = Place::new();
    place.fill().await;
    let with = |replicas: &str, id: Option<u32>| {
        let mut config = load(&place.root(), replicas, id);
        config.replication.node_id = id;
        Conversion::ToReplicated(Box::new(config))
    };
    assert!(refusal(with(&entries(3), None)).contains("--node-id"));
    let mut unlisted = place.member();
    unlisted.replication.is_listed = false;
    assert!(refusal(Conversion::ToReplicated(Box::new(unlisted))).contains("lists no replicas"));
    let mut in_memory = place.member();
    in_memory.storage.engine = kv_store::EngineKind::Memory;
    assert!(refusal(Conversion::ToReplicated(Box::new(in_memory))).contains("storage.engine"));
    let mut full = place.member();
    full.storage.min_free_mb = 1 << 30;
    assert!(refusal(Conversion::ToReplicated(Box::new(full))).contains("make space"));
}

#[tokio::test]
async fn what_no_conversion_has_left_is_never_removed() {
    let place = Place::new();
    place.fill().await;
    let theirs = place.root().join("replica-0");
    std::fs::create_dir(&theirs).expect("created");
    std::fs::write(theirs.join("precious"), "x").expect("written");
    assert!(refusal(place.to_replicated()).contains("no conversion has left it there"));
    assert!(theirs.join("precious").exists());
    // Nor what another conversion than that of this replica has left.
    super::super::note::Note::Replica(1).write(&place.root()).expect("written");
    assert!(refusal(place.to_replicated()).contains("no conversion has left it there"));
    assert!(theirs.join("precious").exists());
}

#[tokio::test]
async fn data_of_another_replica_is_refused() {
    let place = Place::new();
    place.fill().await;
    convert(place.to_replicated());
    let other = Conversion::ToReplicated(Box::new(load(&place.root(), &entries(2), Some(1))));
    assert!(refusal(other).contains("belongs to replica 0 in replicated mode"));
    let of_two = Conversion::ToStandalone(Box::new(load(&place.root(), &entries(2), Some(0))));
    assert!(refusal(of_two).contains("lists the replicas 0, 1"));
}

#[tokio::test]
async fn several_replicas_do_not_become_a_standalone_server() {
    let place = Place::new();
    let mut config = load(&place.root(), &entries(3), Some(0));
    config.replication.node_id = None;
    Box::new(start(config, &create_shared_message_bus()).await).shutdown().await;
    assert!(refusal(place.to_standalone()).contains("belongs to replicas 0, 1, 2"));
    assert!(refusal(place.to_replicated()).contains("belongs to replicas 0, 1, 2"));
}

/// The configuration lists one replica; the cluster knows better.
#[tokio::test]
async fn a_member_of_a_cluster_with_others_does_not_become_a_standalone_server() {
    let place = Place::new();
    let bus = create_shared_message_bus();
    let other = place.folder.path().join("other");
    let starting = [(place.root(), 0), (other, 1)].map(|(root, id)| {
        let bus = bus.clone();
        tokio::spawn(async move { start(load(&root, &entries(2), Some(id)), &bus).await })
    });
    for server in starting {
        let server = server.await.expect("it starts");
        let mut watch = server.local_replicas().replicas()[0].consensus.watch();
        watch.wait_for(|role| role.primary.is_some()).await.expect("a primary");
        tokio::spawn(async move { Box::new(server).shutdown().await }).await.expect("it stops");
    }
    let refused = apart(|| planned(place.to_standalone()).run(|_, _| ()));
    let Err(ConvertError::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("other members than replica 0: 1"), "{text}");
    assert!(place.root().join("replica-0").exists() && !place.root().join("db").exists());
    assert!(!place.root().join("convert.json").exists());
}
