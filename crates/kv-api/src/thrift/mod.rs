//! The Thrift interface: generated structs and the message codec.
