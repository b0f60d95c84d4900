//! Slow requests: a line in the log for each, as long as there are few, and a list of the newest.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{shown, shown_family};

/// Lines in the log per second.
const LINES_PER_SECOND: u32 = 10;
/// The newest ones are kept.
pub(crate) const MAX_KEPT: usize = 1000;
/// So many bytes of the key are kept and shown.
const KEY_BYTES: usize = 64;

/// A request that took long.
#[derive(Clone, Debug)]
pub(super) struct SlowRequest {
    pub ended: SystemTime,
    pub method: &'static str,
    pub family: String,
    /// Of a commit, its first key; of a range, its begin.
    pub key: Bytes,
    /// Keys and values of the request.
    pub bytes: usize,
    pub took: Duration,
    pub address: Option<SocketAddr>,
    pub principal: Option<String>,
    /// The code of the error, if it failed.
    pub error: Option<String>,
}

impl SlowRequest {
    fn log(&self, held_back: u64) {
        // This target has no other throttle than the one here.
        tracing::warn!(
            target: "synodkv::slow",
            method = self.method,
            family = shown_family(&self.family),
            key = shown(&self.key),
            bytes = self.bytes,
            duration_ms = self.took.as_millis() as u64,
            address = self.address.map_or("-".to_string(), |address| address.to_string()),
            principal = self.principal.as_deref().unwrap_or("-"),
            result = self.error.as_deref().unwrap_or("ok"),
            held_back,
            "slow request"
        );
    }

    fn to_json(&self) -> Value {
        let since = self.ended.duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "time_ms": since.as_millis() as u64, "method": self.method,
            "family": shown_family(&self.family), "key": shown(&self.key), "bytes": self.bytes,
            "duration_ms": (self.took.as_secs_f64() * 1e4).round() / 10.0,
            "address": self.address, "principal": self.principal, "error": self.error,
        })
    }
}

/// The newest slow requests, and how many lines may be written.
pub(super) struct SlowRequests {
    state: Mutex<State>,
}

struct State {
    newest: VecDeque<SlowRequest>,
    all: u64,
    /// The present second, and the lines written in it.
    second: Instant,
    lines: u32,
    /// Lines not written since the last one.
    held_back: u64,
}

impl SlowRequests {
    pub fn new(now: Instant) -> Self {
        let state = State { newest: VecDeque::new(), all: 0, second: now, lines: 0, held_back: 0 };
        SlowRequests { state: Mutex::new(state) }
    }

    /// Keeps the request, and writes a line unless there were too many in this second.
    pub fn add(&self, mut request: SlowRequest, now: Instant) {
        // A copy, because a slice would keep the whole message.
        request.key = Bytes::copy_from_slice(&request.key[..request.key.len().min(KEY_BYTES)]);
        let line = self.state.lock().unwrap_or_else(PoisonError::into_inner).admit(&request, now);
        if let Some(held_back) = line {
            request.log(held_back);
        }
    }

    /// How many there were.
    pub fn all(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// The newest ones, newest first.
    pub fn show(&self, limit: usize) -> Value {
        let (newest, all): (Vec<SlowRequest>, u64) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.newest.iter().rev().take(limit).cloned().collect(), state.all)
        };
        json!({ "all": all, "requests": newest.iter().map(SlowRequest::to_json).collect::<Vec<_>>() })
    }
}

impl State {
    /// With how many lines held back before it a line is due, if one is.
    fn admit(&mut self, request: &SlowRequest, now: Instant) -> Option<u64> {
        if self.newest.len() == MAX_KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(request.clone());
        self.all += 1;
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.lines) = (now, 0);
        }
        if self.lines == LINES_PER_SECOND {
            self.held_back += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: usize) -> SlowRequest {
        SlowRequest {
            ended: SystemTime::UNIX_EPOCH,
            method: "setKey",
            family: String::new(),
            key: Bytes::from(format!("key {number}\0{}", "x".repeat(500))),
            bytes: number,
            took: Duration::from_millis(123),
            address: None,
            principal: None,
            error: None,
        }
    }

    #[test]
    fn at_most_ten_lines_a_second_and_the_next_one_counts_those_held_back() {
        let start = Instant::now();
        let slow = SlowRequests::new(start);
        let mut state = slow.state.lock().expect("no panic");
        let lines: Vec<_> = (0..25).filter_map(|number| state.admit(&request(number), start)).collect();
        assert_eq!(lines, [0; 10]);
        assert_eq!(state.admit(&request(0), start + Duration::from_secs(1)), Some(15));
        assert_eq!(state.admit(&request(0), start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn the_newest_are_kept_with_the_begin_of_their_keys() {
        let slow = SlowRequests::new(Instant::now());
        for number in 0..MAX_KEPT + 10 {
            slow.add(request(number), Instant::now());
        }
        let shown = slow.show(2);
        assert_eq!(shown["all"], MAX_KEPT as u64 + 10);
        assert_eq!(shown["requests"].as_array().expect("a list").len(), 2);
        let newest = &shown["requests"][0];
        assert_eq!((&newest["bytes"], &newest["family"]), (&(MAX_KEPT as u64 + 9).into(), &"default".into()));
        let key = newest["key"].as_str().expect("text");
        assert!(key.starts_with("key 1009\\x00xxx") && key.len() < 80, "{key}");
        assert_eq!(slow.show(usize::MAX)["requests"].as_array().expect("a list").len(), MAX_KEPT);
    }
}
