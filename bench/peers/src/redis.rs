//! Redis: RESP arrays out, simple and bulk strings in. Replies come in the order of requests.

use std::collections::VecDeque;

use crate::keys::{Bytes, Kind, Operation};
use crate::protocol::{Broken, Ended, Outcome, Protocol};

#[derive(Default)]
pub struct Redis {
    waiting: VecDeque<usize>,
}

impl Protocol for Redis {
    fn open(&mut self, _out: &mut Vec<u8>) {}

    fn begin(&mut self, slot: usize, operation: Operation, bytes: &mut Bytes, out: &mut Vec<u8>) {
        let is_get = operation.kind == Kind::Get;
        out.extend_from_slice(if is_get { b"*2\r\n$3\r\nGET\r\n" } else { b"*3\r\n$3\r\nSET\r\n" });
        push_length(out, bytes.key_size());
        bytes.push_key(out, operation.records[0]);
        out.extend_from_slice(b"\r\n");
        if !is_get {
            push_length(out, bytes.value_size());
            bytes.push_value(out);
            out.extend_from_slice(b"\r\n");
        }
        self.waiting.push_back(slot);
    }

    fn receive(
        &mut self,
        input: &[u8],
        _bytes: &mut Bytes,
        _out: &mut Vec<u8>,
        ended: &mut Vec<Ended>,
    ) -> Result<usize, Broken> {
        let mut at = 0;
        while let Some((length, outcome)) = reply(&input[at..])? {
            at += length;
            let slot = self.waiting.pop_front().ok_or(Broken("a reply to nothing".to_string()))?;
            ended.push((slot, outcome));
        }
        Ok(at)
    }
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(format!("${length}\r\n").as_bytes());
}

/// Length and outcome of the reply at the start of `input`; `None` if it is incomplete.
fn reply(input: &[u8]) -> Result<Option<(usize, Outcome)>, Broken> {
    let Some(line_end) = input.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = &input[..line_end];
    let after = line_end + 2;
    match line.first() {
        Some(b'+') => Ok(Some((after, Outcome::Done))),
        Some(b'-') => Ok(Some((after, Outcome::Failed("ERROR_REPLY")))),
        Some(b'$') => {
            let length = std::str::from_utf8(&line[1..]).ok().and_then(|digits| digits.parse::<i64>().ok());
            match length {
                Some(-1) => Ok(Some((after, Outcome::Failed("KEY_MISSING")))),
                Some(length) if length >= 0 => {
                    let end = after + length as usize + 2;
                    Ok((input.len() >= end).then_some((end, Outcome::Done)))
                }
                _ => Err(Broken(format!("no length of a string: {}", String::from_utf8_lossy(line)))),
            }
        }
        _ => Err(Broken(format!("no reply of Redis: {}", String::from_utf8_lossy(line)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_where_they_end() {
        assert_eq!(reply(b"+OK\r\n+OK\r\n").expect("valid"), Some((5, Outcome::Done)));
        assert_eq!(reply(b"$3\r\na\r\n\r\n+").expect("valid"), Some((9, Outcome::Done)));
        assert_eq!(reply(b"$3\r\nabc\r").expect("valid"), None);
        assert_eq!(reply(b"$-1\r\n").expect("valid"), Some((5, Outcome::Failed("KEY_MISSING"))));
        assert_eq!(reply(b"-ERR no\r\n").expect("valid"), Some((9, Outcome::Failed("ERROR_REPLY"))));
        assert!(reply(b"HTTP/1.1 400\r\n").is_err());
    }
}
