//! Encodes and decodes whole messages: calls and replies.

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol, TFieldIdentifier,
    TInputProtocol, TOutputProtocol, TStructIdentifier, TType,
};
use thrift::{ApplicationError, ApplicationErrorKind, TConfiguration};

use super::scanner::varint;
use super::{
    BINARY_FIRST_BYTE, COMPACT_FIRST_BYTE, Encoding, FRAME_PREFIX_LENGTH, Protocol, Scanner, WireError, WireLimits,
};
use crate::thrift::{Method, ThriftCall, ThriftException, ThriftReply, expect_type};

/// The field of a call's arguments that holds the request.
const REQUEST_FIELD: i16 = 1;
/// The field of a result that holds the response.
const RESPONSE_FIELD: i16 = 0;
const EXCEPTION_TEXT_FIELD: i16 = 1;
const EXCEPTION_KIND_FIELD: i16 = 2;

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Call,
    Reply,
    Exception,
    /// A call without a reply.
    OneWay,
}

impl MessageKind {
    fn of_code(code: u8) -> Result<Self, WireError> {
        match code {
            1 => Ok(MessageKind::Call),
            2 => Ok(MessageKind::Reply),
            3 => Ok(MessageKind::Exception),
            4 => Ok(MessageKind::OneWay),
            unknown => Err(WireError::UnknownMessageType(unknown)),
        }
    }

    fn code(self) -> u8 {
        match self {
            MessageKind::Call => 1,
            MessageKind::Reply => 2,
            MessageKind::Exception => 3,
            MessageKind::OneWay => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            MessageKind::Call => "call",
            MessageKind::Reply => "reply",
            MessageKind::Exception => "exception",
            MessageKind::OneWay => "oneway",
        }
    }
}

/// The header of a message: everything before its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The kind.
    pub kind: MessageKind,
    /// The method's name as received.
    pub name: &'a [u8],
    /// The number by which the client matches the reply.
    pub sequence_id: i32,
    /// Where the arguments begin.
    body: usize,
}

/// A call whose header could be read.
#[derive(Debug)]
pub struct IncomingCall<'a> {
    /// The method's name as received.
    pub name: &'a [u8],
    /// The number by which the client matches the reply.
    pub sequence_id: i32,
    /// The client does not wait for a reply.
    pub one_way: bool,
    /// The call, or the exception to answer with if it cannot be decoded.
    pub call: Result<ThriftCall, ThriftException>,
}

/// Reads the header of a message, whose rest may still be missing.
pub fn read_header(message: &[u8], encoding: Encoding) -> Result<Header<'_>, WireError> {
    let start = encoding.prefix_length();
    let truncated = || WireError::Truncated;
    match encoding.protocol {
        Protocol::Binary => {
            let header = message.get(start..start + 8).ok_or_else(truncated)?;
            if header[..2] != [BINARY_FIRST_BYTE, 1] {
                return Err(WireError::NotThrift([header[0], header[1]]));
            }
            let kind = MessageKind::of_code(header[3])?;
            let length = i32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let length = usize::try_from(length).map_err(|_| WireError::NegativeSize(i64::from(length)))?;
            let name = message[start + 8..].get(..length).ok_or_else(truncated)?;
            let sequence = message[start + 8 + length..].first_chunk::<4>().ok_or_else(truncated)?;
            let body = start + 8 + length + 4;
            Ok(Header { kind, name, sequence_id: i32::from_be_bytes(*sequence), body })
        }
        Protocol::Compact => {
            let [first, second] = *message.get(start..start + 2).ok_or_else(truncated)? else {
                return Err(WireError::Truncated);
            };
            if (first, second & 0x1f) != (COMPACT_FIRST_BYTE, 1) {
                return Err(WireError::NotThrift([first, second]));
            }
            let kind = MessageKind::of_code(second >> 5)?;
            let (sequence, sequence_length) = varint(message, start + 2, 5)?.ok_or_else(truncated)?;
            let at = start + 2 + sequence_length;
            let (length, prefix) = varint(message, at, 5)?.ok_or_else(truncated)?;
            let name = message[at + prefix..].get(..length as u32 as usize).ok_or_else(truncated)?;
            Ok(Header { kind, name, sequence_id: sequence as u32 as i32, body: at + prefix + name.len() })
        }
    }
}

/// Decodes a complete message (the bytes up to [`super::Envelope::end`]) as a call. An error means
/// that no answer is possible, because the header itself could not be read.
pub fn decode_call(message: &[u8], encoding: Encoding, limits: WireLimits) -> Result<IncomingCall<'_>, WireError> {
    let header = read_header(message, encoding)?;
    let refuse = |kind, text: String| Err(ThriftException::new(kind, text));
    let call = match (header.kind, Method::of_name(header.name)) {
        (MessageKind::Reply | MessageKind::Exception, _) => {
            refuse(ApplicationErrorKind::InvalidMessageType, format!("a {} is not a call", header.kind.name()))
        }
        (_, None) => {
            let name = String::from_utf8_lossy(&header.name[..header.name.len().min(256)]);
            refuse(ApplicationErrorKind::UnknownMethod, format!("unknown method {name:?}"))
        }
        (_, Some(method)) => read_arguments(message, header.body, encoding, limits, method).map_err(|error| {
            ThriftException::new(ApplicationErrorKind::ProtocolError, format!("{}: {error}", method.name()))
        }),
    };
    let one_way = header.kind == MessageKind::OneWay;
    Ok(IncomingCall { name: header.name, sequence_id: header.sequence_id, one_way, call })
}

/// Decodes a complete message as the reply to a call of `method`; returns its sequence id and the
/// reply.
pub fn decode_reply(
    message: &[u8],
    encoding: Encoding,
    limits: WireLimits,
    method: Method,
) -> Result<(i32, ThriftReply), WireError> {
    let header = read_header(message, encoding)?;
    let reply = match header.kind {
        MessageKind::Reply if header.name == method.name().as_bytes() => {
            read_body(message, header.body, encoding, limits, |input| {
                read_wrapped(input, RESPONSE_FIELD, &mut |input| ThriftReply::read_response(method, input))
            })?
        }
        MessageKind::Reply => {
            let got = String::from_utf8_lossy(header.name).into_owned();
            return Err(WireError::WrongMethod { expected: method.name(), got });
        }
        MessageKind::Exception => {
            ThriftReply::Exception(read_body(message, header.body, encoding, limits, read_exception)?)
        }
        kind => return Err(WireError::UnexpectedMessage(kind.name())),
    };
    Ok((header.sequence_id, reply))
}

/// Appends a call to `output`.
pub fn encode_call(output: &mut Vec<u8>, encoding: Encoding, sequence_id: i32, call: &ThriftCall) {
    let name = call.method().name().as_bytes();
    append_message(output, encoding, MessageKind::Call, name, sequence_id, |output| {
        write_wrapped(output, REQUEST_FIELD, |output| call.write_request(output))
    });
}

/// Appends the reply to a call of `name` to `output`.
pub fn encode_reply(output: &mut Vec<u8>, encoding: Encoding, name: &[u8], sequence_id: i32, reply: &ThriftReply) {
    match reply {
        ThriftReply::Exception(ThriftException { kind, message }) => {
            let error = ApplicationError { kind: *kind, message: message.clone() };
            append_message(output, encoding, MessageKind::Exception, name, sequence_id, |output| {
                thrift::Error::write_application_error_to_out_protocol(&error, output)
            });
        }
        reply => append_message(output, encoding, MessageKind::Reply, name, sequence_id, |output| {
            write_wrapped(output, RESPONSE_FIELD, |output| reply.write_response(output))
        }),
    }
}

fn read_arguments(
    message: &[u8],
    body: usize,
    encoding: Encoding,
    limits: WireLimits,
    method: Method,
) -> Result<ThriftCall, WireError> {
    read_body(message, body, encoding, limits, |input| {
        read_wrapped(input, REQUEST_FIELD, &mut |input| ThriftCall::read_request(method, input))
    })
}

/// Runs `read` over the part of a message that follows its header, all of which it must consume.
fn read_body<T>(
    message: &[u8],
    body: usize,
    encoding: Encoding,
    limits: WireLimits,
    read: impl FnOnce(&mut dyn TInputProtocol) -> thrift::Result<T>,
) -> Result<T, WireError> {
    if encoding.framed {
        // The scanner trusted the length of the frame and has not looked inside yet.
        Scanner::check_whole(&message[FRAME_PREFIX_LENGTH..], encoding.protocol, limits)?;
    }
    let mut rest = &message[body..];
    let value = match encoding.protocol {
        Protocol::Binary => read(&mut TBinaryInputProtocol::with_config(&mut rest, true, configuration(limits)?))?,
        Protocol::Compact => read(&mut TCompactInputProtocol::with_config(&mut rest, configuration(limits)?))?,
    };
    if rest.is_empty() { Ok(value) } else { Err(WireError::TrailingBytes(rest.len())) }
}

fn configuration(limits: WireLimits) -> Result<TConfiguration, WireError> {
    let configuration = TConfiguration::builder()
        .max_message_size(Some(limits.max_message_bytes))
        .max_frame_size(Some(limits.max_message_bytes))
        .max_container_size(Some(limits.max_container))
        .max_string_size(Some(limits.max_string_bytes))
        .max_recursion_depth(Some(limits.max_depth));
    Ok(configuration.build()?)
}

/// Reads the struct that Thrift puts around a method's one argument, or around its result.
fn read_wrapped<T>(
    input: &mut dyn TInputProtocol,
    wanted: i16,
    read: &mut dyn FnMut(&mut dyn TInputProtocol) -> thrift::Result<T>,
) -> thrift::Result<T> {
    let mut value = None;
    input.read_struct_begin()?;
    loop {
        let field = input.read_field_begin()?;
        if field.field_type == TType::Stop {
            break;
        }
        if field.id == Some(wanted) {
            expect_type(field.field_type, TType::Struct)?;
            value = Some(read(input)?);
        } else {
            input.skip(field.field_type)?;
        }
        input.read_field_end()?;
    }
    input.read_struct_end()?;
    value.ok_or_else(|| match wanted {
        RESPONSE_FIELD => "the reply holds no result".into(),
        _ => "the call has no argument `request`".into(),
    })
}

/// Reads an exception. The Thrift library's own reader ignores the types of the fields, and would
/// take arbitrary bytes for the length of the text.
fn read_exception(input: &mut dyn TInputProtocol) -> thrift::Result<ThriftException> {
    let mut exception = ThriftException::new(ApplicationErrorKind::Unknown, "the server gave no reason");
    input.read_struct_begin()?;
    loop {
        let field = input.read_field_begin()?;
        match (field.field_type, field.id) {
            (TType::Stop, _) => break,
            (found, Some(EXCEPTION_TEXT_FIELD)) => {
                expect_type(found, TType::String)?;
                exception.message = input.read_string()?;
            }
            (found, Some(EXCEPTION_KIND_FIELD)) => {
                expect_type(found, TType::I32)?;
                let kind = ApplicationErrorKind::try_from(input.read_i32()?);
                exception.kind = kind.unwrap_or(ApplicationErrorKind::Unknown);
            }
            (other, _) => input.skip(other)?,
        }
        input.read_field_end()?;
    }
    input.read_struct_end()?;
    Ok(exception)
}

fn write_wrapped(
    output: &mut dyn TOutputProtocol,
    id: i16,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    output.write_struct_begin(&TStructIdentifier { name: String::new() })?;
    output.write_field_begin(&TFieldIdentifier { name: None, field_type: TType::Struct, id: Some(id) })?;
    write(output)?;
    output.write_field_end()?;
    output.write_field_stop()?;
    output.write_struct_end()
}

fn append_message(
    output: &mut Vec<u8>,
    encoding: Encoding,
    kind: MessageKind,
    name: &[u8],
    sequence_id: i32,
    write: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) {
    let start = output.len();
    output.resize(start + encoding.prefix_length(), 0);
    let written = match encoding.protocol {
        Protocol::Binary => {
            output.extend_from_slice(&[BINARY_FIRST_BYTE, 1, 0, kind.code()]);
            output.extend_from_slice(&(name.len() as u32).to_be_bytes());
            output.extend_from_slice(name);
            output.extend_from_slice(&sequence_id.to_be_bytes());
            write(&mut TBinaryOutputProtocol::with_config(&mut *output, true, TConfiguration::no_limits()))
        }
        Protocol::Compact => {
            output.extend_from_slice(&[COMPACT_FIRST_BYTE, (kind.code() << 5) | 1]);
            append_varint(output, sequence_id as u32);
            append_varint(output, name.len() as u32);
            output.extend_from_slice(name);
            write(&mut TCompactOutputProtocol::with_config(&mut *output, TConfiguration::no_limits()))
        }
    };
    written.expect("writing to memory does not fail");
    if encoding.framed {
        let length = (output.len() - start - FRAME_PREFIX_LENGTH) as u32;
        output[start..start + FRAME_PREFIX_LENGTH].copy_from_slice(&length.to_be_bytes());
    }
}

fn append_varint(output: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        output.push(number as u8 | 0x80);
        number >>= 7;
    }
    output.push(number as u8);
}
