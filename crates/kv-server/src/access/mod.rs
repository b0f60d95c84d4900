//! Who asks, and what may they do?

mod connection;

pub use connection::ConnectionFacts;
