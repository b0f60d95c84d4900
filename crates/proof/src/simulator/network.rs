//! Messages between nodes: lost, doubled, delayed, held back, and cut off.

use bytes::Bytes;
use rsml::Message;
use rsml::MessageHeader;
use rsml::core::Input;

use super::cluster::Cluster;
use super::events::{Delivery, Event};

impl Cluster {
    pub(super) fn transmit(
        &mut self,
        from: usize,
        sender: MessageHeader,
        to: usize,
        message: Message,
        payload: Vec<Bytes>,
    ) {
        self.crash_after(from, to, &message);
        self.answer_granted_vote(from, to, &message);
        self.hold_up_successor(from, to, &message);
        self.release_stragglers(from, &message);
        if self.cut.contains(&(from, to)) {
            return;
        }
        if self.random.one_in(self.faults.lose) {
            self.figures.count("message lost");
            return;
        }
        let is_answer = matches!(
            message,
            Message::Promise(_) | Message::Accepted(_) | Message::Fetched(_) | Message::ReadPointReply(_)
        );
        let may_straggle = is_answer && !self.faults.keeps_order;
        let is_promise = matches!(message, Message::Promise(_));
        // Messages pass through their encoding, as on the wire.
        let message = Message::from_bytes(&message.to_bytes()).expect("it was encoded just now");
        if self.random.one_in(self.faults.duplicate) {
            self.figures.count("message doubled");
            let copy = Box::new(Delivery { to, sender, message: message.clone(), payload: payload.clone() });
            self.send_copy(from, copy, may_straggle, is_promise);
        }
        self.send_copy(from, Box::new(Delivery { to, sender, message, payload }), may_straggle, is_promise);
    }

    fn send_copy(&mut self, from: usize, delivery: Box<Delivery>, may_straggle: bool, is_promise: bool) {
        let to = delivery.to;
        let mut delay = self.random.between(50, self.faults.network_us);
        if self.random.one_in(self.faults.delay) {
            self.figures.count("message delayed");
            delay += self.random.below(self.faults.max_delay_us);
        }
        let straggles = may_straggle && self.random.one_in(self.faults.straggle);
        if straggles {
            self.figures.count("answer held back");
            delay += self.random.below(3_000_000);
        }
        if self.faults.keeps_order {
            let last = self.arrivals.entry((from, to)).or_default();
            *last = (self.now + delay).max(*last);
            delay = *last - self.now;
        }
        if straggles && is_promise {
            self.stragglers.push((to, Event::Message(delivery)));
        } else {
            self.schedule(delay, Event::Message(delivery));
        }
    }

    pub(super) fn deliver(&mut self, delivery: Delivery) {
        let Delivery { to, sender, message, payload } = delivery;
        let is_vote = matches!(message, Message::Accepted(_));
        if self.prints_messages && self.nodes[to].running.is_some() {
            let (from, count) = (sender.replica, payload.len());
            self.say(|| format!("{from} -> {to}: {message:?}, {count} with it"));
        }
        self.input(to, Input::Receive { sender, message, payload });
        if is_vote {
            self.crash_counter(to);
        }
    }

    /// Leaves only these links, both directions each.
    pub fn leave_links(&mut self, links: &[(usize, usize)]) {
        let count = self.nodes.len();
        let is_left = |a: usize, b: usize| links.contains(&(a, b)) || links.contains(&(b, a));
        self.cut = (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| !is_left(*a, *b)).collect();
    }
}
