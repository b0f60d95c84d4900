//! Ports that stay the same over a restart, so that they have to be known before a server starts.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which the system takes ports for outgoing connections: nobody gets one of these by chance.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A free port, given to nobody else in this process. Test programs that run at the same time begin at different places.
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
