//! Tests of the codec through its public interface. `samples` has a call and a reply of each
//! method; `random` makes arbitrary messages.

mod hostile;
mod random;
mod round_trip;
mod samples;
mod scanning;

use super::*;

/// The whole of `message` as one message.
fn scan_whole(message: &[u8], limits: WireLimits) -> Envelope {
    let envelope = Scanner::new(limits).scan(message).expect("well formed").expect("complete");
    assert_eq!(envelope.end, message.len());
    envelope
}
