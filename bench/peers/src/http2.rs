//! As much of HTTP/2 and gRPC as a client of unary calls needs.
//!
//! Response headers are not decoded: a call has succeeded when a message came before the end of its
//! stream, because an error has none. Request headers use the dynamic table as usual clients do, so
//! that the server decodes one byte for each of them.

use std::collections::VecDeque;

use crate::protocol::Broken;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const FRAME_HEADER: usize = 9;
/// The receive window of the connection and of each stream.
const WINDOW: u32 = (1 << 31) - 1;
const DEFAULT_WINDOW: u32 = 65_535;
/// The connection's window is opened again after this many bytes.
const REOPEN_AFTER: u32 = 1 << 30;
const STATIC_TABLE: usize = 61;
/// Flag, length of the message.
pub const GRPC_HEADER: usize = 5;

/// An open stream, its body so far, and what the caller said about it.
struct Stream<T> {
    about: T,
    body: Vec<u8>,
}

pub struct Http2<T> {
    authority: String,
    /// Header fields in the order of insertion into the dynamic table.
    table: Vec<(u8, Vec<u8>)>,
    /// Streams `first`, `first + 2`, …; an ended one is `None`.
    streams: VecDeque<Option<Stream<T>>>,
    first: u32,
    send_window: i64,
    received: u32,
    /// Requests that wait for the send window: bytes, and how many of them count.
    held: VecDeque<(Vec<u8>, usize)>,
}

impl<T> Http2<T> {
    pub fn new(authority: String) -> Self {
        Http2 {
            authority,
            table: Vec::new(),
            streams: VecDeque::new(),
            first: 1,
            send_window: i64::from(DEFAULT_WINDOW),
            received: 0,
            held: VecDeque::new(),
        }
    }

    pub fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let initial_window_size = [&4u16.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
        push_frame(out, SETTINGS, 0, 0, &initial_window_size);
        push_frame(out, WINDOW_UPDATE, 0, 0, &(WINDOW - DEFAULT_WINDOW).to_be_bytes());
    }

    /// Sends a call with one message.
    pub fn call(&mut self, out: &mut Vec<u8>, path: &str, message: &[u8], about: T) {
        let stream = self.first + 2 * self.streams.len() as u32;
        self.streams.push_back(Some(Stream { about, body: Vec::new() }));
        let mut request = Vec::with_capacity(2 * FRAME_HEADER + 16 + GRPC_HEADER + message.len());
        let headers = self.headers(path);
        push_frame(&mut request, HEADERS, END_HEADERS, stream, &headers);
        let data = [&[0u8][..], &(message.len() as u32).to_be_bytes(), message].concat();
        push_frame(&mut request, DATA, END_STREAM, stream, &data);
        self.held.push_back((request, data.len()));
        self.send_held(out);
    }

    fn send_held(&mut self, out: &mut Vec<u8>) {
        while self.held.front().is_some_and(|(_, counted)| *counted as i64 <= self.send_window) {
            let (request, counted) = self.held.pop_front().expect("checked by the loop");
            self.send_window -= counted as i64;
            out.extend_from_slice(&request);
        }
    }

    fn headers(&mut self, path: &str) -> Vec<u8> {
        // `:method: POST` and `:scheme: http` are in the static table.
        let mut block = vec![0x80 | 3, 0x80 | 6];
        let authority = self.authority.clone();
        self.push_field(&mut block, 4, b"", path.as_bytes());
        self.push_field(&mut block, 1, b"", authority.as_bytes());
        self.push_field(&mut block, 31, b"", b"application/grpc");
        self.push_field(&mut block, 0, b"te", b"trailers");
        block
    }

    /// Appends a header field, whose name is number `name_index` of the static table or else `name`.
    fn push_field(&mut self, block: &mut Vec<u8>, name_index: u8, name: &[u8], value: &[u8]) {
        let known = self.table.iter().position(|(index, content)| *index == name_index && content == value);
        if let Some(place) = known {
            // The newest entry comes first.
            block.push(0x80 | (STATIC_TABLE + self.table.len() - place) as u8);
            return;
        }
        self.table.push((name_index, value.to_vec()));
        block.push(0x40 | name_index);
        if name_index == 0 {
            block.push(name.len() as u8);
            block.extend_from_slice(name);
        }
        block.push(value.len() as u8);
        block.extend_from_slice(value);
    }

    /// Takes frames, and passes each call that has ended to `end`: its message, or `None` if it
    /// failed. Returns the number of bytes that were used up.
    pub fn receive(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        mut end: impl FnMut(T, Option<&[u8]>),
    ) -> Result<usize, Broken> {
        let mut at = 0;
        while let Some(header) = input.get(at..at + FRAME_HEADER) {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let (kind, flags) = (header[3], header[4]);
            let stream = number_at(header, 5) & 0x7fff_ffff;
            let Some(payload) = input.get(at + FRAME_HEADER..at + FRAME_HEADER + length) else { break };
            at += FRAME_HEADER + length;
            match kind {
                DATA => self.data(out, stream, flags, payload)?,
                SETTINGS if flags & ACK == 0 => push_frame(out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => push_frame(out, PING, ACK, 0, payload),
                WINDOW_UPDATE if stream == 0 && length == 4 => {
                    self.send_window += i64::from(number_at(payload, 0));
                    self.send_held(out);
                }
                GOAWAY => return Err(Broken("etcd closes the connection (GOAWAY)".to_string())),
                _ => {}
            }
            let is_end = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
            if is_end || kind == RST_STREAM {
                let Stream { about, body } = self.take(stream)?;
                let message = body.get(GRPC_HEADER..).filter(|_| is_end);
                end(about, message);
            }
        }
        Ok(at)
    }

    fn data(&mut self, out: &mut Vec<u8>, stream: u32, flags: u8, payload: &[u8]) -> Result<(), Broken> {
        self.received += payload.len() as u32;
        if self.received >= REOPEN_AFTER {
            push_frame(out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        if flags & PADDED != 0 {
            return Err(Broken("a padded frame".to_string()));
        }
        let place = (stream.wrapping_sub(self.first) / 2) as usize;
        let unknown = || Broken(format!("a reply on stream {stream}, which is not open"));
        let stream = self.streams.get_mut(place).and_then(Option::as_mut).ok_or_else(unknown)?;
        stream.body.extend_from_slice(payload);
        Ok(())
    }

    fn take(&mut self, stream: u32) -> Result<Stream<T>, Broken> {
        let place = (stream.wrapping_sub(self.first) / 2) as usize;
        let unknown = || Broken(format!("the end of stream {stream}, which is not open"));
        let taken = self.streams.get_mut(place).and_then(Option::take).ok_or_else(unknown)?;
        while matches!(self.streams.front(), Some(None)) {
            self.streams.pop_front();
            self.first += 2;
        }
        Ok(taken)
    }
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response to a call: headers, a message and trailers, as the server sends them.
    fn response(stream: u32, message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, HEADERS, END_HEADERS, stream, &[0x88]);
        let data = [&[0u8][..], &(message.len() as u32).to_be_bytes(), message].concat();
        push_frame(&mut bytes, DATA, 0, stream, &data);
        push_frame(&mut bytes, HEADERS, END_HEADERS | END_STREAM, stream, &[0xbf]);
        bytes
    }

    /// The caller's own data, and the message of the reply.
    type EndedCall = (u8, Option<Vec<u8>>);

    fn receive(http2: &mut Http2<u8>, input: &[u8]) -> (usize, Vec<EndedCall>, Vec<u8>) {
        let (mut ended, mut out) = (Vec::new(), Vec::new());
        let used = http2.receive(input, &mut out, |about, message| ended.push((about, message.map(<[u8]>::to_vec))));
        (used.expect("valid frames"), ended, out)
    }

    #[test]
    fn calls_end_in_any_order_and_incomplete_frames_wait() {
        let (mut http2, mut out) = (Http2::new("host".to_string()), Vec::new());
        (0..3).for_each(|about| http2.call(&mut out, "/a/B", b"x", about));
        let second = response(3, b"two");
        let (used, ended, _) = receive(&mut http2, &second[..second.len() - 1]);
        assert_eq!((used, ended), (second.len() - 10, vec![]));
        let (_, ended, _) = receive(&mut http2, &second[used..]);
        assert_eq!(ended, [(1, Some(b"two".to_vec()))]);
        let (_, ended, _) = receive(&mut http2, &[response(1, b""), response(5, b"three")].concat());
        assert_eq!(ended, [(0, Some(vec![])), (2, Some(b"three".to_vec()))]);
        assert_eq!((http2.first, http2.streams.len()), (7, 0));
    }

    #[test]
    fn a_stream_that_ends_without_a_message_has_failed() {
        let (mut http2, mut out) = (Http2::new("host".to_string()), Vec::new());
        http2.call(&mut out, "/a/B", b"x", 9);
        let mut trailers = Vec::new();
        push_frame(&mut trailers, HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        assert_eq!(receive(&mut http2, &trailers).1, [(9, None)]);
    }

    #[test]
    fn calls_wait_for_the_send_window() {
        let (mut http2, mut out) = (Http2::new("host".to_string()), Vec::new());
        http2.call(&mut out, "/a/B", &[0; 65_000], 0);
        let sent = out.len();
        http2.call(&mut out, "/a/B", &[0; 1000], 1);
        assert_eq!(out.len(), sent, "the second one does not fit");
        let mut update = Vec::new();
        push_frame(&mut update, WINDOW_UPDATE, 0, 0, &1000u32.to_be_bytes());
        assert!(receive(&mut http2, &update).2.len() > 1000);
    }

    #[test]
    fn header_fields_that_were_sent_before_are_sent_as_their_index() {
        let mut http2 = Http2::<u8>::new("host".to_string());
        let first = http2.headers("/a/B");
        assert!(first.windows(4).any(|window| window == b"/a/B"));
        // The newest entry is 62: te, content-type, authority, path.
        assert_eq!(http2.headers("/a/B"), [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]);
        http2.headers("/c/D");
        assert_eq!(http2.headers("/a/B"), [0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf]);
    }
}
