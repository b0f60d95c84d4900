//! Parts of the usage texts that all commands share.

/// The text below the help of a command: examples, and the meaning of its exit statuses. `no`
/// describes the answer "no".
pub fn epilogue(examples: &str, no: &str) -> String {
    format!(
        "{examples}\n\n\
        Exit status:\n  \
        0  done\n  \
        1  {no}\n  \
        2  wrong usage or input; nothing was done\n  \
        3  unknown, at least now: no server, no answer, no primary, or an unknown outcome"
    )
}

/// The meaning of the answer "no" for a command that reads or writes.
pub const REFUSED: &str = "the server refused it permanently: a wrong family, a value that is too large, …";

/// Parses the number after a flag, with a clearer error than the library's "invalid digit".
pub fn whole_number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "expected a whole number, 0 or more".to_string())
}
