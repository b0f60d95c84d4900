//! Chooses ports that stay the same over a restart and must therefore be known before a server
//! starts.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range of ports for outgoing connections, so that none of these is taken by chance.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A free port that no other test of this process gets. Concurrent test programs start at different
/// numbers.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` free ports in a row.
pub fn free_ports(count: u32) -> u16 {
    let offset = std::process::id().wrapping_mul(1_009) % COUNT;
    for _ in 0..COUNT {
        let place = (offset + NEXT.fetch_add(count, Ordering::Relaxed)) % (COUNT - count);
        let first = u16::try_from(FIRST + place).expect("all of them are ports");
        if (first..).take(count as usize).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free ports");
}

pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}
