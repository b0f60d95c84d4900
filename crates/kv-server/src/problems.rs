//! What an operator has to know about this process, each with what to do about it.
//!
//! Whoever can tell registers a source; `/status` asks all of them each time. Nothing is stored here, so a problem that has
//! passed is gone from the next answer.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use serde::Serialize;

/// Something that is wrong, in words for people, with the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A stable name for programs, in snake case: `disk_full`.
    pub kind: &'static str,
    /// The replica that has it; `None` where it concerns the whole process.
    pub replica: Option<u32>,
    /// What is wrong, with the figures.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// One that concerns the whole process.
    pub fn new(kind: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem { kind, replica: None, text: text.into(), remedy: remedy.into() }
    }

    /// The same, of one replica.
    pub fn of_replica(self, id: u32) -> Self {
        Problem { replica: Some(id), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.text, self.remedy)
    }
}

type Source = Box<dyn Fn() -> Vec<Problem> + Send + Sync>;

/// Everything in this process that can tell of problems.
#[derive(Default)]
pub struct Problems {
    sources: RwLock<Vec<Source>>,
}

impl Problems {
    /// Asks `source` from now on. It must answer at once: it is called while a request waits.
    pub fn watch(&self, source: impl Fn() -> Vec<Problem> + Send + Sync + 'static) {
        self.sources.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// Those that there are now.
    pub fn list(&self) -> Vec<Problem> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        sources.iter().flat_map(|source| source()).collect()
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_problem_that_has_passed_is_listed_no_more() {
        let problems = Problems::default();
        let is_full = Arc::new(AtomicBool::new(true));
        let seen = is_full.clone();
        problems.watch(move || match seen.load(Ordering::Relaxed) {
            true => vec![Problem::new("disk_full", "the disk is full", "make space").of_replica(1)],
            false => Vec::new(),
        });
        assert_eq!(problems.list()[0].to_string(), "the disk is full; make space");
        is_full.store(false, Ordering::Relaxed);
        assert_eq!(problems.list(), []);
    }
}
