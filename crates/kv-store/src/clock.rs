//! The clock by which pins and holds end.

use std::fmt;
use std::time::Instant;

/// Where [`StoreOptions`](crate::StoreOptions) takes the present moment from: the machine's monotonic clock, unless a
/// simulation puts its own in its place. It must never go back.
#[derive(Clone, Copy)]
pub struct Clock(fn() -> Instant);

impl Clock {
    /// The machine's monotonic clock.
    pub const SYSTEM: Clock = Clock(Instant::now);

    /// A clock that shows whatever `now` returns.
    pub const fn new(now: fn() -> Instant) -> Clock {
        Clock(now)
    }

    pub(crate) fn now(self) -> Instant {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::SYSTEM
    }
}

impl PartialEq for Clock {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Clock {}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
