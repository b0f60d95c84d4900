//! The cluster: its states, what can happen in each, and what must hold.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rsml::{Epoch, Sequence, View};
use stateright::{Model, Property};

use super::node::{Broken, ELECTION_US, Effect, Event, HEARTBEAT_US, Node, RETRY_US, Settings, Step, World, born};
use super::observed::Observed;
use super::table::Table;
use super::voters::Voters;

/// How far the exploration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replicas: u8,
    /// Of these, the ones with which the cluster begins: bit N stands for replica N. 0: all.
    pub founders: u8,
    /// How often a primary is asked for other voters.
    pub seals: u8,
    /// The voters that it is asked for in odd epochs, in the same way; in even ones, the founders.
    pub successors: u8,
    /// In each epoch, this many views can be led: the first of each replica, then the second of each,
    /// and so on.
    pub views: u8,
    /// Values proposed by clients; each view adds a no-op of its own.
    pub entries: u8,
    pub reads: u8,
    pub restarts: u8,
    /// Timeouts other than those that begin a campaign: heartbeats, retries, primaries that step
    /// down.
    pub ticks: u8,
    /// How often a primary asks each peer where its log ends.
    pub probes: u8,
    /// Clients propose and read at any replica, not at primaries only.
    pub clients_everywhere: bool,
    /// Maximum number of values proposed and not yet committed.
    pub pipeline: u64,
    pub disks: Disks,
}

/// How finely disks are modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// Log writes complete one by one.
    Writes,
    /// All log writes in progress complete together; a crash still keeps any number of them.
    Groups,
    /// Log writes are durable at once.
    Instant,
}

impl Bounds {
    fn settings(&self) -> Settings {
        let founders = if self.founders == 0 { ((1u16 << self.replicas) - 1) as u8 } else { self.founders };
        Settings {
            replicas: self.replicas,
            founders: Voters(founders),
            pipeline: self.pipeline,
            instant_disk: self.disks == Disks::Instant,
        }
    }

    fn last_view(&self) -> View {
        let last = u64::from(self.views.max(1) - 1);
        let replicas = u64::from(self.replicas);
        let mut view = View::BIRTH;
        for _ in 0..=last / replicas {
            view = view.next_owned_by(rsml::ReplicaId((last % replicas) as u8));
        }
        view
    }
}

/// A state of the cluster, by the numbers of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    nodes: Vec<u32>,
    /// Every message ever sent, ascending.
    network: Vec<u32>,
    /// The value that was delivered first at each sequence after the bootstrap record's.
    delivered: Vec<u64>,
    /// The length of the longest log that any replica ever took for chosen.
    known: usize,
    /// Reads without an answer: where, which, and what was delivered anywhere when it began.
    reads: Vec<(u8, u8, u64)>,
    proposed: u8,
    sealed: u8,
    read: u8,
    restarted: u8,
    ticks: u8,
    /// Reads answered; only to show that there are some.
    answered: u8,
    broken: Option<(Broken, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub node: u8,
    pub step: Step,
}

pub struct Cluster {
    bounds: Bounds,
    last_view: View,
    world: World,
    /// Steps computed before.
    effects: RwLock<HashMap<(u32, Step), Arc<Effect>>>,
    stories: Table<String>,
}

impl Cluster {
    pub fn new(bounds: Bounds) -> Cluster {
        assert!((2..=5).contains(&bounds.replicas), "2 to 5 replicas");
        Cluster {
            bounds,
            last_view: bounds.last_view(),
            world: World::new(bounds.settings()),
            effects: RwLock::new(HashMap::new()),
            stories: Table::default(),
        }
    }

    fn effect(&self, node: u32, step: Step) -> Arc<Effect> {
        let known = self.effects.read().unwrap_or_else(PoisonError::into_inner).get(&(node, step)).cloned();
        known.unwrap_or_else(|| {
            let effect = Arc::new(self.world.nodes.get(node).take(step, &self.world));
            self.effects.write().unwrap_or_else(PoisonError::into_inner).insert((node, step), effect.clone());
            effect
        })
    }

    /// How many different nodes, messages and steps of nodes there have been: the size of what
    /// really ran.
    pub fn figures(&self) -> (usize, usize, usize) {
        let steps = self.effects.read().unwrap_or_else(PoisonError::into_inner).len();
        (self.world.nodes.len(), self.world.packets.len(), steps)
    }

    fn break_state(&self, state: &mut State, broken: Broken, story: String) {
        state.broken = state.broken.or(Some((broken, self.stories.number(story))));
    }

    /// The broken property, in words.
    pub fn story(&self, state: &State) -> Option<String> {
        state.broken.map(|(broken, story)| format!("{broken:?}: {}", self.stories.get(story)))
    }

    /// An action, in words.
    pub fn describe(&self, action: Action) -> String {
        let Action { node, step } = action;
        match step {
            Step::Receive(packet) => {
                let packet = self.world.packets.get(packet);
                let entries = packet.payload.len();
                format!("{node} receives from {}: {:?} with {entries} entries", packet.sender.replica, packet.message)
            }
            Step::Complete(count) => format!("{node}: its {count} oldest writes are durable"),
            Step::Pass(us) if us == HEARTBEAT_US => format!("{node}: a heartbeat is due"),
            Step::Pass(us) if us == RETRY_US => format!("{node}: retries are due"),
            Step::Pass(_) => format!("{node}: the election timeout fires"),
            Step::Stand(promised) => format!("{node} stands for election; pre-vote of a peer that promised {promised}"),
            Step::Propose(value) => format!("{node}: a client proposes value {value}"),
            Step::Read(read) => format!("{node}: a client begins read {read}"),
            Step::Seal(_, voters) => format!("{node}: an operator wants the voters {:#b}", voters.0),
            Step::Restart { kept, keeps_database } => {
                let database = if keeps_database { "whole" } else { "as it was born" };
                format!("{node} crashes, keeps {kept} writes under way, and starts with its database {database}")
            }
        }
    }

    fn local_actions(&self, state: &State, node: u8, actions: &mut Vec<Action>) {
        let observed = &self.world.nodes.get(state.nodes[usize::from(node)]).observed;
        let mut act = |step| actions.push(Action { node, step });
        if observed.writes > 0 {
            act(Step::Complete(if self.bounds.disks == Disks::Writes { 1 } else { observed.writes }));
        }
        if state.ticks < self.bounds.ticks {
            act(Step::Pass(RETRY_US));
            if observed.is_primary {
                act(Step::Pass(HEARTBEAT_US));
                act(Step::Pass(ELECTION_US));
            }
        }
        if !observed.is_primary {
            let peers = state.nodes.iter().enumerate().filter(|(peer, _)| *peer != usize::from(node));
            let mut promised: Vec<View> =
                peers.map(|(_, peer)| self.world.nodes.get(*peer).observed.promised).collect();
            promised.sort_unstable();
            promised.dedup();
            promised.into_iter().for_each(|view| act(Step::Stand(view)));
        }
        if observed.is_primary && state.sealed < self.bounds.seals {
            let is_odd = observed.epoch.0 % 2 == 1;
            let voters = if is_odd { Voters(self.bounds.successors) } else { self.bounds.settings().founders };
            act(Step::Seal(state.sealed, voters));
        }
        if observed.is_primary || self.bounds.clients_everywhere {
            if state.proposed < self.bounds.entries {
                act(Step::Propose(state.proposed));
            }
            if state.read < self.bounds.reads {
                act(Step::Read(state.read));
            }
        }
        if state.restarted < self.bounds.restarts {
            for kept in 0..=observed.writes {
                act(Step::Restart { kept, keeps_database: true });
                act(Step::Restart { kept, keeps_database: false });
            }
        }
    }

    /// Whether the step led out of the bounds.
    fn is_beyond(&self, effect: &Effect) -> bool {
        let probes = u64::from(self.bounds.probes);
        in_its_epoch(self.world.nodes.get(effect.node).observed.promised) > self.last_view
            || effect.sent.iter().any(|packet| match &self.world.packets.get(*packet).message {
                rsml::Message::Accept(accept) => accept.probe > probes,
                _ => false,
            })
    }

    fn note(&self, state: &mut State, node: u8, event: &Event) {
        match *event {
            Event::Delivered { sequence, entry } => {
                let holder = self.world.nodes.get(state.nodes[usize::from(node)]);
                if holder.observed.disk.get(sequence as usize - 1) != Some(&entry) {
                    let story = format!("replica {node} delivers {sequence}, which its own disk does not hold");
                    self.break_state(state, Broken::Durability, story);
                }
                let place = (sequence - Sequence::BIRTH.0 - 1) as usize;
                match state.delivered.get(place) {
                    None => state.delivered.push(entry),
                    Some(other) if *other != entry => {
                        let story = format!("replica {node} delivers another value at {sequence} than was chosen");
                        self.break_state(state, Broken::Agreement, story);
                    }
                    Some(_) => {}
                }
            }
            Event::ReadReady { read, point } => {
                let Some(place) = state.reads.iter().position(|(_, waiting, _)| *waiting == read) else { return };
                let (_, _, floor) = state.reads.remove(place);
                state.answered += 1;
                if point < floor {
                    let story = format!("replica {node} reads at {point}; {floor} was delivered before it was asked");
                    self.break_state(state, Broken::Reads, story);
                }
            }
        }
    }

    /// The properties of a node that just changed, given all disks.
    fn check_node(&self, state: &mut State, node: u8) {
        let nodes: Vec<_> = state.nodes.iter().map(|node| self.world.nodes.get(*node)).collect();
        let observed = &nodes[usize::from(node)].observed;
        let has_promised = |other: &Observed| other.durable_promise >= observed.promised;
        let promised = count(&nodes, observed.voters, has_promised);
        if observed.is_primary && promised < observed.voters.quorum() {
            let story = format!("replica {node} leads {} with {promised} durable promises", observed.promised);
            self.break_state(state, Broken::Promises, story);
        }
        for (place, entry) in observed.chosen.iter().enumerate() {
            // The first replica that knows leads, and counts no vote of an older view (rule 4). The
            // one that knows the seal first has entered the next epoch in the same step.
            let is_first = place >= state.known;
            let is_of_former_epoch = place < observed.since.0 as usize && observed.epoch > Epoch::FIRST;
            let view = if is_of_former_epoch { observed.ended_view } else { observed.promised };
            let may_know = observed.is_primary || is_of_former_epoch;
            let votes = |other: &Observed| !is_first || (may_know && other.accepted >= view);
            let voters = observed.responsible[place];
            let holders = count(&nodes, voters, |other| other.disk.get(place) == Some(entry) && votes(other));
            if holders < voters.quorum() {
                let sequence = place + 1;
                let story =
                    format!("replica {node} takes {sequence} for chosen in {view}; {holders} disks hold its value");
                self.break_state(state, Broken::Durability, story);
                return;
            }
        }
        state.known = state.known.max(observed.chosen.len());
    }
}

/// A view without its epoch.
fn in_its_epoch(view: View) -> View {
    View(view.0 - View::floor_of(view.epoch()).0)
}

/// How many of these voters fulfil a condition.
fn count(nodes: &[Arc<Node>], voters: Voters, holds: impl Fn(&Observed) -> bool) -> usize {
    let of_voters = (0..).zip(nodes).filter(|(id, _)| voters.contains(*id));
    of_voters.filter(|(_, node)| holds(&node.observed)).count()
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let replicas = self.bounds.replicas;
        let nodes = (0..replicas).map(|me| self.world.nodes.number(born(me, self.bounds.settings()))).collect();
        vec![State {
            nodes,
            network: Vec::new(),
            delivered: Vec::new(),
            known: Sequence::BIRTH.0 as usize,
            reads: Vec::new(),
            proposed: 0,
            sealed: 0,
            read: 0,
            restarted: 0,
            ticks: 0,
            answered: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            // Shown, not explored further.
            return;
        }
        for packet in &state.network {
            let node = self.world.packets.get(*packet).to.0;
            actions.push(Action { node, step: Step::Receive(*packet) });
        }
        for node in 0..self.bounds.replicas {
            self.local_actions(state, node, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let Action { node, step } = action;
        let before = state.nodes[usize::from(node)];
        let effect = self.effect(before, step);
        let is_new = |packet: &&u32| state.network.binary_search(packet).is_err();
        let fresh: Vec<u32> = effect.sent.iter().filter(is_new).copied().collect();
        let is_client = matches!(step, Step::Propose(_) | Step::Read(_) | Step::Seal(..) | Step::Restart { .. });
        if effect.node == before
            && fresh.is_empty()
            && effect.events.is_empty()
            && effect.broken.is_none()
            && !is_client
        {
            return None;
        }
        if self.is_beyond(&effect) {
            return None;
        }
        let mut next = state.clone();
        next.nodes[usize::from(node)] = effect.node;
        next.network.extend(fresh);
        next.network.sort_unstable();
        next.network.dedup();
        match step {
            Step::Propose(_) => next.proposed += 1,
            Step::Pass(_) => next.ticks += 1,
            Step::Seal(..) => next.sealed += 1,
            Step::Read(read) => {
                next.read += 1;
                let floor = Sequence::BIRTH.0 + state.delivered.len() as u64;
                next.reads.push((node, read, floor));
            }
            Step::Restart { .. } => {
                next.restarted += 1;
                next.reads.retain(|(at, _, _)| *at != node);
            }
            _ => {}
        }
        if let Some((broken, story)) = &effect.broken {
            self.break_state(&mut next, *broken, story.clone());
        }
        effect.events.iter().for_each(|event| self.note(&mut next, node, event));
        self.check_node(&mut next, node);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn holds(state: &State, property: Broken) -> bool {
            state.broken.is_none_or(|(broken, _)| broken != property)
        }
        vec![
            Property::always("agreement", |_, state: &State| holds(state, Broken::Agreement)),
            Property::always("what is chosen is durable", |_, state: &State| holds(state, Broken::Durability)),
            Property::always("promises and claims", |_, state: &State| holds(state, Broken::Promises)),
            Property::always("reads are linearizable", |_, state: &State| holds(state, Broken::Reads)),
            Property::always("assertions of the core", |_, state: &State| holds(state, Broken::Assertion)),
            Property::sometimes("a value is delivered everywhere", |cluster: &Cluster, state: &State| {
                let all = state.delivered.len() + 1;
                let knows_all = |node: &u32| cluster.world.nodes.get(*node).observed.chosen.len() == all;
                all > 2 && state.nodes.iter().all(knows_all)
            }),
            Property::sometimes("a read is answered", |_, state: &State| state.answered > 0),
            Property::sometimes("an epoch begins with other voters", |cluster: &Cluster, state: &State| {
                let has_begun = |observed: &Observed| {
                    let begun = observed.chosen.len() as u64 > observed.since.0;
                    observed.epoch > Epoch::FIRST && observed.is_primary && begun
                };
                state.nodes.iter().any(|node| has_begun(&cluster.world.nodes.get(*node).observed))
            }),
            Property::sometimes("the last view is led", |cluster: &Cluster, state: &State| {
                state.nodes.iter().map(|node| cluster.world.nodes.get(*node)).any(|node| {
                    node.observed.is_primary
                        && in_its_epoch(node.observed.promised) == cluster.last_view
                        && node.observed.chosen.len() > 2
                })
            }),
        ]
    }
}
