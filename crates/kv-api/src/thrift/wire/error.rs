//! Errors of the codec.

/// A message that breaks the protocol or a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("not a Thrift message: neither binary, compact nor framed (first bytes {0:02x?})")]
    NotThrift([u8; 2]),
    #[error("message of at least {size} bytes is longer than the limit of {limit} bytes")]
    MessageTooLong { size: u64, limit: usize },
    #[error("string of {size} bytes is longer than the limit of {limit} bytes")]
    StringTooLong { size: u64, limit: usize },
    #[error("container of {size} elements is larger than the limit of {limit} elements")]
    ContainerTooLarge { size: u64, limit: usize },
    #[error("negative size {0}")]
    NegativeSize(i64),
    #[error("nested deeper than the limit of {0} levels")]
    TooDeep(usize),
    #[error("unknown field type {0}")]
    UnknownType(u8),
    #[error("unknown message type {0}")]
    UnknownMessageType(u8),
    #[error("number longer than {0} bytes")]
    NumberTooLong(usize),
    #[error("the message ends in the middle of a value")]
    Truncated,
    #[error("{0} bytes after the end of the message")]
    TrailingBytes(usize),
    #[error("message of kind {0} where another was expected")]
    UnexpectedMessage(&'static str),
    #[error("reply to method {got:?} where {expected:?} was expected")]
    WrongMethod { expected: &'static str, got: String },
    /// The Thrift library refused the content: a required field is missing, or a field has the
    /// wrong type.
    #[error("{0}")]
    Malformed(String),
}

impl From<thrift::Error> for WireError {
    fn from(error: thrift::Error) -> Self {
        WireError::Malformed(match error {
            thrift::Error::Transport(error) => error.message,
            thrift::Error::Protocol(error) => error.message,
            thrift::Error::Application(error) => error.message,
            thrift::Error::User(error) => error.to_string(),
        })
    }
}
