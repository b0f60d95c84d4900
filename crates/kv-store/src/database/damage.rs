//! Whether the database was found to be damaged, and who wants to know.

use std::sync::PoisonError;

use kv_api::KvError;

use crate::sync::{Mutex, MutexGuard};

/// Called once, with what was found.
type Tell = Box<dyn FnOnce(&str) + Send>;

#[derive(Default)]
pub(crate) struct Damage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    found: Option<String>,
    tell: Option<Tell>,
}

impl Damage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what a use of the engine led to, and hands it on.
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
        let tell = state.tell.take();
        drop(state);
        if let Some(tell) = tell {
            tell(reason);
        }
    }

    /// Calls `tell` once there is damage: now, if some was found already.
    pub fn tell(&self, tell: Tell) {
        let mut state = self.state();
        match state.found.clone() {
            None => state.tell = Some(tell),
            Some(reason) => {
                drop(state);
                tell(&reason);
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
    use crate::sync::orders::{Scene, every_order};

    fn listener() -> (Tell, Arc<Mutex<Vec<String>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keep = heard.clone();
        (Box::new(move |reason: &str| keep.lock().unwrap().push(reason.to_owned())), heard)
    }

    #[test]
    fn only_damage_is_told_and_only_the_first() {
        let damage = Damage::default();
        let (tell, heard) = listener();
        damage.tell(tell);
        damage.watch(Err::<(), _>(KvError::Storage("slow".into()))).unwrap_err();
        assert_eq!(damage.found(), None);
        damage.watch(Err::<(), _>(KvError::Corruption("first".into()))).unwrap_err();
        damage.watch(Err::<(), _>(KvError::Corruption("second".into()))).unwrap_err();
        assert_eq!(*heard.lock().unwrap(), ["first"]);
        assert_eq!(damage.found().as_deref(), Some("first"));
    }

    #[test]
    fn who_asks_late_is_told_at_once() {
        let damage = Damage::default();
        damage.watch(Err::<(), _>(KvError::Corruption("first".into()))).unwrap_err();
        let (tell, heard) = listener();
        damage.tell(tell);
        assert_eq!(*heard.lock().unwrap(), ["first"]);
    }

    #[test]
    fn damage_that_two_find_while_somebody_begins_to_listen_is_told_once() {
        every_order(3, || {
            let damage = Arc::new(Damage::default());
            let (tell, heard) = listener();
            let find = |reason: &'static str| {
                let damage = damage.clone();
                move || drop(damage.watch(Err::<(), _>(KvError::Corruption(reason.into()))).unwrap_err())
            };
            let (first, second) = (find("first"), find("second"));
            let found = damage.clone();
            let check = move || assert_eq!(*heard.lock().unwrap(), [found.found().unwrap()]);
            Scene::default().thread(first).thread(second).thread(move || damage.tell(tell)).end(check)
        });
    }

    #[test]
    fn whoever_is_told_may_ask() {
        for is_found_before in [false, true] {
            // A lock that is asked for by who holds it is found here, and does not hang.
            every_order(0, || {
                let damage = Arc::new(Damage::default());
                let (asked, heard) = (damage.clone(), Arc::new(Mutex::new(None)));
                let keep = heard.clone();
                let tell = Box::new(move |_: &str| *keep.lock().unwrap() = asked.found());
                let run = move || {
                    let find = || drop(damage.watch(Err::<(), _>(KvError::Corruption("first".into()))).unwrap_err());
                    if is_found_before {
                        find();
                        damage.tell(tell);
                    } else {
                        damage.tell(tell);
                        find();
                    }
                };
                let check = move || assert_eq!(heard.lock().unwrap().as_deref(), Some("first"));
                Scene::default().thread(run).end(check)
            });
        }
    }
}
