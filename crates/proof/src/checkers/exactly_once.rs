//! Exactly once: a request (or all tries under one idempotency id) takes effect once if it was
//! acknowledged, never if it was refused, at most once otherwise; and every acknowledgement names
//! the same place.
//!
//! Source: the contract of sessions and idempotency ids; Lee et al., *Implementing Linearizability
//! at Large Scale and Low Latency* (SOSP 2015), for the definition across retries. Effects are what
//! a look at the whole state shows: pairs of a token and the place (sequence, commit version) where
//! it took effect. O(log n) per event.
//!
//! A try that fails says nothing about the token as long as other tries of it may still run: the
//! token is refused only when its owner says so ([`ExactlyOnce::refuse`]). An effect seen before
//! anyone asked for it is rejected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use super::{Verdict, Violation};

#[derive(Debug)]
pub struct ExactlyOnce<T> {
    asked: BTreeSet<T>,
    /// Where each acknowledged one took effect.
    acknowledged: BTreeMap<T, u64>,
    refused: BTreeSet<T>,
}

impl<T> Default for ExactlyOnce<T> {
    fn default() -> Self {
        ExactlyOnce { asked: BTreeSet::new(), acknowledged: BTreeMap::new(), refused: BTreeSet::new() }
    }
}

fn violation(anomaly: &'static str, story: String) -> Verdict {
    Err(Violation::new("exactly once", anomaly, story))
}

impl<T: Ord + Clone + Debug> ExactlyOnce<T> {
    /// Somebody asks for it, for the first time or again.
    pub fn ask(&mut self, token: T) {
        self.asked.insert(token);
    }

    /// A try was answered: it took effect at `place`. Every try must report the same place.
    pub fn acknowledge(&mut self, token: T, place: u64) -> Verdict {
        if self.refused.contains(&token) {
            return violation("acknowledged after refused", format!("{token:?} at {place}"));
        }
        match self.acknowledged.insert(token.clone(), place) {
            Some(before) if before != place => violation(
                "acknowledged at two places",
                format!("{token:?} was acknowledged at {before} and at {place}"),
            ),
            _ => Ok(()),
        }
    }

    /// A session's request, which is answered once: a second answer is an error in itself.
    pub fn acknowledge_once(&mut self, token: T, place: u64) -> Verdict {
        if let Some(before) = self.acknowledged.get(&token) {
            return violation("acknowledged twice", format!("{token:?} at {before}, then at {place}"));
        }
        self.acknowledge(token, place)
    }

    /// Not executed, now or later, by any try.
    pub fn refuse(&mut self, token: T) -> Verdict {
        if let Some(place) = self.acknowledged.get(&token) {
            return violation("refused after acknowledged", format!("{token:?} was acknowledged at {place}"));
        }
        self.refused.insert(token);
        Ok(())
    }

    /// All effects that `who` shows at the end, or at any moment at which nothing acknowledged may
    /// be missing.
    pub fn effects(&self, who: &str, effects: &[(T, u64)]) -> Verdict {
        let mut places: BTreeMap<&T, u64> = BTreeMap::new();
        for (token, place) in effects {
            if let Some(before) = places.insert(token, *place) {
                return violation("duplicate execution", format!("{who} shows {token:?} at {before} and at {place}"));
            }
            if self.refused.contains(token) {
                return violation("executed though refused", format!("{who} shows {token:?} at {place}"));
            }
            if !self.asked.contains(token) {
                return violation("invented", format!("{who} shows {token:?} at {place}, which nobody asked for"));
            }
        }
        for (token, place) in &self.acknowledged {
            match places.get(token) {
                None => return violation("lost acknowledged write", format!("{who} lacks {token:?} of {place}")),
                Some(shown) if shown != place => {
                    let story = format!("{who} shows {token:?} at {shown}; it was acknowledged at {place}");
                    return violation("moved", story);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 is acknowledged at 10, 2 is refused, 3 is unknown.
    fn requests() -> ExactlyOnce<u64> {
        let mut once = ExactlyOnce::default();
        for token in 1..=3 {
            once.ask(token);
        }
        once.acknowledge(1, 10).expect("the first answer");
        once.refuse(2).expect("the first answer");
        once
    }

    #[test]
    fn an_acknowledged_effect_once_and_an_unknown_one_at_most_once_are_accepted() {
        requests().effects("replica 0", &[(1, 10)]).expect("3 never happened");
        requests().effects("replica 0", &[(1, 10), (3, 11)]).expect("3 happened");
    }

    #[test]
    fn bad_effects_are_rejected_by_name() {
        let cases: [(&[(u64, u64)], &str); 5] = [
            (&[(1, 10), (3, 11), (3, 12)], "duplicate execution"),
            (&[(1, 10), (2, 11)], "executed though refused"),
            (&[(3, 11)], "lost acknowledged write"),
            (&[(1, 11)], "moved"),
            (&[(1, 10), (9, 11)], "invented"),
        ];
        for (effects, anomaly) in cases {
            assert_eq!(requests().effects("replica 0", effects).expect_err(anomaly).anomaly, anomaly);
        }
    }

    #[test]
    fn tries_that_are_answered_with_the_same_place_are_accepted() {
        requests().acknowledge(1, 10).expect("the same answer again");
        let violation = requests().acknowledge(1, 12).expect_err("executed twice");
        assert_eq!(violation.anomaly, "acknowledged at two places");
    }

    #[test]
    fn a_request_of_a_session_is_answered_once() {
        let violation = requests().acknowledge_once(1, 10).expect_err("answered before");
        assert_eq!(violation.anomaly, "acknowledged twice");
    }

    #[test]
    fn two_different_fates_are_rejected() {
        assert_eq!(requests().refuse(1).expect_err("was acknowledged").anomaly, "refused after acknowledged");
        assert_eq!(requests().acknowledge(2, 9).expect_err("was refused").anomaly, "acknowledged after refused");
    }
}
