use super::*;
use crate::core::log::Log;
use crate::core::{Acceptor, Learner};

/// A durable log of entries 1 to 5, of view 257.
fn acceptor() -> Acceptor {
    let hard = HardState { promised: View(257), accepted_view: View(257), ..HardState::default() };
    Acceptor::new(hard, hard, Log::new(Sequence(1), entries(1..=5).into_iter().map(Some).collect()), Vec::new())
}

#[test]
fn a_commit_point_that_a_later_view_repeats_is_not_learned_anew() {
    let mut acceptor = acceptor();
    let mut learner = Learner::new(Sequence(1), View(257));
    learner.observe_commit(View(257), Sequence(4), &acceptor);
    acceptor.promise(View(513));
    acceptor.adopt(View(513), Sequence(5), Sequence(4), Sequence(5), entries(5..=5));
    learner.observe_commit(View(513), Sequence(4), &acceptor);
    assert_eq!(learner.commit_view(), View(257));
    let all = Some((Sequence(2), Sequence(4)));
    assert_eq!(learner.deliverable(&acceptor), all, "though the later view's log is not durable");
}

#[test]
fn the_last_entry_installed_as_committed_is_delivered_from_a_log_of_an_older_view() {
    let acceptor = acceptor();
    let mut learner = Learner::new(Sequence(1), View::BIRTH);
    learner.observe_commit(View(257), Sequence(5), &acceptor);
    learner.install(Sequence(3), View(257));
    learner.deliver(Sequence(3), View::BIRTH);
    assert_eq!(learner.delivered(), Sequence(3));
}
