//! Recovery of the write-ahead log from any files, and from the files of a real log that were damaged.
//!
//! For any contents of the disk, recovery ends with a log or with an error that names the damage.
//! After a recovery, a crash does not change the log, and the log can be continued at its end unless
//! its numbers are used up, which changes nothing. If the damage is a device's, so that no checksum was made right again, every recovered entry was
//! written at its place, and so was the hard state. If only single bits changed, the log keeps its
//! length, and each entry is the newest one of its place, or known to be lost.

mod damage;
mod script;

use std::sync::Arc;

use bytes::Bytes;
use rsml::wal::{SimulatedDisk, WalOptions, WalStorage};
use rsml::{Boot, HardState, Persist, Recovered, Sequence, Storage, StorageError, WriteId};

use crate::Input;
use damage::Damage;
use script::Script;

/// A row of files: each a number, a length in blocks, and the bytes that its blocks begin with.
pub fn any_files(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (seal, file_count) = (input.byte() & 1 == 1, input.below(4));
    let disk = SimulatedDisk::new(1);
    for _ in 0..file_count {
        let (name, content) = damage::any_file(&mut input);
        disk.put(&name, content);
    }
    if seal {
        damage::seal(&disk);
    }
    check_recovery(&disk, damage::BLOCK_BYTES * 2);
}

/// A log as its writes make it, and then up to eight pieces of damage.
pub fn damaged_log(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let forge = input.byte() & 1 == 1;
    let log = Script::play(&mut input);
    let mut only_flips = true;
    for _ in 0..input.below(9) {
        let kind = damage::one(&log.disk, &mut input);
        only_flips &= kind == Damage::FlippedBit;
    }
    if forge {
        damage::seal(&log.disk);
    }
    let Some(found) = check_recovery(&log.disk, log.segment_bytes) else { return };
    if !forge {
        log.check_nothing_made_up(&found);
    }
    if !forge && only_flips {
        log.check_nothing_forgotten(&found);
    }
}

/// The result of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    hard_state: Option<HardState>,
    first: Sequence,
    last: Sequence,
    /// Of `first..=last`; `None` where it is known to be damaged.
    entries: Vec<Option<Bytes>>,
}

fn recover(disk: &SimulatedDisk, segment_bytes: usize) -> Result<(WalStorage, Found), StorageError> {
    let options = WalOptions {
        segment_bytes: segment_bytes as u64,
        background_preparation: false,
        direct_writes: false,
        segment_id_seed: 7,
    };
    let mut log = WalStorage::over(Arc::new(disk.clone()), options);
    let Recovered { hard_state, first, last, lost } = log.recover()?;
    let entries = log.load(Sequence::ZERO)?;
    let is_lost = |sequence: u64| lost.iter().any(|(from, to)| (from.0..=to.0).contains(&sequence));
    let mut numbered = (first.0..).zip(&entries);
    assert!(numbered.all(|(sequence, entry)| entry.is_none() || !is_lost(sequence)), "lost {lost:?}, and yet there");
    Ok((log, Found { hard_state, first, last, entries }))
}

/// Returns false if the log has no numbers left.
fn append(log: &mut WalStorage, found: &Found, entry: Bytes) -> bool {
    let hard_state = HardState { boot: Boot(77), ..found.hard_state.unwrap_or_default() };
    let from = found.last.next();
    let write = Persist { write_id: WriteId(1), hard_state, base: None, from, truncate: false, entries: vec![entry] };
    match log.persist(&[write]) {
        Err(StorageError::Exhausted { .. }) => false,
        persisted => {
            assert_eq!(persisted.expect("the disk is healthy"), 1);
            true
        }
    }
}

fn check_recovery(disk: &SimulatedDisk, segment_bytes: usize) -> Option<Found> {
    let found = match recover(disk, segment_bytes) {
        Ok((_, found)) => found,
        Err(error) => {
            check_error(&error);
            disk.crash();
            assert!(recover(disk, segment_bytes).is_err(), "refused once ({error}), and then taken");
            return None;
        }
    };
    check_shape(&found);
    disk.crash();
    let (mut log, again) = recover(disk, segment_bytes).expect("it could be recovered before");
    assert_eq!(again, found, "a crash after recovery changed the log");
    let was_appended = append(&mut log, &found, Bytes::from_static(b"what comes next"));
    drop(log);
    disk.crash();
    if !was_appended {
        let (_, again) = recover(disk, segment_bytes).expect("it could be recovered before");
        assert_eq!(again, found, "a write that was refused changed the log");
        return Some(found);
    }
    let (mut log, longer) = recover(disk, segment_bytes).expect("it could be recovered before");
    assert_eq!(longer.last, found.last.next());
    assert_eq!(longer.entries.last(), Some(&Some(Bytes::from_static(b"what comes next"))));
    assert_eq!(longer.entries[..found.entries.len()], found.entries);
    log.trim(longer.last).expect("the disk is healthy");
    let read = log.read(longer.last, longer.last, 1).expect("the disk is healthy");
    assert_eq!(read, [Bytes::from_static(b"what comes next")]);
    Some(found)
}

/// The disk works; only what it holds may be objected to.
fn check_error(error: &StorageError) {
    let names_damage =
        matches!(error, StorageError::Damaged { .. } | StorageError::Version { .. } | StorageError::Exhausted { .. });
    assert!(names_damage && !error.to_string().is_empty(), "{error}");
}

fn check_shape(found: &Found) {
    let count = found.last.0 + 1 - found.first.0;
    assert_eq!(found.entries.len() as u64, count, "{} to {}", found.first, found.last);
}

pub fn file_seeds() -> Vec<Vec<u8>> {
    damage::file_seeds(&script::sample_scripts())
}

pub fn damage_seeds() -> Vec<Vec<u8>> {
    let scripts = script::sample_scripts();
    let damages = damage::sample_damages();
    let pairs = scripts.iter().cycle().zip(&damages).enumerate();
    pairs.map(|(number, (script, damage))| [&[number as u8][..], script, damage].concat()).collect()
}
