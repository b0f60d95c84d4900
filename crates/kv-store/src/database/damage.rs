//! Detects damage: remembers the first corruption that a use of the engine reports, and notifies
//! the owner of the database.

use std::sync::PoisonError;

use kv_api::KvError;

use crate::sync::{Mutex, MutexGuard};

/// Called once, with a description of the damage.
type Report = Box<dyn FnOnce(&str) + Send>;

#[derive(Default)]
pub(crate) struct Damage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    found: Option<String>,
    report: Option<Report>,
}

impl Damage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the result through, and records a corruption.
    pub fn watch<T>(&self, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(KvError::Corruption(reason)) = &result {
            self.record(reason);
        }
        result
    }

    fn record(&self, reason: &str) {
        let mut state = self.state();
        if state.found.is_some() {
            return;
        }
        tracing::error!("found damage in the database: {reason}");
        state.found = Some(reason.to_owned());
        let report = state.report.take();
        drop(state);
        if let Some(report) = report {
            report(reason);
        }
    }

    /// Calls `report` once damage is found; at once if it was found before.
    pub fn report_to(&self, report: Report) {
        let mut state = self.state();
        match state.found.clone() {
            None => state.report = Some(report),
            Some(reason) => {
                drop(state);
                report(&reason);
            }
        }
    }

    pub fn found(&self) -> Option<String> {
        self.state().found.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::schedules::{Scene, every_schedule};

    fn listener() -> (Report, Arc<Mutex<Vec<String>>>) {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let keep = reports.clone();
        (Box::new(move |reason: &str| keep.lock().unwrap().push(reason.to_owned())), reports)
    }

    #[test]
    fn only_damage_is_reported_and_only_the_first() {
        let damage = Damage::default();
        let (report, reports) = listener();
        damage.report_to(report);
        damage.watch(Err::<(), _>(KvError::Storage("slow".into()))).unwrap_err();
        assert_eq!(damage.found(), None);
        damage.watch(Err::<(), _>(KvError::Corruption("first".into()))).unwrap_err();
        damage.watch(Err::<(), _>(KvError::Corruption("second".into()))).unwrap_err();
        assert_eq!(*reports.lock().unwrap(), ["first"]);
        assert_eq!(damage.found().as_deref(), Some("first"));
    }

    #[test]
    fn a_late_listener_gets_a_report_at_once() {
        let damage = Damage::default();
        damage.watch(Err::<(), _>(KvError::Corruption("first".into()))).unwrap_err();
        let (report, reports) = listener();
        damage.report_to(report);
        assert_eq!(*reports.lock().unwrap(), ["first"]);
    }

    #[test]
    fn damage_that_two_threads_find_is_reported_once_to_a_listener_that_comes_meanwhile() {
        every_schedule(3, || {
            let damage = Arc::new(Damage::default());
            let (report, reports) = listener();
            let find = |reason: &'static str| {
                let damage = damage.clone();
                move || drop(damage.watch(Err::<(), _>(KvError::Corruption(reason.into()))).unwrap_err())
            };
            let (first, second) = (find("first"), find("second"));
            let found = damage.clone();
            let check = move || assert_eq!(*reports.lock().unwrap(), [found.found().unwrap()]);
            Scene::default().thread(first).thread(second).thread(move || damage.report_to(report)).end(check)
        });
    }

    #[test]
    fn a_report_may_ask_for_the_damage() {
        for is_found_before in [false, true] {
            // A lock that its own holder asks for shows up here as a failure instead of a hang.
            every_schedule(0, || {
                let damage = Arc::new(Damage::default());
                let (asked, reports) = (damage.clone(), Arc::new(Mutex::new(None)));
                let keep = reports.clone();
                let report = Box::new(move |_: &str| *keep.lock().unwrap() = asked.found());
                let run = move || {
                    let find = || drop(damage.watch(Err::<(), _>(KvError::Corruption("first".into()))).unwrap_err());
                    if is_found_before {
                        find();
                        damage.report_to(report);
                    } else {
                        damage.report_to(report);
                        find();
                    }
                };
                let check = move || assert_eq!(reports.lock().unwrap().as_deref(), Some("first"));
                Scene::default().thread(run).end(check)
            });
        }
    }
}
