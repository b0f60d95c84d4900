//! Linearizability of registers: is there one order of all effects, each between its call and its
//! return, in which every read and every compare-and-set finds what was written last?
//!
//! Source: Herlihy and Wing (1990) for the definition and for locality (each key is judged alone);
//! Wing and Gong (1993) for the search; Lowe (*Testing for linearizability*, 2017) for remembering
//! configurations, the pair of what has taken effect and the value that this left: none is searched
//! twice.
//!
//! Unknown outcomes may take effect at any time after their call, or never. Two reductions keep
//! them from making the search explode, neither of which changes the verdict:
//! - An unknown write of a value that nobody observed is left out: where it stands in a valid
//!   order, nobody looks before the next write.
//! - An unknown write that alone can have produced an observed value did take effect, before its
//!   first observer returned.
//!
//! Two more hold for all: a read that fits the present value takes effect at once (it changes
//! nothing, so a later place could only be worse), and reads of values that were never written,
//! written only by failures, or written only after the read returned are named without a search.
//!
//! The search is exponential in the number of overlapping operations in the worst case. It is
//! bounded by a number of configurations; beyond it the answer is [`Judgement::Undecided`], which
//! is not a pass. Configurations are remembered by a 128-bit hash of what has taken effect, so that
//! two could be confused with a probability of about n²/2¹²⁸; that can only make a good history
//! look bad, never the reverse.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Violation;
use crate::history::{Operation, Outcome, RegisterKind};

/// Configurations searched per key before giving up, unless the caller says otherwise: about 100
/// MB.
pub const CONFIGURATIONS: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Linearizable,
    NotLinearizable(Violation),
    /// No order was found for this key, and not all have been tried.
    Undecided {
        key: u64,
        operations: usize,
        configurations: usize,
    },
}

/// Judges each key by itself, searching up to `limit` configurations for each. A violation of any
/// key outweighs an undecided one.
pub fn check(history: &[Operation<RegisterKind>], limit: usize) -> Judgement {
    let mut keys: BTreeMap<u64, Vec<&Operation<RegisterKind>>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.kind.key()).or_default().push(operation);
    }
    let mut verdict = Judgement::Linearizable;
    for (key, operations) in keys {
        match check_key(key, &operations, limit) {
            Judgement::Linearizable => {}
            undecided @ Judgement::Undecided { .. } => verdict = undecided,
            violation @ Judgement::NotLinearizable(_) => return violation,
        }
    }
    verdict
}

fn check_key(key: u64, history: &[&Operation<RegisterKind>], limit: usize) -> Judgement {
    if let Some(violation) = impossible_read(key, history) {
        return Judgement::NotLinearizable(violation);
    }
    let calls = reduce(history);
    let operations = calls.len();
    let mut search = Search::new(calls);
    match search.run(limit) {
        Some(true) => Judgement::Linearizable,
        Some(false) => {
            Judgement::NotLinearizable(Violation::new("linearizability", "not linearizable", search.story(key)))
        }
        None => Judgement::Undecided { key, operations, configurations: search.visited.len() },
    }
}

/// A read whose value cannot come from anywhere.
fn impossible_read(key: u64, history: &[&Operation<RegisterKind>]) -> Option<Violation> {
    // Per value: the first call of a write of it that did not fail; `None` if all failed.
    let mut writers: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    for operation in history {
        let Some((_, value)) = operation.kind.written() else { continue };
        let first = writers.entry(value).or_default();
        if operation.outcome != Outcome::Fail {
            *first = Some(first.map_or(operation.called_us, |called_us| called_us.min(operation.called_us)));
        }
    }
    for operation in history.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let Some(value) = operation.kind.observed().filter(|value| *value != 0) else { continue };
        let anomaly = match writers.get(&value) {
            None => "invented value",
            Some(None) => "dirty read",
            Some(Some(called_us)) if *called_us > operation.returned_us => "read from the future",
            Some(Some(_)) => continue,
        };
        let story = format!("key {key}: {}", describe(operation));
        return Some(Violation::new("linearizability", anomaly, story));
    }
    None
}

fn describe(operation: &Operation<RegisterKind>) -> String {
    let what = match operation.kind {
        RegisterKind::Write { value, .. } => format!("writes {value}"),
        RegisterKind::Read { value, .. } => format!("reads {value}"),
        RegisterKind::CompareAndSet { expected, new, .. } => format!("sets {expected} to {new}"),
    };
    let end = match operation.outcome {
        Outcome::Ok => format!("{} us", operation.returned_us),
        Outcome::Unknown => "unknown".to_string(),
        Outcome::Fail => format!("{} us (failed)", operation.returned_us),
    };
    format!("client {} {what} ({} us – {end})", operation.client.0, operation.called_us)
}

/// An operation of the search.
struct Call {
    called_us: u64,
    /// `None`: it may still take effect at the end of time, or never.
    returned_us: Option<u64>,
    kind: RegisterKind,
    text: String,
}

/// Leaves out what took no effect, and settles unknown outcomes where observers tell of them.
fn reduce(history: &[&Operation<RegisterKind>]) -> Vec<Call> {
    let of = |wanted: Outcome| history.iter().copied().filter(move |operation| operation.outcome == wanted);
    let mut observed: BTreeSet<u64> = of(Outcome::Ok).filter_map(|o| o.kind.observed()).collect();
    let mut unknown: Vec<_> = of(Outcome::Unknown).filter(|o| o.kind.written().is_some()).collect();
    let mut kept = Vec::new();
    loop {
        let is_observed = |o: &&Operation<RegisterKind>| o.kind.written().is_some_and(|(_, v)| observed.contains(&v));
        let (more, rest): (Vec<&Operation<RegisterKind>>, Vec<_>) = unknown.into_iter().partition(is_observed);
        if more.is_empty() {
            break;
        }
        observed.extend(more.iter().filter_map(|operation| operation.kind.observed()));
        kept.extend(more);
        unknown = rest;
    }
    let mut writers: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, value) in of(Outcome::Ok).chain(kept.iter().copied()).filter_map(|operation| operation.kind.written()) {
        *writers.entry(value).or_default() += 1;
    }
    let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in of(Outcome::Ok) {
        if let Some(value) = operation.kind.observed() {
            let seen_us = first_seen.entry(value).or_insert(u64::MAX);
            *seen_us = operation.returned_us.min(*seen_us);
        }
    }
    let call = |operation: &Operation<RegisterKind>, returned_us| Call {
        called_us: operation.called_us,
        returned_us,
        kind: operation.kind.clone(),
        text: describe(operation),
    };
    let sure = of(Outcome::Ok).map(|operation| call(operation, Some(operation.returned_us)));
    let settled = kept.iter().map(|operation| {
        let only = |value: &u64| *value != 0 && writers[value] == 1;
        let value = operation.kind.written().map(|(_, value)| value).filter(only);
        call(operation, value.and_then(|value| first_seen.get(&value).copied()))
    });
    let mut calls: Vec<Call> = sure.chain(settled).collect();
    calls.sort_by_key(|call| call.called_us);
    calls
}

/// One operation that has taken effect on the way to the present configuration.
struct Step {
    call: usize,
    value_before: u64,
    /// A read that took effect because it fitted: no other choice needs to be tried in its place.
    is_forced: bool,
}

/// The search of one key. Events (calls and returns in the order of time) stand in a doubly linked
/// list, from which operations that have taken effect are lifted; the candidates for the next
/// effect are the calls before the first return.
struct Search {
    calls: Vec<Call>,
    /// Event → the operation, and whether this is its call. Event 0 is the head.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Operation → its two events.
    places: Vec<(usize, Option<usize>)>,
    /// Operations with a return that have not taken effect yet.
    open: usize,
    value: u64,
    taken: u128,
    steps: Vec<Step>,
    visited: HashSet<(u128, u64)>,
    /// The configuration furthest on, for the story: its steps, value and candidates.
    furthest: (usize, Vec<usize>, u64, Vec<usize>),
}

const END: usize = usize::MAX;

impl Search {
    fn new(calls: Vec<Call>) -> Search {
        // At equal times calls come before returns: what touches may overlap.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            events.push((call.called_us, false, index));
            if let Some(returned_us) = call.returned_us {
                events.push((returned_us.max(call.called_us), true, index));
            }
        }
        events.sort_unstable();
        let mut places = vec![(0, None); calls.len()];
        let mut list = vec![(usize::MAX, false)];
        for (_, is_return, index) in events {
            match is_return {
                false => places[index].0 = list.len(),
                true => places[index].1 = Some(list.len()),
            }
            list.push((index, !is_return));
        }
        let count = list.len();
        let open = calls.iter().filter(|call| call.returned_us.is_some()).count();
        Search {
            calls,
            events: list,
            next: (0..count).map(|event| if event + 1 < count { event + 1 } else { END }).collect(),
            previous: (0..count).map(|event| event.wrapping_sub(1)).collect(),
            places,
            open,
            value: 0,
            taken: 0,
            steps: Vec::new(),
            visited: HashSet::new(),
            furthest: (0, Vec::new(), 0, Vec::new()),
        }
    }

    /// Whether an order exists; `None` when the limit was reached first.
    fn run(&mut self, limit: usize) -> Option<bool> {
        self.take_fitting_reads();
        let mut event = self.next[0];
        while self.open > 0 {
            match self.candidate(event) {
                Some(call) => match self.try_call(call) {
                    true => event = self.next[0],
                    false => event = self.next[event],
                },
                None => {
                    self.remember_furthest();
                    match self.undo() {
                        Some(call) => event = self.next[self.places[call].0],
                        None => return Some(false),
                    }
                }
            }
            if self.visited.len() >= limit {
                return None;
            }
        }
        Some(true)
    }

    /// The operation whose call stands at `event`; `None` at a return and at the end.
    fn candidate(&self, event: usize) -> Option<usize> {
        if event == END {
            return None;
        }
        let (call, is_call) = self.events[event];
        is_call.then_some(call)
    }

    /// Lets the operation take effect, if it fits and leads to a configuration not seen before.
    fn try_call(&mut self, call: usize) -> bool {
        let after = match self.calls[call].kind {
            RegisterKind::Write { value, .. } => value,
            RegisterKind::CompareAndSet { expected, new, .. } if expected == self.value => new,
            // Reads that fit have been taken already.
            RegisterKind::CompareAndSet { .. } | RegisterKind::Read { .. } => return false,
        };
        self.take(call, after, false);
        self.take_fitting_reads();
        if self.visited.insert((self.taken, self.value)) {
            return true;
        }
        self.undo();
        false
    }

    fn take_fitting_reads(&mut self) {
        let mut event = self.next[0];
        while let Some(call) = self.candidate(event) {
            let mut before = event;
            if matches!(self.calls[call].kind, RegisterKind::Read { value, .. } if value == self.value) {
                // Its return goes with it, which may widen the window.
                before = self.previous[event];
                self.take(call, self.value, true);
            }
            event = self.next[before];
        }
    }

    fn take(&mut self, call: usize, value: u64, is_forced: bool) {
        self.steps.push(Step { call, value_before: self.value, is_forced });
        self.value = value;
        self.taken ^= mark(call);
        let (called, returned) = self.places[call];
        self.unlink(called);
        if let Some(returned) = returned {
            self.unlink(returned);
            self.open -= 1;
        }
    }

    /// Takes back steps through the last one that was a choice, and says which that was.
    fn undo(&mut self) -> Option<usize> {
        while let Some(step) = self.steps.pop() {
            self.value = step.value_before;
            self.taken ^= mark(step.call);
            let (called, returned) = self.places[step.call];
            if let Some(returned) = returned {
                self.link(returned);
                self.open += 1;
            }
            self.link(called);
            if !step.is_forced {
                return Some(step.call);
            }
        }
        None
    }

    fn unlink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = after;
        if after != END {
            self.previous[after] = before;
        }
    }

    fn link(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = event;
        if after != END {
            self.previous[after] = event;
        }
    }

    fn remember_furthest(&mut self) {
        if self.steps.len() <= self.furthest.0 && !self.furthest.3.is_empty() {
            return;
        }
        let mut candidates = Vec::new();
        let mut event = self.next[0];
        while let Some(call) = self.candidate(event) {
            candidates.push(call);
            event = self.next[event];
        }
        let last = self.steps.iter().rev().take(5).rev().map(|step| step.call).collect();
        self.furthest = (self.steps.len(), last, self.value, candidates);
    }

    fn story(&self, key: u64) -> String {
        let (count, last, value, candidates) = &self.furthest;
        let texts = |calls: &[usize]| calls.iter().map(|c| self.calls[*c].text.clone()).collect::<Vec<_>>().join("; ");
        format!(
            "key {key}: after {count} operations (the last: {}) the value is {value}, and nothing leads on from there: {}",
            texts(last),
            texts(candidates)
        )
    }
}

/// A random number per operation (SplitMix64 twice); the exclusive or of those that have taken
/// effect names the configuration.
fn mark(call: usize) -> u128 {
    let half = |salt: u64| {
        let mut z = (call as u64 ^ salt).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        u128::from(z ^ (z >> 31))
    };
    half(0) << 64 | half(0xD6E8_FEB8_6659_FD93)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::ClientId;

    fn operation(called_us: u64, returned_us: u64, kind: RegisterKind, outcome: Outcome) -> Operation<RegisterKind> {
        Operation { client: ClientId(called_us), called_us, returned_us, kind, outcome }
    }

    fn write(called_us: u64, returned_us: u64, value: u64) -> Operation<RegisterKind> {
        operation(called_us, returned_us, RegisterKind::Write { key: 1, value }, Outcome::Ok)
    }

    fn read(called_us: u64, returned_us: u64, value: u64) -> Operation<RegisterKind> {
        operation(called_us, returned_us, RegisterKind::Read { key: 1, value }, Outcome::Ok)
    }

    fn set(called_us: u64, returned_us: u64, expected: u64, new: u64) -> Operation<RegisterKind> {
        operation(called_us, returned_us, RegisterKind::CompareAndSet { key: 1, expected, new }, Outcome::Ok)
    }

    fn with(outcome: Outcome, mut operation: Operation<RegisterKind>) -> Operation<RegisterKind> {
        operation.outcome = outcome;
        operation
    }

    fn anomaly(history: &[Operation<RegisterKind>]) -> &'static str {
        match check(history, CONFIGURATIONS) {
            Judgement::NotLinearizable(violation) => violation.anomaly,
            Judgement::Linearizable => "none",
            Judgement::Undecided { .. } => "undecided",
        }
    }

    #[test]
    fn overlapping_operations_may_take_effect_in_any_order() {
        assert_eq!(anomaly(&[write(0, 10, 1), write(5, 15, 2), read(20, 30, 1)]), "none");
        assert_eq!(anomaly(&[write(0, 10, 1), write(5, 15, 2), read(20, 30, 2)]), "none");
        assert_eq!(anomaly(&[write(0, 100, 1), read(10, 20, 0), read(30, 40, 1)]), "none");
        assert_eq!(anomaly(&[write(0, 10, 1), read(10, 12, 0)]), "none", "they touch");
    }

    #[test]
    fn a_stale_read_is_rejected() {
        assert_eq!(anomaly(&[write(0, 10, 1), write(11, 20, 2), read(21, 30, 1)]), "not linearizable");
        assert_eq!(anomaly(&[write(0, 10, 1), read(11, 20, 0)]), "not linearizable");
    }

    #[test]
    fn reads_that_go_back_in_time_are_rejected() {
        assert_eq!(anomaly(&[write(0, 100, 1), read(10, 20, 1), read(30, 40, 0)]), "not linearizable");
    }

    #[test]
    fn a_lost_update_is_rejected() {
        assert_eq!(anomaly(&[write(0, 10, 1), set(20, 40, 1, 2), set(25, 45, 1, 3)]), "not linearizable");
        assert_eq!(anomaly(&[write(0, 10, 1), set(20, 40, 1, 2), set(25, 45, 2, 3)]), "none");
    }

    #[test]
    fn reads_without_a_possible_source_are_named() {
        assert_eq!(anomaly(&[write(0, 10, 1), read(20, 30, 7)]), "invented value");
        assert_eq!(anomaly(&[with(Outcome::Fail, write(0, 10, 1)), read(20, 30, 1)]), "dirty read");
        assert_eq!(anomaly(&[read(0, 10, 1), write(11, 20, 1)]), "read from the future");
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_or_never_but_not_twice() {
        let unknown = with(Outcome::Unknown, write(0, 0, 1));
        assert_eq!(anomaly(&[unknown.clone(), write(10, 20, 2), read(30, 40, 2), read(50, 60, 1)]), "none");
        assert_eq!(anomaly(&[unknown.clone(), write(10, 20, 2), read(30, 40, 2)]), "none");
        let twice = [unknown, read(10, 20, 1), write(30, 40, 2), read(50, 60, 2), read(70, 80, 1)];
        assert_eq!(anomaly(&twice), "not linearizable");
    }

    #[test]
    fn an_unknown_write_does_not_take_effect_before_its_call() {
        let late = with(Outcome::Unknown, write(50, 0, 1));
        assert_eq!(anomaly(&[late, read(10, 20, 1)]), "read from the future");
    }

    #[test]
    fn a_failed_compare_and_set_takes_no_effect() {
        let failed = with(Outcome::Fail, set(20, 30, 1, 2));
        assert_eq!(anomaly(&[write(0, 10, 1), failed.clone(), read(40, 50, 1)]), "none");
        assert_eq!(anomaly(&[write(0, 10, 1), failed, read(40, 50, 2)]), "dirty read");
    }

    #[test]
    fn an_unknown_compare_and_set_that_someone_saw_did_find_its_value() {
        let maybe = with(Outcome::Unknown, set(20, 0, 1, 2));
        assert_eq!(anomaly(&[write(0, 10, 1), maybe.clone(), read(40, 50, 2)]), "none");
        let chain = [maybe, with(Outcome::Unknown, write(0, 0, 1)), read(40, 50, 2)];
        assert_eq!(anomaly(&chain), "none", "the unknown write is seen by way of the unknown compare-and-set");
        let missing = [with(Outcome::Unknown, set(20, 0, 1, 2)), write(0, 10, 3), read(40, 50, 2)];
        assert_eq!(anomaly(&missing), "not linearizable");
    }

    #[test]
    fn keys_are_judged_apart_and_the_story_names_the_bad_one() {
        let mut other = write(0, 10, 1);
        other.kind = RegisterKind::Write { key: 2, value: 1 };
        let history = [other, write(0, 10, 1), write(11, 20, 2), read(21, 30, 1)];
        let Judgement::NotLinearizable(violation) = check(&history, CONFIGURATIONS) else { panic!("a stale read") };
        assert!(violation.story.starts_with("key 1: "), "{violation}");
        assert!(violation.story.contains("reads 1 (21 us – 30 us)"), "{violation}");
    }

    /// Many overlapping writes whose order a contradiction must be searched through.
    fn wide(writes: u64) -> Vec<Operation<RegisterKind>> {
        let mut history: Vec<_> = (1..=writes).map(|value| write(0, 1_000, value)).collect();
        history.extend((1..=writes).map(|value| read(500, 2_000, value)));
        history.push(write(3_000, 3_001, 99));
        history.push(read(4_000, 4_001, 1));
        history
    }

    #[test]
    fn a_search_that_is_cut_off_is_undecided() {
        assert_eq!(anomaly(&wide(6)), "not linearizable");
        let Judgement::Undecided { key: 1, operations: 42, .. } = check(&wide(20), 1_000) else {
            panic!("a thousand configurations cannot decide this");
        };
    }

    #[test]
    fn thousands_of_operations_with_many_unknown_ones_are_judged_in_few_steps() {
        let mut history = Vec::new();
        for value in 1..=5_000 {
            let unknown = with(Outcome::Unknown, write(value * 10, 0, 1_000_000 + value));
            history.extend([
                write(value * 10, value * 10 + 15, value),
                read(value * 10 + 4, value * 10 + 18, value),
                unknown,
            ]);
        }
        assert_eq!(check(&history, 20_000), Judgement::Linearizable);
    }
}
