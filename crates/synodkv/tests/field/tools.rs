//! Exit statuses, outputs and escapes of the commands, and servers that hang.
