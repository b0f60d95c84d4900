//! The queue of frames to one peer, and the socket that they are written to.
//!
//! The sending thread writes to the socket itself if nothing is queued and the socket has room: a
//! message then leaves without waking another thread. Frames that do not fit are queued, and the
//! connection's task writes them when there is room again. Frames leave whole and in order, because
//! both write only while they hold the lock of the queue.
//!
//! Over TLS only the connection's task writes ([`WriteMode::ByTask`]), so only it removes frames
//! from the queue.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::frame::EncodedFrame;

/// The maximum number of pieces passed to the system in one call.
const MAX_SLICES: usize = 64;

/// Frames are queued only while there is a connection.
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    max_bytes: usize,
    /// Signalled when the connection's task has something to write.
    left: Notify,
}

/// Which thread writes to a connection.
pub(super) enum WriteMode {
    /// The sending thread writes as much as the socket has room for; [`Outgoing::write_rest`] does
    /// the rest.
    BySender(Arc<OwnedWriteHalf>),
    /// Only [`Outgoing::write_all`] writes.
    ByTask,
}

#[derive(Default)]
struct Queue {
    /// `None` while there is no connection.
    mode: Option<WriteMode>,
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// How many bytes are left to write of each frame that is not complete yet.
    frames: VecDeque<usize>,
}

/// How much was written: bytes, and frames that are complete now.
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

    pub fn open(&self, mode: WriteMode) {
        *self.queue() = Queue { mode: Some(mode), ..Queue::default() };
    }

    /// Drops the frames that were not written completely, and returns how many.
    pub fn close(&self) -> usize {
        std::mem::take(&mut *self.queue()).frames.len()
    }

    /// The bytes that are queued or being written.
    pub fn bytes(&self) -> usize {
        self.queue().bytes
    }

    /// Drops the frame and returns `None` if there is no room or no connection.
    pub fn push(&self, frame: EncodedFrame) -> Option<Written> {
        let mut queue = self.queue();
        if queue.mode.is_none() || queue.bytes + frame.bytes > self.max_bytes {
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
        // The connection's task meets the same error, and then ends the connection.
        Some(written.unwrap_or_default())
    }

    /// Writes what [`Outgoing::push`] could not, until the connection fails.
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
    /// Writes everything that [`Outgoing::push`] queues, until the connection fails.
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
    /// Writes until the queue is empty or the socket has no more room.
    fn write(&mut self) -> io::Result<Written> {
        let mut written = Written::default();
        let Some(WriteMode::BySender(socket)) = &self.mode else { return Ok(written) };
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
                // Report first what was written; the next write meets the error again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || written.bytes > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Removes bytes that were written, and returns how many frames that completed.
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::net::{TcpListener, TcpStream};

    use super::super::Envelope;
    use super::super::frame::Frame;
    use super::super::tests::own_loopback;
    use super::*;
    use crate::message::MessageHeader;
    use crate::{Boot, ClusterId, DiskId, Epoch, ReplicaId};

    /// Accepts `room` bytes, a few at a time, and then fails.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let step = bytes.len().min(self.room).min(70);
            if step == 0 {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.room -= step;
            self.taken.extend_from_slice(&bytes[..step]);
            Poll::Ready(Ok(step))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(if self.room > 0 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) })
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(body: &'static str, payload_bytes: usize) -> EncodedFrame {
        let (replica, cluster_id) = (ReplicaId(0), ClusterId(7));
        let sender = MessageHeader { replica, cluster_id, epoch: Epoch(1), disk_id: DiskId(5), boot: Boot(2) };
        let payload = vec![Bytes::from(vec![b'.'; payload_bytes]), Bytes::from_static(b"end")];
        let envelope = Envelope { sender, to: ReplicaId(1), body: body.into(), payload };
        Frame::message(envelope).encode().expect("it is small")
    }

    /// Pushes the frames into a new connection that accepts `room` bytes. Returns the bytes that it
    /// accepted, and the sum of what was reported.
    fn write_into(outgoing: &Outgoing, frames: &[EncodedFrame], room: usize) -> (Vec<u8>, Written) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a thread");
        outgoing.open(WriteMode::ByTask);
        frames.iter().for_each(|frame| assert_eq!(outgoing.push(frame.clone()), Some(Written::default())));
        let (mut writer, mut reported) = (Narrow { room, taken: Vec::new() }, Written::default());
        runtime.block_on(outgoing.write_all(&mut writer, |written| {
            reported.frames += written.frames;
            reported.bytes += written.bytes;
        }));
        (writer.taken, reported)
    }

    #[test]
    fn a_connection_that_fails_after_any_number_of_bytes_leaves_nothing_to_the_next_one() {
        // One payload is copied after its head, the other is a piece of its own.
        let frames = [frame("first", 10), frame("second", 600), frame("third", 0)];
        let next = [frame("next", 20)];
        let bytes_of = |frames: &[EncodedFrame]| frames.iter().flat_map(|f| f.pieces.concat()).collect::<Vec<u8>>();
        let (all, outgoing) = (bytes_of(&frames), Outgoing::new(1 << 20));
        for room in 0..=all.len() {
            let (taken, reported) = write_into(&outgoing, &frames, room);
            assert!(taken == all[..room] && reported.bytes == room, "of {room} bytes: {reported:?}");
            let ends = frames.iter().scan(0, |end, frame| {
                *end += frame.bytes;
                Some(*end)
            });
            assert_eq!(reported.frames, ends.filter(|end| *end <= room).count(), "whole frames in {room} bytes");
            assert_eq!(outgoing.bytes(), all.len() - room);
            assert_eq!(outgoing.close(), frames.len() - reported.frames, "frames dropped after {room} bytes");
            assert_eq!((outgoing.bytes(), outgoing.push(frames[0].clone())), (0, None), "there is no connection");
            let (taken, reported) = write_into(&outgoing, &next, next[0].bytes);
            assert!(
                taken == bytes_of(&next),
                "the next connection got a rest of the one that ended after {room} bytes"
            );
            assert_eq!((reported.frames, outgoing.close()), (1, 0));
        }
    }

    #[test]
    fn a_queue_accepts_frames_up_to_its_limit_and_more_once_some_were_written() {
        let (one, other) = (frame("one", 600), frame("other", 600));
        let outgoing = Outgoing::new(one.bytes + other.bytes);
        outgoing.open(WriteMode::ByTask);
        assert!(outgoing.push(one.clone()).is_some() && outgoing.push(other.clone()).is_some());
        assert_eq!(outgoing.push(frame("more", 0)), None, "a full queue accepted more");
        outgoing.close();
        let (taken, _) = write_into(&outgoing, &[one.clone(), other], one.bytes);
        assert_eq!(taken, one.pieces.concat());
        assert!(outgoing.push(one).is_some(), "there is room for as much as was written");
        assert_eq!(outgoing.push(frame("more", 0)), None, "a full queue accepted more");
    }

    /// Reads the bytes that have arrived so far.
    fn read_all_there_is(stream: &TcpStream) -> Vec<u8> {
        let (mut read, mut bytes) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(count) = stream.try_read(&mut bytes) {
            assert!(count > 0, "the connection was closed");
            read.extend_from_slice(&bytes[..count]);
        }
        read
    }

    /// The socket has room again, but the connection's task has not run yet to write the queued
    /// frames.
    #[test]
    fn a_frame_that_would_fit_waits_behind_queued_ones() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind((own_loopback(), 0)).await.expect("a free port");
            let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
            let (peer, _) = listener.accept().await.expect("it was dialled");
            let (_answers, socket) = stream.into_split();
            let (socket, outgoing) = (Arc::new(socket), Outgoing::new(1 << 30));
            outgoing.open(WriteMode::BySender(socket.clone()));
            let (large, small) = (frame("large", 100_003), frame("small", 0));
            let mut sent = Vec::new();
            while outgoing.bytes() == 0 {
                assert!(outgoing.push(large.clone()).is_some());
                sent.extend(large.pieces.concat());
            }
            // Read until there is room for the small frame.
            let mut arrived = Vec::new();
            let make_room = async {
                loop {
                    peer.readable().await.expect("the connection is open");
                    arrived.extend(read_all_there_is(&peer));
                }
            };
            tokio::select! {
                found = socket.writable() => found.expect("the connection is open"),
                () = make_room => {}
            }
            assert_eq!(outgoing.push(small.clone()), Some(Written::default()), "it overtook queued frames");
            sent.extend(small.pieces.concat());
            let rest = async {
                while arrived.len() < sent.len() {
                    peer.readable().await.expect("the connection is open");
                    arrived.extend(read_all_there_is(&peer));
                }
            };
            tokio::select! {
                error = outgoing.write_rest(&socket, |_| {}) => panic!("{error}"),
                () = rest => {}
            }
            assert!(arrived == sent, "what arrived is not what was sent");
        });
    }
}
