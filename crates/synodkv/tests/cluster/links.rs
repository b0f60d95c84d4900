//! Links between processes: a small TCP proxy for each direction in which replicas dial each other,
//! which can be cut.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    Open,
    /// All connections are closed, and new ones are closed at once, as when a process dies.
    Closed,
    /// Nothing passes, without an error, as when a cable is pulled. Bytes sent meanwhile arrive
    /// when the link opens.
    Silent,
}

/// The link from one dialler to one listener. It lives as long as the runtime in which it was
/// created.
pub struct Link {
    pub from: usize,
    pub to: usize,
    pub address: SocketAddr,
    state: watch::Sender<LinkState>,
}

impl Link {
    pub async fn start(from: usize, to: usize, target: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = watch::Sender::new(LinkState::Open);
        tokio::spawn(accept(listener, target, state.subscribe()));
        Link { from, to, address, state }
    }

    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<LinkState>) {
    while let Ok((dialler, _)) = listener.accept().await {
        tokio::spawn(carry(dialler, target, state.clone()));
    }
}

/// Waits for the end of a silence. False: the link is closed.
async fn passes(state: &mut watch::Receiver<LinkState>) -> bool {
    let spoken = state.wait_for(|state| *state != LinkState::Silent).await;
    spoken.is_ok_and(|state| *state == LinkState::Open)
}

async fn carry(dialler: TcpStream, target: SocketAddr, mut state: watch::Receiver<LinkState>) {
    if !passes(&mut state).await {
        return;
    }
    let Ok(listener) = TcpStream::connect(target).await else { return };
    for stream in [&dialler, &listener] {
        stream.set_nodelay(true).expect("a TCP socket");
    }
    let ((dialler_read, dialler_write), (listener_read, listener_write)) =
        (dialler.into_split(), listener.into_split());
    // When one direction ends, the other one is dropped with it.
    tokio::select! {
        () = copy(dialler_read, listener_write, state.clone()) => {}
        () = copy(listener_read, dialler_write, state) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<LinkState>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if !passes(&mut state).await {
            return;
        }
        let read = tokio::select! {
            biased;
            _ = state.changed() => continue,
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else { return };
        if !passes(&mut state).await || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
