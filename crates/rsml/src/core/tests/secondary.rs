use super::*;

/// The view whose log it has, and the one whose primary it follows then.
fn former() -> View {
    view(1, ONE)
}

fn present() -> View {
    view(2, TWO)
}

/// The primary of the present view, which adopted `adopted` entries, sends those from `from` on.
/// `agreed_view`: the accepted view whose log agrees with its own before them.
fn receive(lone: &mut Lone, from: u64, agreed_view: View, entries: Vec<Bytes>, commit: u64) -> Outputs {
    let accept =
        Accept { view: present().0, adopted: 6, from, agreed_view: agreed_view.0, commit, ..Accept::default() };
    lone.receive_with(TWO, Message::Accept(accept), entries)
}

fn held_view(lone: &Lone) -> View {
    lone.replica.hard_state().accepted_view
}

fn answers(outputs: &Outputs) -> Vec<Accepted> {
    let answer = |message| match message {
        Message::Accepted(accepted) => Some(accepted),
        _ => None,
    };
    sent_to(outputs, TWO).into_iter().filter_map(answer).collect()
}

#[test]
fn a_log_that_agrees_takes_the_entry_right_behind_its_end() {
    let mut lone = Lone::with_log(5, former());
    receive(&mut lone, 6, former(), entries(6..=6), 1);
    assert_eq!((held_view(&lone), lone.last()), (present(), 6));
}

#[test]
fn entries_right_behind_the_commit_point_and_then_behind_the_staged_ones_are_staged() {
    let mut lone = Lone::with_log(5, former());
    receive(&mut lone, 2, View::BIRTH, entries(2..=3), 1);
    assert_eq!(held_view(&lone), former(), "entries 4 to 6 are missing");
    receive(&mut lone, 4, View::BIRTH, entries(4..=6), 1);
    assert_eq!((held_view(&lone), lone.last()), (present(), 6));
}

#[test]
fn staged_entries_are_written_when_they_exceed_their_bound_even_a_single_committed_one() {
    let bytes = entries(2..=3).iter().map(Bytes::len).sum::<usize>();
    for (bound, is_written) in [(bytes, false), (bytes - 1, true)] {
        let mut lone = Lone::started(1, former(), |options, _| options.stage_bytes = bound);
        let outputs = receive(&mut lone, 2, View::BIRTH, entries(2..=3), 2);
        let written: Vec<Bytes> = outputs.persist.into_iter().flat_map(|write| write.entries).collect();
        assert_eq!(written, if is_written { entries(2..=2) } else { Vec::new() }, "at most {bound} bytes");
    }
}

#[test]
fn staged_entries_right_behind_what_is_durable_are_acknowledged() {
    let mut lone = Lone::with_log(1, former());
    receive(&mut lone, 2, View::BIRTH, entries(2..=3), 1);
    let answers = answers(&lone.sync());
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((answer.durable_last, answer.acknowledged), (1, 3));
}

#[test]
fn a_heartbeat_that_asks_for_nothing_new_is_not_answered() {
    let mut lone = Lone::with_log(3, present());
    let heartbeat = |read_round, probe| Message::Accept(Accept { read_round, probe, ..accept(present(), 3, 1) });
    assert_eq!(answers(&lone.receive(TWO, heartbeat(1, 1))).len(), 1);
    assert_eq!(answers(&lone.receive(TWO, heartbeat(1, 1))), []);
    assert_eq!(answers(&lone.receive(TWO, heartbeat(2, 1))).len(), 1);
    assert_eq!(answers(&lone.receive(TWO, heartbeat(2, 2))).len(), 1);
}
