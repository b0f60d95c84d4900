//! Links between processes: a small TCP proxy for each direction in which replicas dial each other,
//! which can be cut and made slow.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Pieces under way on one connection; whoever sends more waits.
const PIECES_UNDER_WAY: usize = 64;
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    Open,
    /// Everything arrives so much later, in order.
    Slow {
        delay: Duration,
    },
    /// Every connection is closed, and new ones are closed at once: as when a process dies.
    Closed,
    /// Nothing passes, without notice: as when a cable is pulled. Bytes sent meanwhile arrive when
    /// the link opens.
    Silent,
}

impl LinkState {
    fn delay(self) -> Duration {
        match self {
            LinkState::Slow { delay } => delay,
            LinkState::Open | LinkState::Closed | LinkState::Silent => Duration::ZERO,
        }
    }
}

type State = watch::Receiver<LinkState>;

/// One dialler's way to one listener. It lives as long as the runtime that it was made in.
pub struct Link {
    pub from: usize,
    pub to: usize,
    pub address: SocketAddr,
    state: watch::Sender<LinkState>,
}

impl Link {
    /// # Errors
    /// When there is no free port.
    pub async fn start(from: usize, to: usize, target: SocketAddr) -> std::io::Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(LinkState::Open);
        tokio::spawn(accept(listener, target, state.subscribe()));
        Ok(Link { from, to, address, state })
    }

    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: State) {
    while let Ok((dialler, _)) = listener.accept().await {
        tokio::spawn(carry(dialler, target, state.clone()));
    }
}

/// Waits for the end of a silence. False: the link is closed.
async fn passes(state: &mut State) -> bool {
    let spoken = state.wait_for(|state| *state != LinkState::Silent).await;
    spoken.is_ok_and(|state| *state != LinkState::Closed)
}

async fn carry(dialler: TcpStream, target: SocketAddr, mut state: State) {
    if !passes(&mut state).await {
        return;
    }
    let Ok(listener) = TcpStream::connect(target).await else { return };
    if dialler.set_nodelay(true).is_err() || listener.set_nodelay(true).is_err() {
        return;
    }
    let ((dialler_read, dialler_write), (listener_read, listener_write)) =
        (dialler.into_split(), listener.into_split());
    // When one direction ends, the other one is dropped with it.
    tokio::select! {
        () = copy(dialler_read, listener_write, state.clone()) => {}
        () = copy(listener_read, dialler_write, state) => {}
    }
}

async fn copy(from: OwnedReadHalf, to: OwnedWriteHalf, state: State) {
    let (sender, receiver) = mpsc::channel(PIECES_UNDER_WAY);
    tokio::join!(read(from, sender, state.clone()), write(to, receiver, state));
}

/// Takes pieces from the sender, each with the moment at which it is due.
async fn read(mut from: OwnedReadHalf, pieces: mpsc::Sender<(Instant, Vec<u8>)>, mut state: State) {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        if !passes(&mut state).await {
            return;
        }
        let read = tokio::select! {
            biased;
            _ = state.changed() => continue,
            () = pieces.closed() => return,
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else { return };
        let due = Instant::now() + state.borrow().delay();
        if pieces.send((due, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn write(mut to: OwnedWriteHalf, mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>, mut state: State) {
    while let Some((due, piece)) = pieces.recv().await {
        sleep_until(due).await;
        if !passes(&mut state).await || to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
