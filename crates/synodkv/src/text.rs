//! Keys and values on the command line.
//!
//! An argument is taken literally. Text that must be printable, such as a line of rows, a message
//! or a statement of `txn` and `shell`, is *escaped*, so that it can hold any byte: `\xNN` is the
//! byte NN, `\\` a backslash, `\n`, `\t`, `\r` and `\0` as usual; everything else stands for
//! itself, in UTF-8. Printable text stays unchanged, and escaped text reads back to the same bytes.
//! `--escape` selects escaped text for arguments and results, `--hex` hexadecimal digits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::failure::Failure;

/// The notation of bytes on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// Literal bytes. Where they must be printable, they are escaped.
    Plain,
    Escaped,
    Hex,
}

impl Notation {
    /// The bytes of an argument; `what` names it in the error.
    pub fn argument(self, what: &str, argument: &OsStr) -> Result<Vec<u8>, Failure> {
        if self == Notation::Plain {
            return Ok(argument.as_bytes().to_vec());
        }
        let text = argument.to_str().ok_or_else(|| {
            let shown = argument.to_string_lossy();
            Failure::Usage(format!("{what} `{shown}`: it is not UTF-8; other bytes are written as \\xNN"))
        })?;
        self.parse(what, text).map_err(Failure::Usage)
    }

    /// The bytes of a part of a line of text, which is escaped unless hexadecimal.
    pub fn parse(self, what: &str, text: &str) -> Result<Vec<u8>, String> {
        let parsed = match self {
            Notation::Plain | Notation::Escaped => unescape(text),
            Notation::Hex => from_hex(text),
        };
        parsed.map_err(|reason| format!("{what} `{text}`: {reason}"))
    }

    /// The bytes as printable text, on one line, without tabs.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            Notation::Plain | Notation::Escaped => escape(bytes),
            Notation::Hex => to_hex(bytes),
        }
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| (byte as char).to_digit(16).ok_or("expected pairs of hexadecimal digits, such as 00ff");
    if !text.len().is_multiple_of(2) {
        return Err("expected pairs of hexadecimal digits, and their number is odd".to_string());
    }
    let pair = |pair: &[u8]| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
    text.as_bytes().chunks(2).map(pair).collect()
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let (byte, length) = match escape.bytes().next() {
            Some(b'\\') => (b'\\', 1),
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'r') => (b'\r', 1),
            Some(b'0') => (0, 1),
            Some(b'x') => {
                let digits = escape.get(1..3).ok_or("after \\x two hexadecimal digits are expected")?;
                let byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'));
                (byte.ok_or_else(|| format!("after \\x two hexadecimal digits are expected, not `{digits}`"))?, 3)
            }
            _ => return Err("a backslash is followed by x, \\, n, t, r or 0; write \\\\ for one backslash".to_string()),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() => {
                    let mut buffer = [0; 4];
                    text.extend(c.encode_utf8(&mut buffer).bytes().map(|byte| format!("\\x{byte:02x}")));
                }
                c => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_can_be_written_as_an_escape() {
        assert_eq!(unescape("a\\x00\\xFFb"), Ok(b"a\x00\xffb".to_vec()));
        assert_eq!(unescape("\\\\x00\\n\\t\\r\\0"), Ok(b"\\x00\n\t\r\0".to_vec()));
        assert_eq!(unescape("käse"), Ok("käse".as_bytes().to_vec()));
    }

    #[test]
    fn a_broken_escape_is_an_error() {
        for broken in ["\\", "\\x", "\\x1", "\\xg0", "\\x+1", "\\q", "\\xé"] {
            assert!(unescape(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn printed_bytes_can_be_read_back() {
        let all: Vec<u8> = (0..=255).chain("käse \u{85} \u{7f}".bytes()).collect();
        for notation in [Notation::Escaped, Notation::Hex] {
            let shown = notation.show(&all);
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
            assert_eq!(notation.parse("KEY", &shown).expect("readable"), all);
        }
    }

    #[test]
    fn an_argument_is_taken_literally_by_default() {
        let argument = OsStr::from_bytes(b"C:\\temp\\new\xff");
        assert_eq!(Notation::Plain.argument("KEY", argument).expect("any bytes"), argument.as_bytes());
        let escaped = Notation::Escaped.argument("KEY", OsStr::new("a\\nb")).expect("an escape");
        assert_eq!(escaped, b"a\nb");
        let error = Notation::Escaped.argument("KEY", argument).expect_err("no UTF-8");
        assert!(matches!(error, Failure::Usage(_)), "{error}");
    }

    #[test]
    fn plain_text_is_shown_as_it_is() {
        assert_eq!(escape("hello wörld".as_bytes()), "hello wörld");
    }

    #[test]
    fn odd_or_strange_hex_is_an_error_that_names_the_argument() {
        for wrong in ["0", "0g", "é"] {
            let error = Notation::Hex.parse("KEY", wrong).expect_err("not hexadecimal");
            assert!(error.starts_with(&format!("KEY `{wrong}`")), "{error}");
        }
    }
}
