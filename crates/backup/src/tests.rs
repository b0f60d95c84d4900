//! Whole backups in stores that lose, change and cut what they hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use time::OffsetDateTime;

use crate::*;

pub(crate) fn run<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(body)
}

pub(crate) fn description(version: u64) -> Description {
    Description {
        program: "test".to_string(),
        cluster_id: Some("c1".to_string()),
        version,
        feature_level: 1,
        is_partial: false,
        begin: None,
        end: None,
        users: None,
    }
}

/// Rows that hardly compress, so that there are several frames and objects.
fn row(family: usize, number: u32) -> (Bytes, Bytes) {
    let mut value = vec![0; 30_000];
    let seed = *blake3::hash(&[family as u8, number as u8, (number >> 8) as u8]).as_bytes();
    blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut value);
    (Bytes::copy_from_slice(&number.to_be_bytes()), value.into())
}

const FAMILIES: [(&str, u32); 4] = [("", 600), ("empty", 0), ("one", 1), ("users", 300)];

async fn write(target: &Target, version: u64, sealing: &Sealing) -> Written {
    let mut writer = BackupWriter::begin(target.clone(), description(version), sealing).await.unwrap();
    for (index, (family, rows)) in FAMILIES.into_iter().enumerate() {
        writer.family(family).await.unwrap();
        for number in 0..rows {
            writer.rows([row(index, number)]).await.unwrap();
        }
    }
    writer.finish().await.unwrap()
}

async fn read(backup: &Backup) -> Vec<(String, Bytes, Bytes)> {
    let mut rows = Vec::new();
    for chunk in &backup.content().unwrap().chunks {
        let object = backup.fetch(chunk.object).await.unwrap();
        backup
            .rows(chunk, object, |key, value| {
                rows.push((chunk.family.clone(), Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                Ok::<(), BackupError>(())
            })
            .unwrap();
    }
    rows
}

pub(crate) fn memory() -> (Arc<InMemory>, Target) {
    let store = Arc::new(InMemory::new());
    (store.clone(), Target::over(store))
}

pub(crate) fn key_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    KeyFile::create(&path).unwrap();
    (folder, path)
}

pub(crate) fn keys(path: &std::path::Path) -> Keys {
    let mut keys = Keys::default();
    keys.add_file(path).unwrap();
    keys
}

#[test]
fn what_was_written_is_read_in_files_and_in_memory_encrypted_or_not() {
    run(async {
        let (_folder, path) = key_file();
        let identity = age::x25519::Identity::generate();
        let age_file = path.with_file_name("age");
        let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_string();
        credentials::write_secret(&age_file, &format!("# made by a test\n{secret}\n")).unwrap();
        let files = tempfile::tempdir().unwrap();
        let url = format!("file://{}/a/b", files.path().display());
        for target in [memory().1, Target::open(&url, None, true).unwrap()] {
            for (version, sealing) in [
                (7, Sealing::None),
                (8, Sealing::key_file(&path).unwrap()),
                (9, Sealing::Recipients(vec![identity.to_public().to_string()])),
            ] {
                let written = write(&target, version, &sealing).await;
                let mut backup = open_newest(&target, None).await.unwrap();
                assert_eq!(backup.folder(), written.folder);
                assert_eq!(backup.is_locked(), version > 7);
                let mut keys = keys(&path);
                keys.add_file(&age_file).unwrap();
                backup.unlock(&keys).unwrap();
                let expected: Vec<_> = FAMILIES
                    .into_iter()
                    .enumerate()
                    .flat_map(|(index, (name, rows))| (0..rows).map(move |n| (name.to_string(), row(index, n))))
                    .map(|(name, (key, value))| (name, key, value))
                    .collect();
                assert!(read(&backup).await == expected, "the rows of version {version} differ");
                assert!(written.summary.objects.iter().all(|object| object.bytes <= MAX_OBJECT_BYTES as u64));
                let names: Vec<&str> =
                    backup.content().unwrap().families.iter().map(|family| family.name.as_str()).collect();
                assert_eq!(names, FAMILIES.map(|(name, _)| name));
                let verified = verify(&backup, Depth::Full, None, |_| {}).await.unwrap();
                assert_eq!((verified.rows, verified.findings.len()), (901, 0));
            }
        }
    });
}

#[test]
fn nothing_in_an_encrypted_backup_tells_keys_or_families() {
    run(async {
        let (_folder, path) = key_file();
        let (store, target) = memory();
        let mut writer =
            BackupWriter::begin(target.clone(), description(5), &Sealing::key_file(&path).unwrap()).await.unwrap();
        writer.family("secretfamily").await.unwrap();
        writer.rows([(Bytes::from_static(b"secretkey"), Bytes::from_static(b"secretvalue"))]).await.unwrap();
        writer.finish().await.unwrap();
        let mut objects = store.list(None);
        while let Some(object) = objects.next().await {
            let bytes = store.get(&object.unwrap().location).await.unwrap().bytes().await.unwrap();
            for word in [&b"secret"[..], b"736563726574"] {
                assert!(!bytes.windows(word.len()).any(|window| window == word));
            }
        }
    });
}

#[test]
fn a_flipped_bit_a_cut_and_a_loss_of_any_object_are_found_and_named() {
    run(async {
        let (_folder, path) = key_file();
        for sealing in [Sealing::None, Sealing::key_file(&path).unwrap()] {
            let (store, target) = memory();
            let written = write(&target, 5, &sealing).await;
            let names: Vec<String> = written
                .summary
                .objects
                .iter()
                .map(|object| writer::object_name(&written.folder, object.number))
                .chain([format!("{}/manifest.json", written.folder)])
                .collect();
            for name in &names {
                let place = Path::parse(name).unwrap();
                let sound = store.get(&place).await.unwrap().bytes().await.unwrap();
                for damage in ["flip", "cut", "lose"] {
                    match damage {
                        "flip" => {
                            let mut bytes = sound.to_vec();
                            let at = bytes.len() / 2;
                            bytes[at] ^= 0x04;
                            store.put(&place, bytes.into()).await.unwrap();
                        }
                        "cut" => {
                            store.put(&place, sound.slice(..sound.len() - 2).into()).await.unwrap();
                        }
                        _ => store.delete(&place).await.unwrap(),
                    }
                    let reason = found(&target, &written.folder, &path).await;
                    assert!(reason.contains(name), "{damage} of {name}: {reason}");
                }
                store.put(&place, sound.into()).await.unwrap();
                assert_eq!(found(&target, &written.folder, &path).await, "");
            }
        }
    });
}

/// The findings of a full verification; nothing if the backup is sound.
async fn found(target: &Target, folder: &str, key: &std::path::Path) -> String {
    let mut backup = match open(target, folder).await {
        Ok(backup) => backup,
        Err(error) => return error.to_string(),
    };
    if let Err(error) = backup.unlock(&keys(key)) {
        return error.to_string();
    }
    let verified = verify(&backup, Depth::Full, None, |_| {}).await.unwrap();
    verified.findings.iter().map(|finding| format!("{}: {}", finding.object, finding.reason)).collect()
}

#[test]
fn without_the_right_key_nothing_is_opened() {
    run(async {
        let (_folder, path) = key_file();
        let (_other_folder, other) = key_file();
        let (_, target) = memory();
        let written = write(&target, 5, &Sealing::key_file(&path).unwrap()).await;
        let mut backup = open(&target, &written.folder).await.unwrap();
        for keys in [Keys::default(), keys(&other)] {
            let error = backup.unlock(&keys).unwrap_err();
            assert!(matches!(&error, BackupError::Input(text) if text.contains("needs the key file")), "{error}");
        }
        assert!(backup.content().is_none());
        // Its bytes can be checked without the key.
        let verified = verify(&backup, Depth::Full, None, |_| {}).await.unwrap();
        assert_eq!((verified.objects, verified.rows, verified.findings.len()), (written.summary.objects.len(), 0, 0));
    });
}

#[test]
fn frames_and_objects_of_an_encrypted_backup_cannot_change_places() {
    let (_folder, path) = key_file();
    let (key, _) = seal::DataKey::create(&Sealing::key_file(&path).unwrap(), "b").unwrap().unwrap();
    let mut piece = b"rows".to_vec();
    key.seal(3, 1, b"", &mut piece);
    assert_eq!(key.unseal(3, 1, b"", &piece).as_deref(), Some(&b"rows"[..]));
    for (object, frame, context) in [(3, 0, &b""[..]), (2, 1, b""), (3, 1, b"x")] {
        assert_eq!(key.unseal(object, frame, context, &piece), None);
    }
}

#[test]
fn users_are_in_a_backup_that_says_so_and_are_sealed_with_the_rest() {
    run(async {
        let (_folder, path) = key_file();
        let users = Some(Bytes::from_static(b"hash of a token"));
        for (sealing, users) in
            [(Sealing::None, None), (Sealing::None, users.clone()), (Sealing::key_file(&path).unwrap(), users)]
        {
            let (store, target) = memory();
            let description = Description { users: users.clone(), ..description(5) };
            let mut writer = BackupWriter::begin(target.clone(), description, &sealing).await.unwrap();
            writer.family("").await.unwrap();
            writer.rows([row(0, 1)]).await.unwrap();
            let written = writer.finish().await.unwrap();
            assert_eq!(written.summary.has_users, users.is_some());
            // Programs that do not know users must not restore without them.
            assert_eq!(written.summary.format, if users.is_some() { FORMAT_WITH_USERS } else { FORMAT });
            let mut backup = open_newest(&target, None).await.unwrap();
            backup.unlock(&keys(&path)).unwrap();
            assert_eq!(backup.content().unwrap().users, users);
            let place = Path::from(format!("{}/manifest.json", written.folder));
            let stored = store.get(&place).await.unwrap().bytes().await.unwrap();
            let text = String::from_utf8(stored.to_vec()).unwrap();
            let shown: String = b"hash of a token".iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text.contains(&shown), users.is_some() && written.summary.encryption.is_none());
            // A manifest that lost them is not taken for one of a backup without users.
            if written.summary.encryption.is_none() && users.is_some() {
                let lost = text.replace(&format!(",\"users\":\"{shown}\""), "");
                assert_ne!(lost, text);
                store.put(&place, lost.into_bytes().into()).await.unwrap();
                let error = open_newest(&target, None).await.unwrap_err().to_string();
                assert!(error.contains("it was changed"), "{error}");
            }
        }
    });
}

#[test]
fn two_backups_at_once_are_two_backups_and_another_cluster_is_refused() {
    run(async {
        let (_, target) = memory();
        let (a, b) = tokio::join!(write(&target, 5, &Sealing::None), write(&target, 5, &Sealing::None));
        assert_ne!(a.folder, b.folder);
        let entries = list(&target).await.unwrap();
        assert_eq!(entries.len(), 2);
        for entry in entries {
            assert_eq!(found(&target, &entry.folder, &key_file().1).await.as_str(), "");
        }
        let other = Description { cluster_id: Some("c2".to_string()), ..description(6) };
        let error = BackupWriter::begin(target, other, &Sealing::None).await.err().unwrap();
        assert!(matches!(&error, BackupError::Refused(text) if text.contains("of cluster c1")), "{error}");
    });
}

#[test]
fn a_place_without_backups_and_an_unknown_version_are_named() {
    run(async {
        let (_, target) = memory();
        let error = list(&target).await.unwrap_err().to_string();
        assert!(error.contains("holds no backups"), "{error}");
        write(&target, 5, &Sealing::None).await;
        let error = open_newest(&target, Some(6)).await.unwrap_err().to_string();
        assert!(error.contains("no backup of version 6; there are 5"), "{error}");
        for (url, words) in [
            ("s3://key:secret@bucket/a", "holds no secrets"),
            ("ftp://host/a", "no place for backups"),
            ("/nowhere/at/all", "no backups are in"),
        ] {
            let error = Target::open(url, None, false).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("key:secret"), "{error}");
        }
    });
}

#[test]
fn an_abandoned_backup_is_none_and_leaves_nothing() {
    run(async {
        let (store, target) = memory();
        let mut writer = BackupWriter::begin(target.clone(), description(5), &Sealing::None).await.unwrap();
        writer.family("").await.unwrap();
        for number in 0..300 {
            writer.rows([row(0, number)]).await.unwrap();
        }
        writer.family("next").await.unwrap();
        writer.abandon().await;
        let left: Vec<_> = store.list(None).map(|object| object.unwrap().location.to_string()).collect().await;
        assert_eq!(left, ["synodkv-backup.json"]);
        assert!(list(&target).await.unwrap().is_empty());
    });
}

#[test]
fn prune_keeps_the_newest_and_the_young_and_refuses_beside_a_damaged_one() {
    run(async {
        let (store, target) = memory();
        let day = Duration::from_secs(86_400);
        let now = OffsetDateTime::now_utc();
        let mut folders = Vec::new();
        for version in 1..=3 {
            folders.push(write(&target, version, &Sealing::None).await.folder);
        }
        let kept_all = plan_prune(&target, 14 * day, now, false).await.unwrap();
        assert!(kept_all.removed.is_empty());
        let later = now + 20 * day;
        let lost = Path::parse(writer::object_name(&folders[2], 1)).unwrap();
        let sound = store.get(&lost).await.unwrap().bytes().await.unwrap();
        store.delete(&lost).await.unwrap();
        let refused = plan_prune(&target, 14 * day, later, false).await.unwrap_err();
        assert!(matches!(&refused, BackupError::Refused(text) if text.contains("nothing was removed")), "{refused}");
        store.put(&lost, sound.into()).await.unwrap();
        // A backup that failed.
        store.put(&Path::parse(format!("{}x/000001.chunk", folders[0])).unwrap(), "x".into()).await.unwrap();
        let plan = plan_prune(&target, 14 * day, later, false).await.unwrap();
        assert_eq!(plan.removed.len(), 3);
        prune(&target, &plan).await.unwrap();
        let left: Vec<String> = list(&target).await.unwrap().into_iter().map(|entry| entry.folder).collect();
        assert_eq!(left, folders[2..]);
        let nothing = plan_prune(&target, Duration::ZERO, later + 365 * day, false).await.unwrap();
        assert!(nothing.removed.is_empty(), "the newest one stays however old it is");
    });
}

#[test]
fn a_check_tells_what_the_store_can_do_and_leaves_nothing() {
    run(async {
        let (store, target) = memory();
        let checked = check(&target).await.unwrap();
        assert!(checked.conditional_put && checked.warnings.is_empty(), "{checked:?}");
        assert_eq!(store.list(None).count().await, 0);
        let folder = tempfile::tempdir().unwrap();
        let files = Target::open(&folder.path().display().to_string(), None, false).unwrap();
        assert!(check(&files).await.unwrap().conditional_put);
        let plain = Target::over(Arc::new(Faulty { ignores_conditions: true, ..Faulty::over(InMemory::new()) }));
        let checked = check(&plain).await.unwrap();
        assert!(!checked.conditional_put && checked.warnings[0].contains("conditional puts"), "{checked:?}");
    });
}

#[test]
fn a_store_that_fails_cuts_replies_and_is_slow_gets_the_whole_backup() {
    run(async {
        let store = Arc::new(Faulty { fails_every: 3, ..Faulty::over(InMemory::new()) });
        let target = Target::over(store.clone());
        let written = write(&target, 5, &Sealing::None).await;
        assert_eq!(found(&target, &written.folder, &key_file().1).await, "");
        assert!(store.faults.load(Ordering::Relaxed) >= 3, "the store did not fail");
    });
}

#[test]
fn a_store_that_stays_broken_makes_no_backup() {
    run(async {
        let store = Arc::new(Faulty { is_down: true, ..Faulty::over(InMemory::new()) });
        let error = BackupWriter::begin(Target::over(store), description(5), &Sealing::None).await.err().unwrap();
        assert!(matches!(error, BackupError::Unavailable(_)), "{error}");
    });
}

/// A store in front of another one, in which every nth request goes wrong.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: InMemory,
    /// 0: none.
    pub(crate) fails_every: u32,
    /// Every request fails.
    pub(crate) is_down: bool,
    /// A conditional put overwrites.
    pub(crate) ignores_conditions: bool,
    pub(crate) requests: AtomicU32,
    pub(crate) faults: AtomicU32,
}

impl Faulty {
    pub(crate) fn over(inner: InMemory) -> Faulty {
        let (requests, faults) = (AtomicU32::new(0), AtomicU32::new(0));
        Faulty { inner, fails_every: 0, is_down: false, ignores_conditions: false, requests, faults }
    }

    /// The number of the fault of this request, if it has one.
    fn fault(&self) -> Option<u32> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let is_due = self.fails_every > 0 && number.is_multiple_of(self.fails_every);
        is_due.then(|| self.faults.fetch_add(1, Ordering::Relaxed))
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "500 Internal Server Error".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let options = if self.ignores_conditions { PutOptions::default() } else { options };
        if self.is_down {
            return Err(broken());
        }
        match self.fault() {
            None => self.inner.put_opts(location, payload, options).await,
            // It happened, and the answer was lost.
            Some(fault) if fault.is_multiple_of(2) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(broken())
            }
            Some(_) => Err(broken()),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(fault) = self.fault() else { return self.inner.get_opts(location, options).await };
        if fault.is_multiple_of(3) {
            return Err(broken());
        }
        let mut reply = self.inner.get_opts(location, options).await?;
        let (meta, range) = (reply.meta.clone(), reply.range.clone());
        let bytes = reply_bytes(&mut reply).await?;
        if fault.is_multiple_of(2) {
            // A slow store: the time itself is the fault.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut changed = bytes.to_vec();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
            }
            let is_chunk = [".chunk", ".seg"].iter().any(|end| location.as_ref().ends_with(end));
            return Ok(result(meta, range, if is_chunk { changed.into() } else { bytes }));
        }
        Ok(result(meta, range, bytes.slice(..bytes.len() / 2)))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn reply_bytes(reply: &mut GetResult) -> Result<Bytes> {
    let payload = GetResultPayload::Stream(futures_util::stream::empty().boxed());
    let GetResultPayload::Stream(mut stream) = std::mem::replace(&mut reply.payload, payload) else {
        unreachable!("the memory streams");
    };
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes.into())
}

fn result(meta: ObjectMeta, range: std::ops::Range<u64>, bytes: Bytes) -> GetResult {
    let payload = GetResultPayload::Stream(futures_util::stream::iter([Ok(bytes)]).boxed());
    GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() }
}
