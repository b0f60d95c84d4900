//! Everything that proves the product and is never shipped.
//!
//! [`simulator`] runs whole clusters in one thread: the shipped consensus core, log, executor and
//! database over a simulated network, disk and clock, with faults. Its clients record a
//! [`history`], which the [`checkers`] judge; they know nothing of the simulator and serve tests
//! with real processes as well.

pub mod chaos;
pub mod checkers;
pub mod history;
#[cfg(feature = "model")]
pub mod model;
pub mod simulator;
pub mod soak;
