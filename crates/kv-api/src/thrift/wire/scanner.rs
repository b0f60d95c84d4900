//! Finds where a message ends, without decoding it.
//!
//! The walk over the message is an explicit stack machine, so that it can stop at any byte and
//! continue when more have arrived.
//!
//! Invariants:
//! - no byte is examined twice, except the few of a header or number that was cut in the middle;
//! - the stack is the only memory, at most `max_depth` entries, whatever the message declares;
//! - time is linear in the bytes received: every element of a container takes at least one byte.

use super::{
    BINARY_FIRST_BYTE, COMPACT_FIRST_BYTE, Encoding, FRAME_PREFIX_LENGTH, Protocol, WireError, WireLimits, protocol_of,
};

const VARINT32_MAX_BYTES: usize = 5;
const VARINT64_MAX_BYTES: usize = 10;
/// The element of an empty container: some writers declare no type for elements that do not exist.
const NO_ELEMENT: Value = Value::Fixed(1);

/// A complete message: the first `end` bytes of the buffer, in this encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The encoding of the message.
    pub encoding: Encoding,
    /// Its length in bytes, the frame's length included.
    pub end: usize,
}

/// The value that comes next, reduced to what determines its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Fixed(usize),
    Varint { max_bytes: usize },
    Bytes,
    Struct,
    List,
    Map,
}

#[derive(Clone, Copy, Debug)]
enum Level {
    Struct,
    /// `left` values remain. A map counts keys and values, so an even count means that a key
    /// (`first`) is next.
    Elements {
        first: Value,
        second: Value,
        left: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing of the message has been recognised.
    Start,
    /// The frame's length is known; its content is examined once all of it has arrived.
    Frame { end: usize },
    /// The header of an unframed message (or of a frame's content) is next.
    Header(Protocol),
    /// The scanner is inside the arguments.
    Body(Protocol),
}

/// Finds the end of one message after another.
#[derive(Debug)]
pub struct Scanner {
    limits: WireLimits,
    state: State,
    /// Bytes of the message that have been scanned.
    position: usize,
    /// Bytes after `position` that belong to a value whose content does not matter.
    skip: usize,
    /// A value that was announced, but whose own header is still incomplete.
    pending: Option<Value>,
    stack: Vec<Level>,
}

/// `None` means that more bytes are needed.
type Step<T> = Result<Option<T>, WireError>;

impl Scanner {
    /// A scanner at the beginning of a message.
    pub fn new(limits: WireLimits) -> Self {
        Scanner { limits, state: State::Start, position: 0, skip: 0, pending: None, stack: Vec::new() }
    }

    /// Looks for the end of the message that begins `buffer`. `None` means that it is incomplete:
    /// call again with the same bytes and more. After an end or an error the scanner is ready for
    /// the next message.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<Envelope>, WireError> {
        let found = self.advance(buffer);
        if !matches!(found, Ok(None)) {
            self.reset();
        }
        found
    }

    fn reset(&mut self) {
        self.state = State::Start;
        self.position = 0;
        self.skip = 0;
        self.pending = None;
        self.stack.clear();
    }

    fn advance(&mut self, buffer: &[u8]) -> Step<Envelope> {
        loop {
            match self.state {
                State::Start => {
                    let Some(&first) = buffer.first() else { return Ok(None) };
                    match protocol_of(first) {
                        Some(protocol) => self.state = State::Header(protocol),
                        None => {
                            let Some(end) = self.frame_end(buffer)? else { return Ok(None) };
                            self.state = State::Frame { end };
                        }
                    }
                }
                State::Frame { end } => {
                    // A frame that does not hold Thrift is refused before all of it has arrived.
                    let Some(&first) = buffer.get(FRAME_PREFIX_LENGTH) else { return Ok(None) };
                    let Some(protocol) = protocol_of(first) else {
                        return Err(WireError::NotThrift([buffer[0], first]));
                    };
                    let encoding = Encoding { protocol, framed: true };
                    return Ok((buffer.len() >= end).then_some(Envelope { encoding, end }));
                }
                State::Header(protocol) => {
                    if self.header(buffer, protocol)?.is_none() {
                        return Ok(None);
                    }
                    self.stack.push(Level::Struct);
                    self.state = State::Body(protocol);
                }
                State::Body(protocol) => {
                    let encoding = Encoding { protocol, framed: false };
                    return Ok(self.body(buffer, protocol)?.map(|()| Envelope { encoding, end: self.position }));
                }
            }
        }
    }

    /// Checks that the content of a frame is exactly one message.
    pub(super) fn check_whole(message: &[u8], protocol: Protocol, limits: WireLimits) -> Result<(), WireError> {
        let mut scanner = Scanner::new(limits);
        scanner.state = State::Header(protocol);
        match scanner.advance(message)? {
            None => Err(WireError::Truncated),
            Some(envelope) if envelope.end < message.len() => {
                Err(WireError::TrailingBytes(message.len() - envelope.end))
            }
            Some(_) => Ok(()),
        }
    }

    fn frame_end(&self, buffer: &[u8]) -> Step<usize> {
        let Some(prefix) = buffer.first_chunk::<FRAME_PREFIX_LENGTH>() else {
            // The first byte alone may already say that the length is out of bounds.
            let least = u64::from(buffer[0]) << 24;
            return if buffer[0] & 0x80 != 0 || least > self.limits.max_message_bytes as u64 {
                Err(WireError::NotThrift([buffer[0], buffer.get(1).copied().unwrap_or(0)]))
            } else {
                Ok(None)
            };
        };
        let length = i32::from_be_bytes(*prefix);
        if length <= 0 {
            return Err(WireError::NotThrift([prefix[0], prefix[1]]));
        }
        let end = FRAME_PREFIX_LENGTH + length as usize;
        if end > self.limits.max_message_bytes {
            return Err(WireError::MessageTooLong { size: end as u64, limit: self.limits.max_message_bytes });
        }
        Ok(Some(end))
    }

    /// The message header up to the arguments: version, kind, name, sequence id.
    fn header(&mut self, buffer: &[u8], protocol: Protocol) -> Step<()> {
        match protocol {
            Protocol::Binary => {
                if let [first, second, ..] = *buffer
                    && [first, second] != [BINARY_FIRST_BYTE, 0x01]
                {
                    return Err(WireError::NotThrift([first, second]));
                }
                let Some(header) = buffer.first_chunk::<8>() else { return Ok(None) };
                let [.., a, b, c, d] = *header;
                let name_length = self.string_length(i64::from(i32::from_be_bytes([a, b, c, d])))?;
                self.position = header.len();
                self.skip(name_length + 4)?;
            }
            Protocol::Compact => {
                if let [first, second, ..] = *buffer
                    && (first, second & 0x1f) != (COMPACT_FIRST_BYTE, 1)
                {
                    return Err(WireError::NotThrift([first, second]));
                }
                let Some((_, sequence_length)) = varint(buffer, 2, VARINT32_MAX_BYTES)? else { return Ok(None) };
                let name_at = 2 + sequence_length;
                let Some((name, name_prefix)) = varint(buffer, name_at, VARINT32_MAX_BYTES)? else { return Ok(None) };
                let name_length = self.string_length(i64::from(name as u32))?;
                self.position = name_at + name_prefix;
                self.skip(name_length)?;
            }
        }
        Ok(Some(()))
    }

    /// Walks the arguments; `Some` once it has passed their last byte.
    fn body(&mut self, buffer: &[u8], protocol: Protocol) -> Step<()> {
        loop {
            let skipped = self.skip.min(buffer.len() - self.position);
            self.position += skipped;
            self.skip -= skipped;
            if self.skip > 0 {
                return Ok(None);
            }
            if let Some(value) = self.pending {
                if self.value(buffer, protocol, value)?.is_none() {
                    return Ok(None);
                }
                self.pending = None;
                continue;
            }
            match self.stack.last_mut() {
                None => return Ok(Some(())),
                Some(Level::Struct) => match field_header(&buffer[self.position..], protocol)? {
                    None => return Ok(None),
                    Some((length, value)) => {
                        self.skip(length)?;
                        self.pending = value;
                        if value.is_none() && !is_bool_field(buffer[self.position], protocol) {
                            self.stack.pop();
                        }
                    }
                },
                Some(Level::Elements { left: 0, .. }) => {
                    self.stack.pop();
                }
                Some(Level::Elements { first, second, left }) => {
                    self.pending = Some(if *left % 2 == 0 { *first } else { *second });
                    *left -= 1;
                }
            }
        }
    }

    /// Skips a value, or enters it. `None` if its own header is incomplete.
    fn value(&mut self, buffer: &[u8], protocol: Protocol, value: Value) -> Step<()> {
        let rest = &buffer[self.position..];
        match value {
            Value::Fixed(length) => self.skip(length)?,
            Value::Varint { max_bytes } => match varint(rest, 0, max_bytes)? {
                None => return Ok(None),
                Some((_, length)) => self.skip(length)?,
            },
            Value::Bytes => match size(rest, 0, protocol)? {
                None => return Ok(None),
                Some((declared, prefix)) => {
                    let length = self.string_length(declared)?;
                    self.skip(prefix + length)?;
                }
            },
            Value::Struct => self.enter(Level::Struct)?,
            Value::List => match list_header(rest, protocol)? {
                None => return Ok(None),
                Some((prefix, element, declared)) => {
                    self.skip(prefix)?;
                    self.enter_elements(element, element, declared, 1)?;
                }
            },
            Value::Map => match map_header(rest, protocol)? {
                None => return Ok(None),
                Some((prefix, key, item, declared)) => {
                    self.skip(prefix)?;
                    self.enter_elements(key, item, declared, 2)?;
                }
            },
        }
        Ok(Some(()))
    }

    fn enter(&mut self, level: Level) -> Result<(), WireError> {
        if self.stack.len() >= self.limits.max_depth {
            return Err(WireError::TooDeep(self.limits.max_depth));
        }
        self.stack.push(level);
        Ok(())
    }

    fn enter_elements(&mut self, first: Value, second: Value, declared: i64, per: u64) -> Result<(), WireError> {
        let count = u64::try_from(declared).map_err(|_| WireError::NegativeSize(declared))?;
        if count > self.limits.max_container as u64 {
            return Err(WireError::ContainerTooLarge { size: count, limit: self.limits.max_container });
        }
        let left = count * per;
        // Elements of one known length are skipped in one step.
        if let (Value::Fixed(a), Value::Fixed(b)) = (first, second) {
            let element = if per == 1 { a } else { a + b };
            if self.stack.len() >= self.limits.max_depth {
                return Err(WireError::TooDeep(self.limits.max_depth));
            }
            return self.skip(element * count as usize);
        }
        self.check_size((self.position + self.skip) as u64 + left)?;
        self.enter(Level::Elements { first, second, left })
    }

    /// Skips `length` bytes, whether they have arrived or not.
    fn skip(&mut self, length: usize) -> Result<(), WireError> {
        self.skip += length;
        self.check_size((self.position + self.skip) as u64)
    }

    fn check_size(&self, size: u64) -> Result<(), WireError> {
        if size > self.limits.max_message_bytes as u64 {
            return Err(WireError::MessageTooLong { size, limit: self.limits.max_message_bytes });
        }
        Ok(())
    }

    fn string_length(&self, declared: i64) -> Result<usize, WireError> {
        let length = u64::try_from(declared).map_err(|_| WireError::NegativeSize(declared))?;
        if length > self.limits.max_string_bytes as u64 {
            return Err(WireError::StringTooLong { size: length, limit: self.limits.max_string_bytes });
        }
        Ok(length as usize)
    }
}

/// The next field's header: its length and the value that follows, if one does.
fn field_header(rest: &[u8], protocol: Protocol) -> Step<(usize, Option<Value>)> {
    let Some(&first) = rest.first() else { return Ok(None) };
    match protocol {
        Protocol::Binary if first == 0 => Ok(Some((1, None))),
        Protocol::Binary => {
            let value = binary_value(first)?;
            Ok((rest.len() >= 3).then_some((3, Some(value))))
        }
        Protocol::Compact if first & 0x0f == 0 => Ok(Some((1, None))),
        Protocol::Compact => {
            let value = if is_bool_field(first, protocol) { None } else { Some(compact_value(first & 0x0f)?) };
            if first & 0xf0 != 0 {
                return Ok(Some((1, value)));
            }
            Ok(varint(rest, 1, VARINT32_MAX_BYTES)?.map(|(_, id_length)| (1 + id_length, value)))
        }
    }
}

/// A compact field header carries a bool within itself.
fn is_bool_field(header: u8, protocol: Protocol) -> bool {
    protocol == Protocol::Compact && matches!(header & 0x0f, 1 | 2)
}

fn list_header(rest: &[u8], protocol: Protocol) -> Step<(usize, Value, i64)> {
    let Some(&first) = rest.first() else { return Ok(None) };
    match protocol {
        Protocol::Binary => {
            let Some((declared, length)) = size(rest, 1, protocol)? else { return Ok(None) };
            let element = if declared == 0 { NO_ELEMENT } else { binary_value(first)? };
            Ok(Some((1 + length, element, declared)))
        }
        Protocol::Compact => {
            let short = i64::from(first >> 4);
            let (declared, length) = if short != 15 {
                (short, 0)
            } else {
                let Some(found) = size(rest, 1, protocol)? else { return Ok(None) };
                found
            };
            let element = if declared == 0 { NO_ELEMENT } else { compact_element(first & 0x0f)? };
            Ok(Some((1 + length, element, declared)))
        }
    }
}

fn map_header(rest: &[u8], protocol: Protocol) -> Step<(usize, Value, Value, i64)> {
    match protocol {
        Protocol::Binary => {
            let [key, item, ..] = *rest else { return Ok(None) };
            let Some((declared, length)) = size(rest, 2, protocol)? else { return Ok(None) };
            if declared == 0 {
                return Ok(Some((2 + length, NO_ELEMENT, NO_ELEMENT, 0)));
            }
            Ok(Some((2 + length, binary_value(key)?, binary_value(item)?, declared)))
        }
        Protocol::Compact => {
            let Some((declared, length)) = size(rest, 0, protocol)? else { return Ok(None) };
            if declared == 0 {
                return Ok(Some((length, NO_ELEMENT, NO_ELEMENT, 0)));
            }
            let Some(&types) = rest.get(length) else { return Ok(None) };
            Ok(Some((length + 1, compact_element(types >> 4)?, compact_element(types & 0x0f)?, declared)))
        }
    }
}

/// A length or count, and how many bytes encode it. Sizes above 2^31 are negative, as in every
/// Thrift library.
fn size(rest: &[u8], at: usize, protocol: Protocol) -> Step<(i64, usize)> {
    match protocol {
        Protocol::Binary => Ok(rest.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|bytes| {
            let declared = i32::from_be_bytes(*bytes);
            (i64::from(declared), bytes.len())
        })),
        Protocol::Compact => {
            Ok(varint(rest, at, VARINT32_MAX_BYTES)?
                .map(|(declared, length)| (i64::from(declared as u32 as i32), length)))
        }
    }
}

/// A variable-length number with 7 bits per byte, and its length in bytes.
pub(super) fn varint(bytes: &[u8], at: usize, max_bytes: usize) -> Step<(u64, usize)> {
    let mut number = 0u64;
    for index in 0..max_bytes {
        let Some(&byte) = bytes.get(at + index) else { return Ok(None) };
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((number, index + 1)));
        }
    }
    Err(WireError::NumberTooLong(max_bytes))
}

fn binary_value(code: u8) -> Result<Value, WireError> {
    Ok(match code {
        2 | 3 => Value::Fixed(1),
        4 | 10 => Value::Fixed(8),
        6 => Value::Fixed(2),
        8 => Value::Fixed(4),
        11 => Value::Bytes,
        12 => Value::Struct,
        13 => Value::Map,
        14 | 15 => Value::List,
        16 => Value::Fixed(16),
        unknown => return Err(WireError::UnknownType(unknown)),
    })
}

fn compact_value(code: u8) -> Result<Value, WireError> {
    Ok(match code {
        3 => Value::Fixed(1),
        4 | 5 => Value::Varint { max_bytes: VARINT32_MAX_BYTES },
        6 => Value::Varint { max_bytes: VARINT64_MAX_BYTES },
        7 => Value::Fixed(8),
        8 => Value::Bytes,
        9 | 10 => Value::List,
        11 => Value::Map,
        12 => Value::Struct,
        13 => Value::Fixed(16),
        unknown => return Err(WireError::UnknownType(unknown)),
    })
}

/// In a container a bool takes a byte of its own.
fn compact_element(code: u8) -> Result<Value, WireError> {
    if matches!(code, 1 | 2) { Ok(Value::Fixed(1)) } else { compact_value(code) }
}
