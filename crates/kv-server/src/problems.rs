//! The problems of this process that an operator must know, each with its remedy.
//!
//! Parts of the server register sources, and each request for `/status` asks all of them. Nothing
//! is stored here, so a problem that is over does not appear in the next answer.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use serde::Serialize;

/// A problem in words for people, with the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A stable name for programs, in snake case: `disk_full`.
    pub kind: &'static str,
    /// The replica that has the problem; `None` if it concerns the whole process.
    pub replica: Option<u32>,
    /// The problem, with numbers.
    pub text: String,
    /// The remedy that the operator can apply.
    pub remedy: String,
}

impl Problem {
    /// A problem that concerns the whole process.
    pub fn new(kind: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem { kind, replica: None, text: text.into(), remedy: remedy.into() }
    }

    /// Makes it a problem of one replica.
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

/// The sources of problems in this process.
#[derive(Default)]
pub struct Problems {
    sources: RwLock<Vec<Source>>,
}

impl Problems {
    /// Registers `source`. It must answer at once, because a request waits for it.
    pub fn watch(&self, source: impl Fn() -> Vec<Problem> + Send + Sync + 'static) {
        self.sources.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// The present problems.
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
