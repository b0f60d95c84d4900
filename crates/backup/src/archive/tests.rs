//! Archives in stores that lose and change what they hold, of archivers that compete, by clocks that
//! go back.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use kv_api::{Change, ClearCause, Effect, FamilyEffect, Version};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use time::{Duration, OffsetDateTime};

use super::*;
use crate::seal::{KeyFile, Keys, Sealing};
use crate::tests::{Faulty, description, key_file, keys, memory, run};
use crate::{BackupError, BackupWriter, Depth, Target, list};

type Rows = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A cluster: its rows at each version, and the changes.
struct History {
    random: Random,
    rows: Vec<Rows>,
    changes: Vec<Change>,
}

/// The version of `rows[0]`.
const BASE: u64 = 100;

impl History {
    fn new(seed: u64) -> History {
        let mut rows = Rows::new();
        for number in 0..20_u8 {
            rows.insert((String::new(), vec![number]), vec![0; 3]);
        }
        History { random: Random(seed), rows: vec![rows], changes: Vec::new() }
    }

    fn version(&self) -> u64 {
        BASE + self.rows.len() as u64 - 1
    }

    /// One more version. Some change nothing.
    fn step(&mut self) {
        let version = self.version() + 1;
        let mut rows = self.rows.last().unwrap().clone();
        let mut effects = Vec::new();
        let family = |random: &mut Random| ["", "users", "x"][random.below(3) as usize].to_string();
        if self.random.below(4) == 0 {
            let (name, begin) = (family(&mut self.random), self.random.below(30) as u8);
            let end = (self.random.below(2) == 0).then(|| begin + self.random.below(20) as u8);
            let cause = [ClearCause::Transaction, ClearCause::FamilyDropped][self.random.below(2) as usize];
            rows.retain(|(family, key), _| *family != name || key[0] < begin || end.is_some_and(|end| key[0] >= end));
            let (begin, end) = (Bytes::copy_from_slice(&[begin]), end.map(|end| Bytes::copy_from_slice(&[end])));
            effects.push(FamilyEffect { column_family: name, effect: Effect::Clear { begin, end, cause } });
        }
        for _ in 0..self.random.below(4) {
            let (name, key) = (family(&mut self.random), vec![self.random.below(30) as u8]);
            let effect = match self.random.below(3) {
                0 => {
                    rows.remove(&(name.clone(), key.clone()));
                    Effect::Delete { key: key.into() }
                }
                _ => {
                    let value = vec![self.random.below(256) as u8; self.random.below(200) as usize];
                    rows.insert((name.clone(), key.clone()), value.clone());
                    Effect::Set { key: key.into(), value: value.into() }
                }
            };
            effects.push(FamilyEffect { column_family: name, effect });
        }
        if !effects.is_empty() {
            self.changes.push(Change { version: Version(version), time_us: version * 1_000_000, effects });
        }
        self.rows.push(rows);
    }

    /// The changes after a version up to another one.
    fn between(&self, after: u64, through: u64) -> Vec<Change> {
        let is_wanted = |change: &&Change| change.version.0 > after && change.version.0 <= through;
        self.changes.iter().filter(is_wanted).cloned().collect()
    }
}

/// When the history began.
fn noon() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
}

/// A full backup of the newest version.
async fn full(target: &Target, history: &History, sealing: &Sealing) {
    let mut writer = BackupWriter::begin(target.clone(), description(history.version()), sealing).await.unwrap();
    for family in ["", "x", "users"] {
        writer.family(family).await.unwrap();
        for ((name, key), value) in history.rows.last().unwrap() {
            if name == family {
                writer.rows([(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))]).await.unwrap();
            }
        }
    }
    writer.finish().await.unwrap();
}

async fn archiver(target: &Target, sealing: Sealing) -> Result<Archiver, BackupError> {
    Archiver::begin(target.clone(), "test", Some("c1".to_string()), sealing, "a test").await
}

/// Archives what the archiver misses of the history, in segments of some versions.
async fn archive(archiver: &mut Archiver, history: &mut History) {
    while archiver.position() < history.version() {
        let after = archiver.position();
        let through = (after + 1 + history.random.below(6)).min(history.version());
        // One version a second, from noon on.
        let received = noon() + Duration::seconds((through - BASE) as i64);
        archiver.add(&history.between(after, through), through, received, through == history.version());
        if history.random.below(2) == 0 || through == history.version() {
            archiver.flush().await.unwrap();
        }
    }
}

async fn restored(target: &Target, version: u64, keys: &Arc<Keys>) -> Result<Rows, BackupError> {
    let mut point = choose(target, Point::Version(version), keys).await?;
    assert_eq!(point.version, version);
    point.unlock(keys).await?;
    let mut rows = Rows::new();
    for chunk in &point.backup.content().unwrap().chunks {
        let object = point.backup.fetch(chunk.object).await?;
        point.backup.rows(chunk, object, |key, value| {
            rows.insert((chunk.family.clone(), key.to_vec()), value.to_vec());
            Ok::<(), BackupError>(())
        })?;
    }
    let apply = |(rows, last): &mut (Rows, u64), change: Change| {
        assert!(change.version.0 > *last, "{change:?} comes after {last}");
        *last = change.version.0;
        for FamilyEffect { column_family, effect } in change.effects {
            match effect {
                Effect::Set { key, value } => drop(rows.insert((column_family, key.to_vec()), value.to_vec())),
                Effect::Delete { key } => drop(rows.remove(&(column_family, key.to_vec()))),
                Effect::Clear { begin, end, .. } => rows.retain(|(family, key), _| {
                    *family != column_family
                        || key[..] < begin[..]
                        || end.as_ref().is_some_and(|end| key[..] >= end[..])
                }),
            }
        }
        Ok::<(), BackupError>(())
    };
    let (rows, last) = point.changes(keys, (rows, point.backup.summary().version), apply).await?;
    assert!(last <= version);
    Ok(rows)
}

async fn findings(target: &Target, keys: &Keys) -> Vec<String> {
    let entries = list(target).await.unwrap();
    let verified = verify_archive(target, &entries, Depth::Full, keys, |_| {}).await.unwrap();
    verified.findings.iter().map(|finding| format!("{}: {}", finding.object, finding.reason)).collect()
}

async fn segments(store: &InMemory) -> Vec<String> {
    let listed: Vec<String> = store.list(None).map(|object| object.unwrap().location.to_string()).collect().await;
    let mut segments: Vec<String> = listed.into_iter().filter(|name| name.ends_with(".seg")).collect();
    segments.sort();
    segments
}

#[test]
fn every_version_of_a_random_history_is_restored_whoever_archived_it_and_however_often_it_began_again() {
    run(async {
        let (_folder, path) = key_file();
        for seed in 0..6 {
            let (_, target) = memory();
            let mut history = History::new(seed);
            let sealing = || match seed % 2 {
                0 => Sealing::None,
                _ => Sealing::key_file(&path).unwrap(),
            };
            full(&target, &history, &sealing()).await;
            for round in 0..6 {
                (0..8).for_each(|_| history.step());
                if round == 3 {
                    full(&target, &history, &sealing()).await;
                }
                // Another archiver each time, which continues where the one before has ended.
                archive(&mut archiver(&target, sealing()).await.unwrap(), &mut history).await;
            }
            let keys = Arc::new(keys(&path));
            for (place, rows) in history.rows.iter().enumerate() {
                let found = restored(&target, BASE + place as u64, &keys).await.unwrap();
                assert!(found == *rows, "seed {seed}: version {} differs", BASE + place as u64);
            }
            assert_eq!(findings(&target, &keys).await, [""; 0]);
            let error = restored(&target, history.version() + 1, &keys).await.unwrap_err();
            let BackupError::NotRestorable { oldest, newest, .. } = error else { panic!("{error}") };
            assert_eq!((oldest, newest), (BASE, history.version()));
            let error = restored(&target, BASE - 1, &keys).await.unwrap_err();
            assert!(matches!(error, BackupError::NotRestorable { oldest: BASE, .. }), "{error}");
        }
    });
}

#[test]
fn a_store_that_fails_and_cuts_replies_gets_the_whole_archive() {
    run(async {
        let store = Arc::new(Faulty { fails_every: 3, ..Faulty::over(InMemory::new()) });
        let target = Target::over(store.clone());
        let mut history = History::new(1);
        full(&target, &history, &Sealing::None).await;
        for _ in 0..3 {
            (0..12).for_each(|_| history.step());
            archive(&mut archiver(&target, Sealing::None).await.unwrap(), &mut history).await;
        }
        let keys = Arc::new(Keys::default());
        assert_eq!(findings(&target, &keys).await, [""; 0]);
        for place in [0, 7, 20, 36] {
            assert!(restored(&target, BASE + place, &keys).await.unwrap() == history.rows[place as usize]);
        }
        let archive = Archive::load(&target).await.unwrap();
        assert_eq!((archive.chains.len(), archive.replaced.len()), (1, 0), "a repeated put made another segment");
    });
}

#[test]
fn a_flipped_bit_a_cut_and_a_loss_of_any_segment_are_found_and_named() {
    run(async {
        let (_folder, path) = key_file();
        for sealing in [|_: &std::path::Path| Sealing::None, |path: &std::path::Path| Sealing::key_file(path).unwrap()]
        {
            let (store, target) = memory();
            let mut history = History::new(3);
            full(&target, &history, &sealing(&path)).await;
            (0..40).for_each(|_| history.step());
            archive(&mut archiver(&target, sealing(&path)).await.unwrap(), &mut history).await;
            let names = segments(&store).await;
            assert!(names.len() > 4, "{names:?}");
            for (number, name) in names.iter().enumerate() {
                let place = Path::parse(name).unwrap();
                let sound = store.get(&place).await.unwrap().bytes().await.unwrap();
                for at in [0, 9, 40, sound.len() / 2, sound.len() - 1] {
                    let mut bytes = sound.to_vec();
                    bytes[at] ^= 0x10;
                    store.put(&place, bytes.into()).await.unwrap();
                    let found = findings(&target, &keys(&path)).await;
                    assert!(found.len() == 1 && found[0].contains(name), "bit of byte {at} of {name}: {found:?}");
                }
                store.put(&place, sound.slice(..sound.len() - 1).into()).await.unwrap();
                let found = findings(&target, &keys(&path)).await;
                assert!(found.len() == 1 && found[0].contains(name), "cut of {name}: {found:?}");
                let error = restored(&target, history.version(), &Arc::new(keys(&path))).await.unwrap_err();
                assert!(matches!(&error, BackupError::Damaged { object, .. } if object.contains(name)), "{error}");
                store.delete(&place).await.unwrap();
                let found = findings(&target, &keys(&path)).await;
                // Nothing tells of the last one.
                if number + 1 < names.len() {
                    assert!(found.len() == 1 && found[0].contains(&names[number + 1]), "loss of {name}: {found:?}");
                    assert!(found[0].contains("is missing"), "{found:?}");
                }
                let error = restored(&target, history.version(), &Arc::new(keys(&path))).await.unwrap_err();
                let BackupError::NotRestorable { newest, .. } = error else { panic!("{error}") };
                let before = Archive::load(&target).await.unwrap();
                assert_eq!(newest, if number == 0 { BASE } else { before.reach(BASE).unwrap().last() });
                store.put(&place, sound.into()).await.unwrap();
            }
            assert_eq!(findings(&target, &keys(&path)).await, [""; 0]);
        }
    });
}

#[test]
fn segments_that_were_exchanged_are_found() {
    run(async {
        let (store, target) = memory();
        let mut history = History::new(4);
        full(&target, &history, &Sealing::None).await;
        (0..30).for_each(|_| history.step());
        archive(&mut archiver(&target, Sealing::None).await.unwrap(), &mut history).await;
        let names = segments(&store).await;
        let read = async |name: &str| store.get(&Path::parse(name).unwrap()).await.unwrap().bytes().await.unwrap();
        let (one, other) = (read(&names[1]).await, read(&names[2]).await);
        store.put(&Path::parse(&names[1]).unwrap(), other.into()).await.unwrap();
        store.put(&Path::parse(&names[2]).unwrap(), one.into()).await.unwrap();
        assert_eq!(findings(&target, &Keys::default()).await.len(), 2);
    });
}

#[test]
fn a_hole_is_seen_before_the_segment_behind_it_is_stored() {
    run(async {
        let (store, target) = memory();
        let mut history = History::new(5);
        full(&target, &history, &Sealing::None).await;
        let mut archiver = archiver(&target, Sealing::None).await.unwrap();
        (0..10).for_each(|_| history.step());
        archive(&mut archiver, &mut history).await;
        let names = segments(&store).await;
        store.delete(&Path::parse(names.last().unwrap()).unwrap()).await.unwrap();
        history.step();
        archiver.add(&history.between(archiver.position(), history.version()), history.version(), noon(), true);
        let error = archiver.flush().await.unwrap_err();
        assert!(matches!(&error, BackupError::Refused(text) if text.contains("a hole there")), "{error}");
        assert_eq!(segments(&store).await.len(), names.len() - 1);
    });
}

#[test]
fn of_two_archivers_the_later_one_goes_on_and_the_other_one_is_refused() {
    run(async {
        for ignores_conditions in [false, true] {
            let target = Target::over(Arc::new(Faulty { ignores_conditions, ..Faulty::over(InMemory::new()) }));
            let mut history = History::new(6);
            full(&target, &history, &Sealing::None).await;
            let mut first = archiver(&target, Sealing::None).await.unwrap();
            (0..10).for_each(|_| history.step());
            archive(&mut first, &mut history).await;
            let mut second = archiver(&target, Sealing::None).await.unwrap();
            assert_eq!(second.position(), history.version());
            history.step();
            first.add(&history.between(first.position(), history.version()), history.version(), noon(), true);
            let error = first.flush().await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, BackupError::Refused(_)) && text.contains("another archiver (a test"), "{text}");
            archive(&mut second, &mut history).await;
            assert_eq!(findings(&target, &Keys::default()).await, [""; 0]);
        }
    });
}

#[test]
fn two_segments_after_the_same_one_leave_one_chain_from_which_everything_is_restored() {
    run(async {
        // The claims of each are kept from the other, as by a store whose lists are late.
        let (store, target) = memory();
        let mut history = History::new(7);
        full(&target, &history, &Sealing::None).await;
        let mut first = archiver(&target, Sealing::None).await.unwrap();
        (0..20).for_each(|_| history.step());
        first.add(&history.between(BASE, BASE + 2), BASE + 2, noon(), false);
        first.flush().await.unwrap();
        let claims: Vec<_> = store.list(Some(&Path::from(CLAIMS))).map(|claim| claim.unwrap().location).collect().await;
        let mut second = archiver(&target, Sealing::None).await.unwrap();
        let (mut hidden, mut kept) = (Vec::new(), claims);
        for (archiver, through) in [(&mut first, BASE + 4), (&mut second, BASE + 9)] {
            for claim in
                store.list(Some(&Path::from(CLAIMS))).map(|claim| claim.unwrap().location).collect::<Vec<_>>().await
            {
                if !kept.contains(&claim) {
                    hidden.push((claim.clone(), store.get(&claim).await.unwrap().bytes().await.unwrap()));
                    store.delete(&claim).await.unwrap();
                }
            }
            archiver.add(&history.between(BASE + 2, through), through, noon(), false);
            archiver.flush().await.unwrap();
            kept = hidden.iter().map(|(claim, _)| claim.clone()).collect();
            for (claim, bytes) in &hidden {
                store.put(claim, bytes.clone().into()).await.unwrap();
            }
        }
        first.add(&history.between(BASE + 4, BASE + 6), BASE + 6, noon(), false);
        assert!(matches!(first.flush().await, Err(BackupError::Refused(_))));
        archive(&mut second, &mut history).await;
        let archive = Archive::load(&target).await.unwrap();
        assert_eq!((archive.chains.len(), archive.replaced.len()), (1, 1));
        for place in 0..history.rows.len() {
            let rows = restored(&target, BASE + place as u64, &Arc::default()).await.unwrap();
            assert!(rows == history.rows[place]);
        }
    });
}

#[test]
fn a_gap_needs_a_new_full_backup_and_lies_outside_of_what_can_be_restored() {
    run(async {
        let (_, target) = memory();
        let mut history = History::new(8);
        let error = archiver(&target, Sealing::None).await.err().unwrap();
        assert!(error.to_string().contains("synodkv backup create"), "{error}");
        full(&target, &history, &Sealing::None).await;
        let mut archiver = archiver(&target, Sealing::None).await.unwrap();
        (0..10).for_each(|_| history.step());
        archive(&mut archiver, &mut history).await;
        // These are lost.
        (0..10).for_each(|_| history.step());
        assert_eq!(archiver.skip_to_full().await.unwrap(), None, "no full backup is newer");
        full(&target, &history, &Sealing::None).await;
        assert_eq!(archiver.skip_to_full().await.unwrap(), Some(BASE + 20));
        (0..10).for_each(|_| history.step());
        archive(&mut archiver, &mut history).await;
        let keys = Arc::new(Keys::default());
        let entries = list(&target).await.unwrap();
        let all = windows(&target, &entries, &Archive::load(&target).await.unwrap()).await.unwrap();
        let ends: Vec<_> = all.iter().map(|window| (window.from, window.to)).collect();
        assert_eq!(ends, [(BASE, BASE + 10), (BASE + 20, BASE + 30)]);
        assert_eq!(findings(&target, &keys).await, [""; 0]);
        for place in 0..=30 {
            let rows = restored(&target, BASE + place, &keys).await;
            match place {
                11..=19 => {
                    let error = rows.unwrap_err();
                    assert!(matches!(error, BackupError::NotRestorable { .. }), "{error}");
                }
                _ => assert!(rows.unwrap() == history.rows[place as usize]),
            }
        }
    });
}

#[test]
fn a_clock_that_goes_an_hour_back_makes_no_time_that_falls() {
    run(async {
        let (_, target) = memory();
        let mut history = History::new(9);
        full(&target, &history, &Sealing::None).await;
        let mut archiver = archiver(&target, Sealing::None).await.unwrap();
        // The full backup was made by the clock of now.
        let begin = OffsetDateTime::now_utc() + Duration::hours(1);
        let mut times = Vec::new();
        for second in 0..30_i64 {
            history.step();
            let shift = if second >= 10 { Duration::hours(-1) } else { Duration::ZERO };
            let shift = if second >= 20 { Duration::ZERO } else { shift };
            let (after, through) = (archiver.position(), history.version());
            archiver.add(&history.between(after, through), through, begin + Duration::seconds(second) + shift, true);
            times.extend(archiver.flush().await.unwrap().map(|flushed| flushed.time));
        }
        assert!(times.is_sorted(), "{times:?}");
        let at = async |second: i64| {
            let time = begin + Duration::seconds(second) + Duration::milliseconds(500);
            choose(&target, Point::Time(time), &Keys::default()).await.map(|point| point.version)
        };
        assert_eq!(at(4).await.unwrap(), BASE + 5);
        // While the clock was wrong, time stood still.
        assert_eq!(at(9).await.unwrap(), BASE + 20);
        assert_eq!(at(24).await.unwrap(), BASE + 25);
        for second in [-3700, 40] {
            let error = at(second).await.unwrap_err();
            assert!(matches!(error, BackupError::NotRestorable { .. }), "{error}");
        }
    });
}

#[test]
fn replicated_time_tells_when_versions_were_committed_that_the_archiver_reads_late() {
    run(async {
        let (_, target) = memory();
        let mut history = History::new(10);
        full(&target, &history, &Sealing::None).await;
        let mut archiver = archiver(&target, Sealing::None).await.unwrap();
        let begin = OffsetDateTime::now_utc() + Duration::hours(1);
        while history.changes.len() < 2 || history.changes.last().unwrap().version.0 != history.version() {
            history.step();
        }
        let first = history.version();
        archiver.add(&history.between(BASE, first), first, begin, true);
        archiver.flush().await.unwrap();
        while history.version() < first + 20 || history.changes.last().unwrap().version.0 != history.version() {
            history.step();
        }
        // An hour later it reads the rest at once; the versions are a second apart.
        let (after, through) = (archiver.position(), history.version());
        archiver.add(&history.between(after, through), through, begin + Duration::hours(1), false);
        archiver.flush().await.unwrap();
        let time = begin + Duration::seconds((through - first) as i64);
        assert_eq!(choose(&target, Point::Time(time), &Keys::default()).await.unwrap().version, through);
        assert!(choose(&target, Point::Time(time + Duration::seconds(1)), &Keys::default()).await.is_err());
    });
}

#[test]
fn an_encrypted_archive_tells_no_keys_and_opens_with_no_other_key() {
    run(async {
        let (folder, path) = key_file();
        let (store, target) = memory();
        let mut writer =
            BackupWriter::begin(target.clone(), description(BASE), &Sealing::key_file(&path).unwrap()).await.unwrap();
        writer.family("").await.unwrap();
        writer.finish().await.unwrap();
        let mut archiver = archiver(&target, Sealing::key_file(&path).unwrap()).await.unwrap();
        let effect = Effect::Set { key: "secretkey".into(), value: "secretvalue".into() };
        let effects = vec![FamilyEffect { column_family: "secretfamily".to_string(), effect }];
        archiver.add(&[Change { version: Version(BASE + 1), time_us: 1, effects }], BASE + 1, noon(), true);
        archiver.flush().await.unwrap();
        for name in segments(&store).await {
            let bytes = store.get(&Path::parse(name).unwrap()).await.unwrap().bytes().await.unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"secret"));
        }
        let other = folder.path().join("other");
        KeyFile::create(&other).unwrap();
        for keys in [Keys::default(), keys(&other)] {
            let error = restored(&target, BASE + 1, &Arc::new(keys)).await.unwrap_err();
            assert!(matches!(&error, BackupError::Input(text) if text.contains("needs the key file")), "{error}");
        }
        assert_eq!(restored(&target, BASE + 1, &Arc::new(keys(&path))).await.unwrap().len(), 1);
        assert_eq!(findings(&target, &Keys::default()).await, [""; 0], "hashes can be compared without a key");
    });
}

#[test]
fn prune_leaves_every_point_that_a_kept_backup_leads_to() {
    run(async {
        let (store, target) = memory();
        let mut history = History::new(11);
        full(&target, &history, &Sealing::None).await;
        let mut archiver = archiver(&target, Sealing::None).await.unwrap();
        for _ in 0..3 {
            (0..10).for_each(|_| history.step());
            archive(&mut archiver, &mut history).await;
            full(&target, &history, &Sealing::None).await;
        }
        let day = std::time::Duration::from_secs(86_400);
        let now = OffsetDateTime::now_utc();
        let before = segments(&store).await;
        // All are young: everything stays.
        let plan = crate::plan_prune(&target, 14 * day, now, false).await.unwrap();
        assert!(plan.removed.is_empty() && plan.segments.is_empty());
        // All are old: the newest stays, and no segment before it.
        let plan = crate::plan_prune(&target, 14 * day, now + 20 * day, false).await.unwrap();
        assert_eq!((plan.removed.len(), plan.segments.len()), (3, before.len() - 1));
        // The third one stays the base of the archive as long as this leads from there to what is young.
        (0..10).for_each(|_| history.step());
        archive(&mut archiver, &mut history).await;
        let plan = crate::plan_prune(&target, 14 * day, now + 20 * day, false).await.unwrap();
        crate::prune(&target, &plan).await.unwrap();
        assert_eq!(findings(&target, &Keys::default()).await, [""; 0]);
        for place in 30..=40 {
            let rows = restored(&target, BASE + place, &Arc::default()).await.unwrap();
            assert!(rows == history.rows[place as usize]);
        }
        let error = restored(&target, BASE + 29, &Arc::default()).await.unwrap_err();
        assert!(matches!(error, BackupError::NotRestorable { oldest: 130, newest: 140, .. }), "{error}");
        history.step();
        archive(&mut archiver, &mut history).await;
        assert!(restored(&target, history.version(), &Arc::default()).await.is_ok());
    });
}
