//! The keys that clients use most: one sketch for each family and kind of use, over the last minute.
//!
//! It costs a request next to nothing: 15 of 16 requests only draw a random number, and one that is
//! counted never waits for a lock: if another one is counted at that moment, it is left out.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::sketch::{Counted, MAX_KEYS, Sketch};
use super::{shown, shown_family};

/// One read or write in so many is counted.
const SAMPLED: u64 = 16;
/// Counts are kept for one to two of these.
const GENERATION: Duration = Duration::from_secs(30);
/// Only so many bytes of a key are kept; longer keys that begin alike are one.
const KEY_BYTES: usize = 256;
/// Bounds memory.
const MAX_FAMILIES: usize = 64;

/// How keys are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Read, or the begin of a range that was read.
    Reads,
    /// Written, or the begin of a range that was cleared.
    Writes,
    /// Named by a conflict that refused a commit.
    Conflicts,
}

impl By {
    /// All, in the order of their sketches.
    pub const ALL: [By; 3] = [By::Reads, By::Writes, By::Conflicts];

    /// Its name for operators.
    pub fn name(self) -> &'static str {
        match self {
            By::Reads => "reads",
            By::Writes => "writes",
            By::Conflicts => "conflicts",
        }
    }

    /// Every conflict is counted, because they are few.
    fn weight(self) -> u64 {
        if self == By::Conflicts { 1 } else { SAMPLED }
    }
}

/// Counts of one stretch of time.
struct Generation {
    since: Instant,
    families: HashMap<String, [Sketch; 3]>,
    /// Samples in families beyond the limit.
    left_out: u64,
}

impl Generation {
    fn new(since: Instant) -> Self {
        Generation { since, families: HashMap::new(), left_out: 0 }
    }
}

struct Generations {
    present: Generation,
    previous: Option<Generation>,
}

impl Generations {
    fn advance(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.present.since);
        if age >= GENERATION {
            let ended = std::mem::replace(&mut self.present, Generation::new(now));
            self.previous = Some(ended).filter(|_| age < 2 * GENERATION);
        }
    }

    fn add(&mut self, by: By, family: &str, key: &[u8]) {
        let Generation { families, left_out, .. } = &mut self.present;
        if !families.contains_key(family) {
            if families.len() >= MAX_FAMILIES {
                *left_out += 1;
                return;
            }
            families.insert(family.to_string(), Default::default());
        }
        if let Some(sketches) = families.get_mut(family) {
            sketches[by as usize].add(&key[..key.len().min(KEY_BYTES)], by.weight());
        }
    }
}

/// The most used keys.
pub(super) struct Top {
    generations: Mutex<Generations>,
    /// Samples that were left out because another one was being counted.
    missed: AtomicU64,
}

impl Top {
    pub fn new(now: Instant) -> Self {
        let generations = Generations { present: Generation::new(now), previous: None };
        Top { generations: Mutex::new(generations), missed: AtomicU64::new(0) }
    }

    /// Counts these keys.
    pub fn add<'k>(&self, by: By, keys: impl Iterator<Item = (&'k str, &'k [u8])>, now: Instant) {
        let mut generations = match self.generations.try_lock() {
            Ok(generations) => generations,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        generations.advance(now);
        for (family, key) in keys {
            generations.add(by, family, key);
        }
    }

    /// The most used keys of one family or of all, with rates.
    pub fn show(&self, by: By, family: Option<&str>, limit: usize, now: Instant) -> Value {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.advance(now);
        let Generations { present, previous } = &*generations;
        let since = previous.as_ref().map_or(present.since, |previous| previous.since);
        let seconds = now.saturating_duration_since(since).as_secs_f64().max(1.0);
        let mut sums: HashMap<(&str, &Bytes), (u64, u64)> = HashMap::new();
        for generation in previous.iter().chain([present]) {
            let wanted = generation.families.iter().filter(|(name, _)| family.is_none_or(|family| family == **name));
            for (name, sketches) in wanted {
                for Counted { key, count, error } in sketches[by as usize].keys() {
                    let sum = sums.entry((name, key)).or_default();
                    *sum = (sum.0 + count, sum.1 + error);
                }
            }
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_unstable_by(|(place, sum), (other_place, other)| (other.0, place).cmp(&(sum.0, other_place)));
        let keys = all.into_iter().take(limit.min(MAX_KEYS)).map(|((family, key), (count, error))| {
            json!({
                "family": shown_family(family), "key": shown(key), "count": count, "at_least": count - error,
                "per_second": (count as f64 / seconds * 10.0).round() / 10.0,
            })
        });
        json!({
            "by": by.name(), "seconds": seconds.round(), "sampled_one_in": by.weight(), "keys": keys.collect::<Vec<_>>(),
            "samples_missed": self.missed.load(Ordering::Relaxed),
            "samples_in_further_families": present.left_out,
        })
    }
}

thread_local! {
    static RANDOM: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish() | 1);
}

/// Whether this request is counted. Random, because a client may use keys in a fixed rhythm.
pub(super) fn is_sampled() -> bool {
    RANDOM.with(|random| {
        // Marsaglia's xorshift.
        let mut state = random.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        random.set(state);
        state.is_multiple_of(SAMPLED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(shown: &Value) -> Vec<(String, u64)> {
        let keys = shown["keys"].as_array().expect("a list").iter();
        keys.map(|key| (key["key"].as_str().expect("text").to_string(), key["count"].as_u64().expect("whole")))
            .collect()
    }

    #[test]
    fn the_most_used_key_comes_first_and_families_are_apart() {
        let now = Instant::now();
        let top = Top::new(now);
        for _ in 0..3 {
            top.add(By::Writes, [("", &b"often"[..]), ("f", b"other")].into_iter(), now);
        }
        top.add(By::Writes, [("", &b"once"[..])].into_iter(), now);
        assert_eq!(keys(&top.show(By::Writes, Some(""), 10, now)), [("often".into(), 48), ("once".into(), 16)]);
        assert_eq!(keys(&top.show(By::Writes, None, 2, now)).len(), 2);
        assert!(keys(&top.show(By::Reads, None, 10, now)).is_empty());
    }

    #[test]
    fn counts_are_forgotten_after_one_to_two_generations() {
        let start = Instant::now();
        let top = Top::new(start);
        top.add(By::Conflicts, [("", &b"k"[..])].into_iter(), start);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(keys(&top.show(By::Conflicts, None, 10, later(31))), [("k".into(), 1)]);
        top.add(By::Conflicts, [("", &b"k"[..])].into_iter(), later(40));
        assert_eq!(keys(&top.show(By::Conflicts, None, 10, later(50))), [("k".into(), 2)]);
        assert_eq!(keys(&top.show(By::Conflicts, None, 10, later(62))), [("k".into(), 1)]);
        assert!(keys(&top.show(By::Conflicts, None, 10, later(200))).is_empty());
    }

    #[test]
    fn memory_is_bounded_in_families_and_in_bytes_of_a_key() {
        let now = Instant::now();
        let top = Top::new(now);
        let long = vec![b'x'; 10_000];
        for number in 0..MAX_FAMILIES + 5 {
            top.add(By::Reads, [(&*format!("f{number}"), &long[..])].into_iter(), now);
        }
        let shown = top.show(By::Reads, None, 1, now);
        assert_eq!(shown["samples_in_further_families"], 5);
        assert!(keys(&shown)[0].0.len() <= KEY_BYTES);
    }

    #[test]
    fn about_one_in_sixteen_is_sampled() {
        let sampled = (0..16_000).filter(|_| is_sampled()).count();
        assert!((800..1200).contains(&sampled), "{sampled}");
    }
}
