//! Descriptors, memory and connections are bounded, and what is bounded serves on.
