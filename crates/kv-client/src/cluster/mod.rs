//! The replicas of a cluster: which there are, which one leads, which can be reached, and which one gets a request.
//!
//! A replica that failed is *suspected*: requests go to others, and a probe in the background finds out when it is back,
//! so that no request waits for one that is gone. An address that the cluster names is suspected at first, because it may
//! not be reachable from here; the given addresses are there for that.
//!
//! Every replica serves every request, so nothing here decides about correctness: only about how soon an answer comes.

mod attempts;
mod call;
mod discovery;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::Options;
use crate::endpoint::Endpoint;
use crate::limits::KnownLimits;

pub(crate) use attempts::{Errand, Target};
pub(crate) use call::Answer;

/// Memory is handed out in units of so many bytes.
const ROOM_UNIT_BYTES: usize = 1 << 10;

/// A handle to a cluster; its background task ends with the last one.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    looking_after: JoinHandle<()>,
}

struct Shared {
    options: Options,
    limits: KnownLimits,
    members: Mutex<Members>,
    /// Something failed: what is known may be outdated.
    doubt: Notify,
    /// Bytes that requests under way and their replies may take, in units.
    room: Semaphore,
}

/// What is known of the replicas.
struct Members {
    replicas: Vec<Arc<Replica>>,
    /// The address of the one that leads.
    primary: Option<Arc<str>>,
    /// The view in which it leads.
    view: i64,
}

struct Replica {
    endpoint: Endpoint,
    /// Given to `connect`: stays, whatever the cluster says.
    is_given: bool,
    /// Named by the cluster when it was asked last.
    is_listed: AtomicBool,
    is_suspected: AtomicBool,
}

impl Replica {
    fn given(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Replica { endpoint, is_given: true, is_listed: false.into(), is_suspected: false.into() })
    }

    fn named(address: &str, options: &Options) -> Arc<Self> {
        let endpoint = Endpoint::start(address.to_string(), options);
        Arc::new(Replica { endpoint, is_given: false, is_listed: true.into(), is_suspected: true.into() })
    }

    fn address(&self) -> &Arc<str> {
        &self.endpoint.address
    }

    fn is_suspected(&self) -> bool {
        self.is_suspected.load(Ordering::Relaxed)
    }

    fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }
}

impl Cluster {
    pub fn start(endpoints: impl IntoIterator<Item = Endpoint>, options: &Options, limits: KnownLimits) -> Self {
        let units = (options.max_in_flight_bytes / ROOM_UNIT_BYTES).clamp(1, u32::MAX as usize);
        let replicas = endpoints.into_iter().map(Replica::given).collect();
        let shared = Arc::new(Shared {
            options: options.clone(),
            limits,
            members: Mutex::new(Members { replicas, primary: None, view: 0 }),
            doubt: Notify::new(),
            room: Semaphore::new(units.min(Semaphore::MAX_PERMITS)),
        });
        let looking_after = tokio::spawn(discovery::look_after(shared.clone()));
        Cluster { shared, looking_after }
    }

    pub fn limits(&self) -> &KnownLimits {
        &self.shared.limits
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.members().replicas.iter().map(|replica| replica.address().to_string()).collect()
    }

    /// The address of the primary, if it is known.
    pub fn primary(&self) -> Option<String> {
        self.shared.members().primary.as_ref().map(|address| address.to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.looking_after.abort();
    }
}

impl Shared {
    fn members(&self) -> MutexGuard<'_, Members> {
        // What it guards is right after every step.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to ask next; `None` when all were tried.
    fn choose(&self, target: Target, tried: &[Arc<str>]) -> Option<Arc<Replica>> {
        self.members().choose(target, tried)
    }

    fn is_primary(&self, replica: &Replica) -> bool {
        self.members().primary.as_ref() == Some(replica.address())
    }

    /// A replica did not answer.
    fn suspect(&self, replica: &Replica) {
        replica.is_suspected.store(true, Ordering::Relaxed);
        let mut members = self.members();
        if members.primary.as_ref() == Some(replica.address()) {
            members.primary = None;
        }
        drop(members);
        self.doubt.notify_one();
    }

    /// Somebody says who leads.
    fn follow_hint(&self, address: &str) {
        let mut members = self.members();
        let is_known = members.replicas.iter().any(|replica| &**replica.address() == address);
        if !is_known && self.options.discovery {
            let replica = Replica::named(address, &self.options);
            // Worth a try at once: there is nobody else who could answer.
            replica.is_suspected.store(false, Ordering::Relaxed);
            members.replicas.push(replica);
        }
        members.primary = Some(address.into());
        drop(members);
        self.doubt.notify_one();
    }
}

impl Members {
    fn choose(&self, target: Target, tried: &[Arc<str>]) -> Option<Arc<Replica>> {
        let untried: Vec<&Arc<Replica>> =
            self.replicas.iter().filter(|replica| !tried.contains(replica.address())).collect();
        if target == Target::Primary
            && let Some(primary) = &self.primary
            && let Some(replica) = untried.iter().find(|replica| replica.address() == primary)
            && !replica.is_suspected()
        {
            return Some((*replica).clone());
        }
        // Given addresses may be other names of those that are listed, and are needed only without them.
        let listed = untried.iter().filter(|replica| replica.is_listed() && !replica.is_suspected());
        let given = untried.iter().filter(|replica| !replica.is_listed() && !replica.is_suspected());
        let suspected = untried.iter().filter(|replica| replica.is_suspected());
        idler_of_two(listed).or_else(|| idler_of_two(given)).or_else(|| idler_of_two(suspected))
    }
}

/// Of two that are drawn by lot, the one with fewer requests under way: nearly as even as asking all, and it does not send
/// everybody to the same one.
fn idler_of_two<'r>(replicas: impl Iterator<Item = &'r &'r Arc<Replica>>) -> Option<Arc<Replica>> {
    let replicas: Vec<&Arc<Replica>> = replicas.copied().collect();
    let draw = || replicas[rand::random_range(0..replicas.len())];
    match replicas.len() {
        0 => None,
        1 => Some(replicas[0].clone()),
        _ => {
            let (one, other) = (draw(), draw());
            Some(if one.endpoint.waiting() <= other.endpoint.waiting() { one } else { other }.clone())
        }
    }
}
