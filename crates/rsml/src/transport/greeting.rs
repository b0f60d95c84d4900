//! The answer of the accepting side of a connection to a hello, 8 bytes:
//!
//! ```text
//!   0  magic 4 | version 2, little-endian | answer 1 | zero 1
//! ```
//! These bytes mean the same in every version, so that any two programs can tell which version the
//! other one speaks. The dialler's version is in the header of its hello; the version here is the
//! newest one that the accepting side speaks. The accepting side takes a hello of any version that
//! it understands. After an acceptance it sends nothing but [`ALIVE`], at regular intervals.

use super::frame::{MAGIC, VERSION};

/// A sign of life of the accepting side.
pub(super) const ALIVE: u8 = 0x16;
pub(super) const GREETING_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The dialler may send messages now.
    Accepted,
    /// The dialler may not; the accepting side's log says why.
    Refused,
    /// The dialler must connect with TLS instead.
    WantsTls,
    /// The dialler's data belong to another cluster.
    OtherCluster,
    /// A refusal for a reason that this version does not know.
    Other(u8),
}

impl Answer {
    fn code(self) -> u8 {
        match self {
            Answer::Accepted => 0x06,
            Answer::Refused => 0x15,
            Answer::WantsTls => 0x18,
            Answer::OtherCluster => 0x19,
            Answer::Other(code) => code,
        }
    }

    fn of(code: u8) -> Self {
        let known = [Answer::Accepted, Answer::Refused, Answer::WantsTls, Answer::OtherCluster];
        known.into_iter().find(|answer| answer.code() == code).unwrap_or(Answer::Other(code))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub version: u16,
    pub answer: Answer,
}

impl Greeting {
    pub fn with(answer: Answer) -> Self {
        Greeting { version: VERSION, answer }
    }

    pub fn to_bytes(self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = self.answer.code();
        bytes
    }

    /// `None` if no version of a replica sends these bytes.
    pub fn from_bytes(bytes: [u8; GREETING_BYTES]) -> Option<Self> {
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        (bytes[..4] == MAGIC).then(|| Greeting { version, answer: Answer::of(bytes[6]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_of_another_version_is_understood() {
        let of_later = [b'R', b'S', b'M', b'L', 9, 0, 0x77, 5];
        assert_eq!(Greeting::from_bytes(of_later), Some(Greeting { version: 9, answer: Answer::Other(0x77) }));
        for answer in [Answer::Accepted, Answer::Refused, Answer::WantsTls, Answer::OtherCluster] {
            let greeting = Greeting::with(answer);
            assert_eq!(Greeting::from_bytes(greeting.to_bytes()), Some(greeting));
        }
        assert_eq!(Greeting::from_bytes(*b"HTTP/1.1"), None);
    }
}
