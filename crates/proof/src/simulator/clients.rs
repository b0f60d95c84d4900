//! Clients: each does one operation after the other, at any node, and tries again what failed.
//!
//! An operation takes a read point and reads (unless it is blind), then commits (unless it only
//! reads). Its observations and its outcome go to the [`super::records`].

use bytes::Bytes;
use kv_api::access::WriteAuthority;
use kv_api::{ACCESS_LEVEL, LoggedWrite};
use rsml::core::{Input, ReadId, RequestId};

use super::access::any_authority;
use super::cluster::Cluster;
use super::events::Event;
use super::node::Barrier;
use super::operations::StateView;
use super::records::Seen;
use super::rows::{self, Change};
use super::workload::{Kind, OpId};
use crate::history::{ClientId, Outcome};

pub struct Client {
    /// Changes when an outcome stays unknown: that operation is open for ever, and a client has
    /// only one.
    pub name: ClientId,
    pub(super) node: usize,
    /// Counts what was waited for.
    pub(super) step: u64,
    pub(super) doing: Doing,
    /// To be tried again.
    again: Option<Kind>,
    /// A version that this client has seen.
    known_version: u64,
    /// Idempotency ids of commits that were sent once and answered: nobody asks for their results
    /// again.
    pub(super) finished_ids: Vec<Bytes>,
}

pub(super) enum Doing {
    Nothing,
    Barrier { kind: Kind, called_us: u64, node: usize, read: ReadId },
    Commit { kind: Kind, called_us: u64, seen: Box<Seen>, op: OpId, node: usize, request: RequestId, asked_back: bool },
}

impl Client {
    pub fn new(name: ClientId, node: usize) -> Client {
        Client { name, node, step: 0, doing: Doing::Nothing, again: None, known_version: 1, finished_ids: Vec::new() }
    }

    pub fn known_version(&self) -> u64 {
        self.known_version
    }
}

impl Cluster {
    /// The client's pause is over.
    pub fn client(&mut self, client: usize) {
        if !self.clients_active || !matches!(self.clients[client].doing, Doing::Nothing) {
            return;
        }
        if self.random.one_in(self.faults.burst) {
            for _ in 0..self.random.between(3, 25) {
                let after = self.random.below(50_000);
                let node = self.clients[client].node;
                self.schedule(after, Event::BlindNote(node));
            }
        }
        let kind = self.clients[client].again.take().unwrap_or_else(|| self.profile.choose(&mut self.random));
        let node = self.next_node(client);
        if !self.is_served(node) {
            return self.rest(client);
        }
        if kind.is_blind() {
            let seen = self.records.blind(kind, &mut self.random, &self.profile);
            self.commit(client, kind, self.now, seen);
        } else {
            self.take_read_point(client, kind, node);
        }
    }

    /// A process that is down refuses connections; a paused one takes them, and answers when it is
    /// awake again. A request of that time reaches it late, as if it had called later: so such a
    /// call is not made at all. A witness refuses everything.
    pub(super) fn is_served(&self, node: usize) -> bool {
        !self.nodes[node].is_witness && self.nodes[node].running.is_some() && self.nodes[node].paused_until <= self.now
    }

    /// The client's node, now and then another one.
    fn next_node(&mut self, client: usize) -> usize {
        if self.random.one_in(self.profile.wander) || !self.is_served(self.clients[client].node) {
            self.clients[client].node = self.any_node();
        }
        self.clients[client].node
    }

    fn rest(&mut self, client: usize) {
        let pause = self.random.between(100, self.profile.pause_us);
        self.schedule(pause, Event::Client(client));
    }

    pub(super) fn wait(&mut self, client: usize) -> u64 {
        self.clients[client].step += 1;
        let step = self.clients[client].step;
        let patience = self.random.between(self.profile.patience_us / 4, self.profile.patience_us);
        self.schedule(patience, Event::GiveUp { client, step });
        step
    }

    fn take_read_point(&mut self, client: usize, kind: Kind, node: usize) {
        let read = ReadId(self.next_id());
        let step = self.wait(client);
        self.clients[client].doing = Doing::Barrier { kind, called_us: self.now, node, read };
        let floor = self.watch.read_floor();
        let running = self.nodes[node].running.as_mut().expect("it is served");
        running.reads.insert(read, Barrier { client, step, floor });
        self.input(node, Input::Read(read));
    }

    /// The node has applied everything that the client's read must see.
    pub fn read_point_reached(&mut self, node: usize, barrier: Barrier) {
        let client = barrier.client;
        if self.clients[client].step != barrier.step {
            return;
        }
        let Doing::Barrier { kind, called_us, .. } = self.clients[client].doing else { return };
        // The applied entry may have ended it: the client finds out by itself.
        let Some(running) = self.nodes[node].running.as_ref() else { return };
        let newest = running.database.applied_version();
        let look = StateView { database: &running.database, version: newest };
        let seen = self.records.read(kind, look, &mut self.random, &self.profile);
        self.clients[client].known_version = self.clients[client].known_version.max(newest);
        if kind != Kind::Snapshot {
            self.records.read_version(self.clients[client].name, called_us, self.now, newest);
        }
        if kind.is_read_only() || seen.change.is_none() {
            self.finish(client, kind, called_us, seen, Outcome::Ok, None);
        } else {
            self.commit(client, kind, called_us, seen);
        }
    }

    fn commit(&mut self, client: usize, kind: Kind, called_us: u64, seen: Seen) {
        let node = self.next_node(client);
        if !self.is_served(node) {
            return self.finish(client, kind, called_us, seen, Outcome::Fail, None);
        }
        let change = seen.change.clone().expect("a commit changes something");
        if change.access.is_some() && !self.may_change_access(node) {
            self.figures.count("change of users below its level");
            return self.finish(client, kind, called_us, seen, Outcome::Fail, None);
        }
        let op = self.new_write(Some(client), change);
        let step = self.wait(client);
        self.records.waits(op, client, step);
        let request = RequestId(self.next_id());
        self.clients[client].doing =
            Doing::Commit { kind, called_us, seen: Box::new(seen), op, node, request, asked_back: false };
        self.send_tries(node, op, request);
    }

    /// Of a client, or of somebody who does not wait.
    fn new_write(&mut self, client: Option<usize>, change: Change) -> OpId {
        let op = self.records.next_op();
        let write = match &change.family {
            Some(family) => LoggedWrite::family(family.clone()),
            None if change.access.is_some() => {
                LoggedWrite { access: change.access.as_deref().cloned(), ..LoggedWrite::default() }
            }
            None if change.passes_time => LoggedWrite::clock_tick(),
            None => {
                let mut commit = change.commit(op);
                if let Some(client) = client {
                    self.add_ids(client, op, &mut commit);
                }
                LoggedWrite::commit(commit)
            }
        };
        self.records.attempt(write);
        if self.records.is_in_journal(op) {
            self.watch.ask(op);
        }
        op
    }

    /// Whether the log may hold changes of users, as far as `node` has applied it: else a server
    /// refuses them.
    fn may_change_access(&self, node: usize) -> bool {
        self.level_of(node) >= ACCESS_LEVEL
    }

    /// On whose behalf `node` accepts a write now; `None` while it checks nothing.
    fn authority_at(&mut self, node: usize) -> Option<WriteAuthority> {
        let policy = self.nodes[node].running.as_ref()?.database.enabled_policy()?;
        Some(any_authority(&policy, &mut self.random))
    }

    pub(super) fn propose(&mut self, node: usize, op: OpId, id: RequestId) {
        let authority = self.authority_at(node);
        let payload = rows::logged(self.records.write(op), self.profile.window_ms(node), authority);
        let running = self.nodes[node].running.as_mut().expect("it is served");
        running.waiting.insert(id, op);
        self.input(node, Input::Propose { id, payload });
    }

    /// Somebody leaves a note and does not wait.
    pub fn blind_note(&mut self, node: usize) {
        if !self.clients_active || !self.is_served(node) {
            return;
        }
        let seen = self.records.blind(Kind::Note, &mut self.random, &self.profile);
        let op = self.new_write(None, seen.change.expect("a note is a commit"));
        self.records.sent(op);
        let request = RequestId(self.next_id());
        self.propose(node, op, request);
    }

    pub(super) fn ended(&mut self, op: OpId, outcome: Outcome, version: Option<u64>) {
        let Some((client, step)) = self.records.end(op) else { return };
        if self.clients[client].step != step {
            return;
        }
        let Doing::Commit { kind, called_us, seen, .. } =
            std::mem::replace(&mut self.clients[client].doing, Doing::Nothing)
        else {
            return;
        };
        self.finish(client, kind, called_us, *seen, outcome, Some((op, version)));
    }

    fn finish(
        &mut self,
        client: usize,
        kind: Kind,
        called_us: u64,
        seen: Seen,
        outcome: Outcome,
        commit: Option<(OpId, Option<u64>)>,
    ) {
        let version = commit.and_then(|(_, version)| version);
        let state = &mut self.clients[client];
        state.step += 1;
        state.doing = Doing::Nothing;
        state.known_version = state.known_version.max(version.unwrap_or(1));
        let name = state.name;
        self.figures.operation(kind, outcome);
        self.say(|| format!("client {} {}: {outcome:?} {version:?}", name.0, kind.name()));
        self.records.finish(name, called_us, self.now, seen, outcome, commit);
        if outcome == Outcome::Unknown {
            self.clients[client].name = self.records.new_client();
        }
        if outcome != Outcome::Ok && self.random.one_in(2) {
            self.clients[client].again = Some(kind);
        }
        self.rest(client);
    }

    /// The client has waited long enough.
    pub fn give_up(&mut self, client: usize, step: u64) {
        if self.clients[client].step != step {
            return;
        }
        match self.clients[client].doing {
            Doing::Nothing => {}
            Doing::Barrier { kind, called_us, node, read } => {
                if let Some(running) = &mut self.nodes[node].running
                    && running.reads.remove(&read).is_some()
                {
                    self.input(node, Input::CancelRead(read));
                }
                self.finish(client, kind, called_us, Seen::default(), Outcome::Fail, None);
            }
            Doing::Commit { op, node, request, asked_back, .. } => {
                if !asked_back {
                    self.ask_back(client, op, node, request);
                }
                if self.clients[client].step != step {
                    // If it was not sent yet, it never will be: the answer came at once.
                    return;
                }
                if asked_back || self.random.one_in(2) {
                    return self.lost(op);
                }
                if let Doing::Commit { asked_back, .. } = &mut self.clients[client].doing {
                    *asked_back = true;
                }
                let patience = self.random.between(self.profile.patience_us / 4, self.profile.patience_us);
                self.schedule(patience, Event::GiveUp { client, step });
            }
        }
    }

    /// Asks the replica to take a request back; one that has a number becomes a void, unless it was
    /// executed before.
    fn ask_back(&mut self, client: usize, op: OpId, node: usize, request: RequestId) {
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let Some(running) = &self.nodes[node].running else { return };
        if running.waiting.contains_key(&request) {
            self.input_now(node, Input::Cancel(request));
        } else if let Some((number, _)) = running.numbered.iter().find(|(_, numbered)| **numbered == op) {
            let number = *number;
            self.say(|| format!("client {} gives up commit {}", self.clients[client].name.0, op.0));
            self.input_now(node, Input::GiveUp(number));
        }
    }

    /// A process has died: whoever waited for it learns that the connection broke.
    pub fn connection_broke(&mut self, barrier: Barrier) {
        let client = barrier.client;
        if self.clients[client].step != barrier.step {
            return;
        }
        if let Doing::Barrier { kind, called_us, .. } = self.clients[client].doing {
            self.finish(client, kind, called_us, Seen::default(), Outcome::Fail, None);
        }
    }

    /// Whether every commit of a client that still waits has its outcome.
    pub fn clients_are_idle(&self) -> bool {
        self.clients.iter().all(|client| matches!(client.doing, Doing::Nothing))
    }
}
