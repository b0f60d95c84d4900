//! TCP connections to `HOST:PORT`, where the host may be a name.
//!
//! A name is looked up each time it is needed, because its addresses change, and in a thread of its own, because the
//! system's resolver may block for minutes. Of several addresses none is waited for to the end: where one does not answer
//! soon, the next one is tried beside it (RFC 8305, *Happy Eyeballs*), and the first connection that stands is used.
//!
//! Left out on purpose: timeouts around a whole attempt, and when to try again. The caller knows how patient it is.

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

/// How long an address may take before the next one is tried as well.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// Looks the name up and connects to whichever of its addresses answers first. Has no time limit of its own.
///
/// # Errors
/// The resolver's error, or that of the address that failed last.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    let answer = begin_lookup(address.to_owned()).await;
    connect_to_any(&answer.unwrap_or_else(|_| Err(gone()))?, HEAD_START).await
}

/// The addresses that the name has now, for a caller that may block.
///
/// # Errors
/// The resolver's; `TimedOut` where it needs longer than `patience`; `NotFound` for a name without addresses.
pub fn look_up_blocking(address: &str, patience: Duration) -> io::Result<Vec<SocketAddr>> {
    let (reply, answer) = mpsc::channel();
    begin(address.to_owned(), move |found| drop(reply.send(found)));
    match answer.recv_timeout(patience) {
        Ok(found) => not_empty(found?),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(too_slow(patience)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
    }
}

/// Connects to whichever of `addresses` answers first. They are tried in their order, though the two families take turns:
/// each one `head_start` after the one before, or as soon as that has failed.
///
/// # Errors
/// That of the address that failed last; `NotFound` where there is none.
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

/// The family of the first address begins; the order within each stays.
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

/// In a thread of its own: nothing waits for a resolver that hangs, not even the end of the process. Where no thread is to
/// be had, `reply` is dropped without being called.
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
    let text = format!("no name server has answered within {} ms", patience.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn gone() -> io::Error {
    io::Error::other("the system gives no thread to look the name up in")
}

/// `HOST:PORT` that is needed again and again.
#[derive(Debug)]
pub struct Name {
    address: String,
    /// One that took longer than its caller waited: it is waited for again, rather than begun again.
    pending: Option<oneshot::Receiver<Answer>>,
    last_known: Vec<SocketAddr>,
}

impl Name {
    pub fn new(address: impl Into<String>) -> Name {
        Name { address: address.into(), pending: None, last_known: Vec::new() }
    }

    /// The addresses that the name has now.
    ///
    /// # Errors
    /// The resolver's; `TimedOut` where it needs longer than `patience`; `NotFound` for a name without addresses.
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

    /// What the last successful look-up found; empty before there was one. A name server that is down need not keep two
    /// machines apart that are up.
    pub fn last_known(&self) -> &[SocketAddr] {
        &self.last_known
    }
}

#[cfg(test)]
mod tests;
