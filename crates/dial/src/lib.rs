//! TCP connections to `HOST:PORT`, where the host may be a name.
//!
//! A name is resolved each time it is needed, because its addresses change, and on a thread of its
//! own, because the system's resolver may block for minutes. If a name has several addresses and
//! one does not answer soon, the next one is tried in parallel (RFC 8305, *Happy Eyeballs*). The
//! first connection that is established is used.
//!
//! Left out on purpose: a timeout for a whole attempt, and retries. Both depend on the caller.

#![warn(missing_docs)]

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time;

/// How long an address may take to answer before the next one is tried as well.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// Resolves the name of a `HOST:PORT` and connects to the address that answers first. Has no time
/// limit.
///
/// # Errors
/// The resolver's error, or the error of the address that failed last.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    let answer = begin_lookup(address.to_owned()).await;
    connect_to_any(&answer.unwrap_or_else(|_| Err(gone()))?, HEAD_START).await
}

/// Resolves the name of a `HOST:PORT`. Blocks, but not for longer than `patience`.
///
/// # Errors
/// The resolver's error; `TimedOut` if it takes longer than `patience`; `NotFound` for a name
/// without addresses.
pub fn look_up_blocking(address: &str, patience: Duration) -> io::Result<Vec<SocketAddr>> {
    let (reply, answer) = mpsc::channel();
    begin(address.to_owned(), move |found| drop(reply.send(found)));
    match answer.recv_timeout(patience) {
        Ok(found) => not_empty(found?),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(too_slow(patience)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
    }
}

/// Connects to the one of `addresses` that answers first. They are tried in their order, except
/// that IPv4 and IPv6 alternate. Each is tried `head_start` after the one before it, or as soon as
/// that one has failed.
///
/// # Errors
/// The error of the address that failed last; `NotFound` if there is no address.
pub async fn connect_to_any(addresses: &[SocketAddr], head_start: Duration) -> io::Result<TcpStream> {
    let mut waiting = VecDeque::from(families_in_turn(addresses));
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match waiting.pop_front() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended.map_err(io::Error::other).flatten() {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = time::sleep(head_start), if !waiting.is_empty() => {}
        }
    }
}

/// Alternates IPv4 and IPv6, beginning with the family of the first address. The order within each
/// family stays.
fn families_in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (mut preferred, mut other): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut turns = Vec::with_capacity(addresses.len());
    while !preferred.is_empty() || !other.is_empty() {
        turns.extend(preferred.pop_front());
        turns.extend(other.pop_front());
    }
    turns
}

type Answer = io::Result<Vec<SocketAddr>>;

fn begin_lookup(address: String) -> oneshot::Receiver<Answer> {
    let (reply, answer) = oneshot::channel();
    begin(address, move |found| drop(reply.send(found)));
    answer
}

/// Resolves on a thread of its own, so that nothing waits for a resolver that hangs, not even the
/// end of the process. If no thread can be started, `reply` is dropped without being called.
fn begin(address: String, reply: impl FnOnce(Answer) + Send + 'static) {
    if let Ok(literal) = address.parse() {
        return reply(Ok(vec![literal]));
    }
    let look_up = move || reply(address.to_socket_addrs().map(Iterator::collect));
    let _detached = thread::Builder::new().name("name-lookup".to_owned()).spawn(look_up);
}

fn not_empty(found: Vec<SocketAddr>) -> Answer {
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        false => Ok(found),
    }
}

fn too_slow(patience: Duration) -> io::Error {
    let text = format!("no name server answered within {} ms", patience.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn gone() -> io::Error {
    io::Error::other("no thread could be started to resolve the name")
}

/// A `HOST:PORT` that is resolved again and again.
#[derive(Debug)]
pub struct Name {
    address: String,
    /// A look-up that took longer than its caller waited. The next call waits for it instead of
    /// starting another one.
    pending: Option<oneshot::Receiver<Answer>>,
    last_known: Vec<SocketAddr>,
}

impl Name {
    /// Resolves nothing yet.
    pub fn new(address: impl Into<String>) -> Name {
        Name { address: address.into(), pending: None, last_known: Vec::new() }
    }

    /// Resolves the name.
    ///
    /// # Errors
    /// The resolver's error; `TimedOut` if it takes longer than `patience`; `NotFound` for a name
    /// without addresses.
    pub async fn look_up(&mut self, patience: Duration) -> io::Result<Vec<SocketAddr>> {
        let pending = self.pending.get_or_insert_with(|| begin_lookup(self.address.clone()));
        let Ok(answer) = time::timeout(patience, pending).await else {
            return Err(too_slow(patience));
        };
        self.pending = None;
        let found = not_empty(answer.unwrap_or_else(|_| Err(gone()))?)?;
        self.last_known.clone_from(&found);
        Ok(found)
    }

    /// The result of the last successful look-up; empty if there was none. With these addresses two
    /// machines can connect while a name server is down.
    pub fn last_known(&self) -> &[SocketAddr] {
        &self.last_known
    }
}

#[cfg(test)]
mod tests;
