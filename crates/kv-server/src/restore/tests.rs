use super::*;
use crate::config::{Environment, Overrides};

fn config(root: &Path, mode: &str) -> Config {
    let overrides =
        Overrides { mode: Some(mode.to_string()), data_dir: Some(root.to_path_buf()), ..Overrides::default() };
    Config::load(None, &Environment::empty(), &overrides).expect("a valid configuration")
}

fn origin() -> Origin {
    Origin { version: Version(5_000), level: LOWEST_LEVEL, families: vec!["users".to_string()], policy: None }
}

const ROWS: u32 = 3_000;

fn fill(restoration: &mut Restoration) {
    for family in ["", "users"] {
        for number in 0..ROWS {
            restoration.row(family, &number.to_be_bytes(), &[7; 100]).unwrap();
        }
    }
}

/// The description that a backup of [`fill`] would have.
fn expected() -> Vec<ExpectedRows> {
    let of = |family: &str, from: u32, rows: u32| {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for number in from..from + rows {
            for part in [&number.to_be_bytes()[..], &[7; 100]] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        ExpectedRows {
            family: family.to_string(),
            first_key: Bytes::copy_from_slice(&from.to_be_bytes()),
            rows: u64::from(rows),
            hash: hash.digest(),
        }
    };
    vec![of("", 0, 1_000), of("", 1_000, ROWS - 1_000), of("users", 0, ROWS)]
}

fn restore(root: &Path, mode: &str) -> Result<Restored, RestoreError> {
    let mut restoration = Restoration::begin(config(root, mode), &origin(), None)?;
    fill(&mut restoration);
    restoration.finish(&expected())
}

#[test]
fn a_restored_directory_is_that_of_a_server_and_is_not_restored_again() {
    for (mode, replicas) in [("standalone", vec![]), ("replicated", vec![0, 1, 2])] {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("new");
        let restored = restore(&root, mode).unwrap();
        assert_eq!((restored.replicas, restored.rows), (replicas, 2 * u64::from(ROWS)));
        let identity = read_identity(&root.join(IDENTITY_FILE)).unwrap().unwrap();
        assert_eq!(identity.cluster_id, restored.cluster_id);
        assert!(!root.join(RESTORING).exists());
        let again = restore(&root, mode).unwrap_err();
        assert!(matches!(&again, RestoreError::Refused(text) if text.contains("holds the data of")), "{again}");
    }
}

#[test]
fn users_are_restored_with_the_rows_and_all_replicas_need_the_same() {
    let mut policy = Policy::default();
    let token = kv_api::access::TokenRecord { id: 7, sha256: vec![1; 32].into(), ..Default::default() };
    policy.change(&kv_api::access::AccessCommand::Enable(token).into(), 1).unwrap();
    let with_users = Origin { level: HIGHEST_LEVEL, policy: Some(policy.clone()), ..origin() };
    let root = tempfile::tempdir().unwrap();
    let config = config(&root.path().join("new"), "replicated");
    let mut restoration = Restoration::begin(config.clone(), &with_users, None).unwrap();
    fill(&mut restoration);
    let restored = restoration.finish(&expected()).unwrap();
    for replica in restored.replicas {
        let path = config.storage.data_dir.join(format!("replica-{replica}")).join(name_of(0));
        let budget = plan_budget(&mut config.clone()).unwrap();
        let resources = shared_resources(&config, &budget).unwrap();
        let engine = open_engine(EngineKind::RocksDb, &path, Durability::UntilFlush, &resources).unwrap();
        let database = TransactionalKvDatabase::open(engine, StoreOptions::replicated()).unwrap();
        assert_eq!(*database.policy(), policy);
        assert!(database.enabled_revision() > 0);
    }
    let other = self::config(&root.path().join("other"), "replicated");
    for (policy, hint) in [(None, "--auth keep"), (Some(Policy { revision: 99, ..policy }), "--at VERSION")] {
        let origin = Origin { policy, ..with_users.clone() };
        let error = check(&other, &origin, restored.token.as_ref()).unwrap_err().to_string();
        assert!(error.contains(hint), "{error}");
    }
    check(&other, &with_users, restored.token.as_ref()).unwrap();
}

#[test]
fn a_directory_with_anything_in_it_is_refused_and_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    for name in ["thesis.tex", "db", "replica-0"] {
        let path = root.path().join(name);
        fs::write(&path, "x").unwrap();
        let error = restore(root.path(), "standalone").err().unwrap();
        assert!(matches!(&error, RestoreError::Refused(text) if text.contains(name)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"x");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn an_interrupted_restore_opens_for_no_server_and_begins_again() {
    let root = tempfile::tempdir().unwrap();
    let mut restoration = Restoration::begin(config(root.path(), "standalone"), &origin(), None).unwrap();
    fill(&mut restoration);
    drop(restoration);
    let error = DataDir::open(root.path(), Mode::Standalone, &[]).unwrap_err();
    assert!(matches!(error, DataDirError::BeingRestored { .. }), "{error}");
    // Interrupted later: after the move, before the identity.
    fs::create_dir_all(root.path().join("replica-2/db")).unwrap();
    restore(root.path(), "standalone").unwrap();
    assert!(!root.path().join("replica-2").exists());
    DataDir::open(root.path(), Mode::Standalone, &[]).unwrap();
}

#[test]
fn rows_that_differ_from_the_backup_make_no_data_directory() {
    let root = tempfile::tempdir().unwrap();
    let mut restoration = Restoration::begin(config(root.path(), "standalone"), &origin(), None).unwrap();
    fill(&mut restoration);
    let mut wrong = expected();
    wrong[1].hash ^= 1;
    let error = restoration.finish(&wrong).unwrap_err().to_string();
    assert!(error.contains("were not restored as they were backed up"), "{error}");
    assert!(!root.path().join(IDENTITY_FILE).exists());
    let mut restoration = Restoration::begin(config(root.path(), "standalone"), &origin(), None).unwrap();
    fill(&mut restoration);
    let error = restoration.finish(&expected()[..2]).unwrap_err().to_string();
    assert!(error.contains("6000 rows were restored, and the backup holds 3000"), "{error}");
}

#[test]
fn replicas_that_are_restored_apart_belong_to_one_cluster() {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let list = "[[replication.replicas]]\nid = 0\npeer = \"127.0.0.1:1\"\nthrift = \"127.0.0.1:2\"\nadmin = \"127.0.0.1:3\"\n\
                [[replication.replicas]]\nid = 1\npeer = \"127.0.0.1:4\"\nthrift = \"127.0.0.1:5\"\nadmin = \"127.0.0.1:6\"\n";
    let file = roots[0].path().join(".cluster.toml");
    fs::write(&file, list).unwrap();
    let mut token = None;
    for (id, root) in (0..).zip(&roots) {
        let overrides =
            Overrides { node_id: Some(id), data_dir: Some(root.path().to_path_buf()), ..Overrides::default() };
        let config = Config::load(Some(&file), &Environment::empty(), &overrides).unwrap();
        let mut restoration = Restoration::begin(config, &origin(), token).unwrap();
        fill(&mut restoration);
        let restored = restoration.finish(&expected()).unwrap();
        assert_eq!((restored.replicas, restored.voters), (vec![id], vec![0, 1]));
        token = restored.token;
    }
    let id = |root: &tempfile::TempDir| read_identity(&root.path().join(IDENTITY_FILE)).unwrap().unwrap().cluster_id;
    assert_eq!(id(&roots[0]), id(&roots[1]));
}

#[test]
fn rows_are_restored_into_memory_and_compared() {
    let rows: Vec<(Bytes, Bytes)> =
        (0..ROWS).map(|n| (Bytes::copy_from_slice(&n.to_be_bytes()), Bytes::from_static(&[7; 100]))).collect();
    let expected = expected().pop().unwrap();
    test(&expected, &rows).unwrap();
    test(&expected, &rows[1..]).unwrap_err();
}
