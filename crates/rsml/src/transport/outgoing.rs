//! The queue of frames to one peer, and the socket they go into.
//!
//! Whoever sends writes into the socket at once if nothing is queued and the socket has room: a message then leaves
//! without waking another thread. What does not fit is queued, and the connection's task writes it when there is room
//! again. Frames leave whole and in order, because both write only while holding the queue.
//!
//! Over TLS only the connection's task writes ([`Way::ByTask`]); it is the only one that takes from the queue then.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::frame::EncodedFrame;

/// Pieces handed to the system in one call.
const MAX_SLICES: usize = 64;

/// Frames wait here only while a connection stands.
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    max_bytes: usize,
    /// Something is left to the connection's task.
    left: Notify,
}

/// How frames get into a connection.
pub(super) enum Way {
    /// Whoever sends writes, as far as there is room.
    InPlace(Arc<OwnedWriteHalf>),
    /// Only [`Outgoing::write_all`] writes.
    ByTask,
}

#[derive(Default)]
struct Queue {
    /// `None` while no connection stands.
    way: Option<Way>,
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// Frames not written whole yet.
    frames: VecDeque<usize>,
}

/// What was written: whole frames, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub frames: usize,
    pub bytes: usize,
}

impl Outgoing {
    pub fn new(max_bytes: usize) -> Self {
        Outgoing { queue: Mutex::default(), max_bytes, left: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, way: Way) {
        *self.queue() = Queue { way: Some(way), ..Queue::default() };
    }

    /// Returns how many frames had not been written; they are dropped.
    pub fn close(&self) -> usize {
        std::mem::take(&mut *self.queue()).frames.len()
    }

    /// What waits, or is being written.
    pub fn bytes(&self) -> usize {
        self.queue().bytes
    }

    /// `None` when there is no room or no connection: the frame is dropped.
    pub fn push(&self, frame: EncodedFrame) -> Option<Written> {
        let mut queue = self.queue();
        if queue.way.is_none() || queue.bytes + frame.bytes > self.max_bytes {
            return None;
        }
        let was_empty = queue.pieces.is_empty();
        queue.bytes += frame.bytes;
        queue.frames.push_back(frame.bytes);
        queue.pieces.extend(frame.pieces);
        let written = if was_empty { queue.write() } else { Ok(Written::default()) };
        if !queue.pieces.is_empty() {
            drop(queue);
            self.left.notify_one();
        }
        // An error is found again by the connection's task, which ends the connection.
        Some(written.unwrap_or_default())
    }

    /// Writes what is left over by [`Outgoing::push`], until the connection fails.
    pub async fn write_rest(&self, socket: &OwnedWriteHalf, mut wrote: impl FnMut(Written)) -> io::Error {
        loop {
            self.left.notified().await;
            loop {
                if let Err(error) = socket.writable().await {
                    return error;
                }
                let mut queue = self.queue();
                match queue.write() {
                    Ok(written) => wrote(written),
                    Err(error) => return error,
                }
                if queue.pieces.is_empty() {
                    break;
                }
            }
        }
    }
}

impl Outgoing {
    /// Writes everything that [`Outgoing::push`] takes on, until the connection fails.
    pub async fn write_all(&self, writer: &mut (impl AsyncWrite + Unpin), mut wrote: impl FnMut(Written)) -> io::Error {
        loop {
            self.left.notified().await;
            loop {
                let pieces: Vec<Bytes> = self.queue().pieces.iter().take(MAX_SLICES).cloned().collect();
                if pieces.is_empty() {
                    break;
                }
                let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                match writer.write_vectored(&slices).await {
                    Ok(0) => return io::ErrorKind::WriteZero.into(),
                    Ok(bytes) => wrote(Written { bytes, frames: self.queue().advance(bytes) }),
                    Err(error) => return error,
                }
            }
            if let Err(error) = writer.flush().await {
                return error;
            }
        }
    }
}

impl Queue {
    /// Writes until everything is written or the socket has no more room.
    fn write(&mut self) -> io::Result<Written> {
        let mut written = Written::default();
        let Some(Way::InPlace(socket)) = &self.way else { return Ok(written) };
        let socket = socket.clone();
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = slices.iter_mut().zip(&self.pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count();
            match socket.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    written.bytes += bytes;
                    written.frames += self.advance(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Returns how many frames are now written whole.
    fn advance(&mut self, bytes: usize) -> usize {
        self.bytes -= bytes;
        let mut left = bytes;
        while left > 0 {
            let front = self.pieces.front_mut().expect("no more is written than there is");
            let step = left.min(front.len());
            front.advance(step);
            left -= step;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
        let mut left = bytes;
        let mut whole = 0;
        while let Some(frame) = self.frames.front_mut().filter(|_| left > 0) {
            let step = left.min(*frame);
            *frame -= step;
            left -= step;
            if *frame == 0 {
                self.frames.pop_front();
                whole += 1;
            }
        }
        whole
    }
}
