//! Keys and families as text, in grants and messages.

use bytes::Bytes;

use crate::DEFAULT_COLUMN_FAMILY;

/// The name under which people know a family.
pub(super) fn family_text(family: &str) -> &str {
    if family.is_empty() { DEFAULT_COLUMN_FAMILY } else { family }
}

/// A key as text: what is not a printable, unambiguous ASCII character is written as `\xNN`.
pub(super) fn escaped(key: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\' && byte != b'\'';
    let text = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("\\x{byte:02x}") };
    key.iter().map(text).collect()
}

/// Reads what [`escaped`] wrote; other characters stand for their UTF-8.
pub(super) fn unescaped(text: &str) -> Result<Bytes, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest[at..].strip_prefix("\\x").and_then(|digits| digits.get(..2));
        let byte = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(
            byte.ok_or_else(|| format!("`{text}`: after \\ only xNN is allowed, NN being two hexadecimal digits"))?,
        );
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes.into())
}
