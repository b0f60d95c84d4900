//! What the usage texts of all commands share.

/// What stands below the help of a command: examples, and what its exit statuses mean. `no` says what the answer "no" is.
pub fn epilogue(examples: &str, no: &str) -> String {
    format!(
        "{examples}\n\n\
        Exit status:\n  \
        0  done\n  \
        1  {no}\n  \
        2  wrong usage or input; nothing was done\n  \
        3  it cannot be told, or not now: no server, no answer, no primary, an unknown outcome"
    )
}

/// What the answer "no" of a command that reads or writes means.
pub const REFUSED: &str = "the server refused it, for good: a wrong family, a value that is too large, …";

/// What stands behind a flag that takes a number, with the library's "invalid digit" in words.
pub fn whole_number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "expected a whole number, 0 or more".to_string())
}
