//! Tries the schedules of a few threads systematically, one run for each.
//!
//! One thread of a [`Scene`] runs at a time. At each of its steps (a use of a type of
//! [`crate::sync`]) another one may run instead: that is a *switch*. When a thread ends or waits
//! for a lock, another one runs, which does not count as a switch. [`every_schedule`] runs the
//! scene once for each schedule up to a number of switches, depth first, and always the same ones.
//! Nearly every race shows with two switches (Musuvathi, Qadeer, *Iterative Context Bounding for
//! Systematic Testing of Multithreaded Programs*). Everything between two steps is atomic, and
//! all threads see writes in the order in which they were made: weaker memory orders are not tried.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Body = Box<dyn FnOnce() + Send>;

/// Threads that share state made for one run, and a check at the end.
#[derive(Default)]
pub(crate) struct Scene {
    threads: Vec<Body>,
    end: Option<Box<dyn FnOnce()>>,
}

impl Scene {
    pub fn thread(mut self, run: impl FnOnce() + Send + 'static) -> Self {
        self.threads.push(Box::new(run));
        self
    }

    pub fn end(mut self, check: impl FnOnce() + 'static) -> Self {
        self.end = Some(Box::new(check));
        self
    }
}

/// Runs the scene that `scene` makes in every schedule with at most `switches` switches, and
/// returns the number of schedules.
///
/// # Panics
/// When a thread or the check at the end panics in a run; the schedule is printed.
pub(crate) fn every_schedule(switches: usize, mut scene: impl FnMut() -> Scene) -> usize {
    let mut choices = Vec::new();
    for runs in 1.. {
        let (made, failure) = run(scene(), choices, switches);
        if let Some(panic) = failure {
            eprintln!("run {runs}, in which these threads ran at each step: {:?}", trace(&made));
            resume_unwind(panic);
        }
        choices = made;
        // The last choice with an untried option takes that option next.
        while choices.last().is_some_and(|choice| choice.taken + 1 == choice.options.len()) {
            choices.pop();
        }
        match choices.last_mut() {
            Some(choice) => choice.taken += 1,
            None => return runs,
        }
    }
    unreachable!("the loop ends with the last schedule")
}

fn trace(choices: &[Choice]) -> Vec<usize> {
    choices.iter().map(|choice| choice.options[choice.taken]).collect()
}

/// Which of several threads runs next.
#[derive(Debug)]
struct Choice {
    options: Vec<usize>,
    taken: usize,
}

type Failure = Box<dyn Any + Send>;

enum Thread {
    /// Started when it is first scheduled, so that a run needs few changes between threads.
    NotStarted(Body),
    Ready,
    /// Waits for a lock that another thread holds.
    Waits,
    Ended,
}

struct Run {
    state: Mutex<State>,
    /// One for each thread.
    turns: Vec<Condvar>,
}

struct State {
    threads: Vec<Thread>,
    started: Vec<JoinHandle<()>>,
    /// The thread that runs now.
    running: usize,
    switches_left: usize,
    /// The choices of an earlier run, which are repeated first, then new ones.
    choices: Vec<Choice>,
    made: usize,
    /// A thread has panicked: all others end at their next step.
    failed: bool,
    /// The panic's payload.
    failure: Option<Failure>,
}

/// The payload with which threads end after another one has panicked.
struct Stopped;

thread_local! {
    /// The run that this thread belongs to, and its number there.
    static PLACE: RefCell<Option<(Arc<Run>, usize)>> = const { RefCell::new(None) };
}

fn run(scene: Scene, choices: Vec<Choice>, switches_left: usize) -> (Vec<Choice>, Option<Failure>) {
    let turns = scene.threads.iter().map(|_| Condvar::new()).collect();
    let mut state = State {
        threads: scene.threads.into_iter().map(Thread::NotStarted).collect(),
        started: Vec::new(),
        running: 0,
        switches_left,
        choices,
        made: 0,
        failed: false,
        failure: None,
    };
    state.pass_on(None);
    let run = Arc::new(Run { state: Mutex::new(state), turns });
    run.work();
    while let Some(thread) = { run.state().started.pop() } {
        thread.join().expect("its panics are caught");
    }
    let mut state = run.state();
    let choices = std::mem::take(&mut state.choices);
    let failure = state.failure.take();
    let check = || catch_unwind(AssertUnwindSafe(scene.end?)).err();
    (choices, failure.or_else(check))
}

impl Run {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the scheduled thread from its start to its end, and then others that are scheduled and
    /// not started.
    fn work(self: &Arc<Self>) {
        let mut state = self.state();
        while let Some((number, body)) = state.take_not_started() {
            drop(state);
            PLACE.set(Some((self.clone(), number)));
            let result = catch_unwind(AssertUnwindSafe(body));
            PLACE.set(None);
            state = self.state();
            state.threads[number] = Thread::Ended;
            match result {
                Err(panic) => state.fail(Some(panic).filter(|panic| !panic.is::<Stopped>())),
                Ok(()) if state.threads.iter().any(|thread| !matches!(thread, Thread::Ended)) => state.pass_on(None),
                Ok(()) => {}
            }
        }
        self.wake(&state);
    }

    /// Wakes the thread that runs next.
    fn wake(&self, state: &State) {
        let woken = if state.failed { 0..self.turns.len() } else { state.running..state.running + 1 };
        self.turns[woken].iter().for_each(Condvar::notify_one);
    }

    /// Lets the next thread run, and waits until this one is scheduled again.
    fn take_turns(self: &Arc<Self>, number: usize, go_on: Thread) {
        let mut state = self.state();
        if !state.failed {
            let current = matches!(go_on, Thread::Ready).then_some(number);
            state.threads[number] = go_on;
            state.pass_on(current);
            if state.running != number || state.failed {
                match state.threads[state.running] {
                    Thread::NotStarted(_) if !state.failed => {
                        let run = self.clone();
                        state.started.push(std::thread::spawn(move || run.work()));
                    }
                    _ => self.wake(&state),
                }
                state = self.wait_for_turn(state, number);
            }
        }
        if state.failed {
            drop(state);
            resume_unwind(Box::new(Stopped));
        }
    }

    fn wait_for_turn<'s>(&self, state: MutexGuard<'s, State>, number: usize) -> MutexGuard<'s, State> {
        let waits = |state: &mut State| state.running != number && !state.failed;
        self.turns[number].wait_while(state, waits).unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The scheduled thread, if it is not started.
    fn take_not_started(&mut self) -> Option<(usize, Body)> {
        let thread = self.threads.get_mut(self.running).filter(|_| !self.failed)?;
        match std::mem::replace(thread, Thread::Ready) {
            Thread::NotStarted(body) => Some((self.running, body)),
            started => {
                *thread = started;
                None
            }
        }
    }

    fn fail(&mut self, failure: Option<Failure>) {
        self.failed = true;
        self.failure = self.failure.take().or(failure);
    }

    /// Chooses the thread that runs next. `current` is the present one, if it could continue.
    fn pass_on(&mut self, current: Option<usize>) {
        if current.is_some() && self.switches_left == 0 {
            return;
        }
        let is_ready = |number: &usize| {
            matches!(self.threads[*number], Thread::NotStarted(_) | Thread::Ready) && Some(*number) != current
        };
        let others = (0..self.threads.len()).filter(is_ready);
        let options: Vec<usize> = current.into_iter().chain(others).collect();
        if options.is_empty() {
            return self.fail(Some(Box::new("every thread waits for a lock")));
        }
        self.running = self.choose(options);
        self.switches_left -= usize::from(current.is_some_and(|current| current != self.running));
    }

    fn choose(&mut self, options: Vec<usize>) -> usize {
        if options.len() == 1 {
            return options[0];
        }
        match self.choices.get(self.made) {
            Some(choice) => assert_eq!(choice.options, options, "the scene differs from run to run"),
            None => self.choices.push(Choice { options, taken: 0 }),
        }
        let choice = &self.choices[self.made];
        self.made += 1;
        choice.options[choice.taken]
    }
}

fn place() -> Option<(Arc<Run>, usize)> {
    PLACE.with_borrow(Clone::clone)
}

/// Called before each use of a lock or an atomic: another thread may run here.
pub(super) fn step() {
    if is_scheduled()
        && let Some((run, number)) = place()
    {
        run.take_turns(number, Thread::Ready);
    }
}

/// Whether this thread belongs to a scene. After a panic it does not any more, and runs to its end
/// at once.
pub(super) fn is_scheduled() -> bool {
    let Some((run, _)) = place() else { return false };
    if std::thread::panicking() {
        // Other threads may hold locks that this one asks for while it unwinds.
        let mut state = run.state();
        state.fail(None);
        run.wake(&state);
        return false;
    }
    true
}

/// Called when a lock is held by another thread: lets others run.
pub(super) fn wait_for_a_lock() {
    if let Some((run, number)) = place() {
        run.take_turns(number, Thread::Waits);
    }
}

/// Called after a lock was released.
pub(super) fn let_waiting_try() {
    if let Some((run, _)) = place() {
        let mut state = run.state();
        let waiting = state.threads.iter_mut().filter(|thread| matches!(thread, Thread::Waits));
        waiting.for_each(|thread| *thread = Thread::Ready);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::sync;

    #[test]
    fn each_schedule_of_few_steps_is_scheduled_once() {
        // Three steps of one thread and two of another can be ordered in ten ways.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let runs = every_schedule(9, || {
            let (order, number) = (Arc::new(Mutex::new(String::new())), Arc::new(sync::AtomicU64::new(0)));
            let steps = |name: char, steps: usize| {
                let (order, number) = (order.clone(), number.clone());
                move || {
                    for _ in 0..steps {
                        number.fetch_add(1, Ordering::SeqCst);
                        order.lock().unwrap().push(name);
                    }
                }
            };
            let (order, seen) = (order.clone(), seen.clone());
            let end = move || seen.lock().unwrap().push(order.lock().unwrap().clone());
            Scene::default().thread(steps('a', 3)).thread(steps('b', 2)).end(end)
        });
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 10, "{seen:?}");
        assert_eq!(seen.len(), runs);
    }

    /// Two threads that each add one, in two steps.
    fn add_twice() -> (Arc<sync::AtomicU64>, Scene) {
        let number = Arc::new(sync::AtomicU64::new(0));
        let add = || {
            let number = number.clone();
            move || number.store(number.load(Ordering::SeqCst) + 1, Ordering::SeqCst)
        };
        let scene = Scene::default().thread(add()).thread(add());
        (number, scene)
    }

    #[test]
    fn a_lost_update_is_found_with_a_single_switch_and_not_without() {
        let checked = |switches| {
            every_schedule(switches, || {
                let (number, scene) = add_twice();
                scene.end(move || assert_eq!(number.load(Ordering::SeqCst), 2))
            })
        };
        assert_eq!(checked(0), 2);
        assert!(catch_unwind(|| checked(1)).is_err());
    }

    #[test]
    fn a_lock_keeps_others_out_and_lets_them_in_again() {
        every_schedule(3, || {
            let number = Arc::new(sync::Mutex::new(0));
            let add = || {
                let number = number.clone();
                move || {
                    let mut number = number.lock().unwrap();
                    *number += 1;
                }
            };
            Scene::default()
                .thread(add())
                .thread(add())
                .thread(add())
                .end(move || assert_eq!(*number.lock().unwrap(), 3))
        });
    }

    #[test]
    fn locks_that_are_taken_in_different_orders_are_found_to_deadlock() {
        let found = catch_unwind(|| {
            every_schedule(1, || {
                let locks = [Arc::new(sync::Mutex::new(())), Arc::new(sync::Mutex::new(()))];
                let take = |first: usize, second: usize| {
                    let (first, second) = (locks[first].clone(), locks[second].clone());
                    move || {
                        let first = first.lock().unwrap();
                        drop((second.lock().unwrap(), first));
                    }
                };
                Scene::default().thread(take(0, 1)).thread(take(1, 0))
            })
        });
        assert_eq!(found.unwrap_err().downcast_ref::<&str>(), Some(&"every thread waits for a lock"));
    }
}
