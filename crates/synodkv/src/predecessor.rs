//! Hints for people who use the command line of SynodKV's predecessor.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Flags of the predecessor, with their replacements.
const FLAGS: &[(&str, &str)] = &[
    ("--port", "serve --thrift-addr HOST:PORT"),
    ("--db-path", "serve --data-dir DIR"),
    ("--data-path", "serve --data-dir DIR"),
];

/// A hint for an invalid command line that looks like one of the predecessor's.
pub fn hint(error: &clap::Error) -> Option<String> {
    let ErrorKind::UnknownArgument = error.kind() else { return None };
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = argument.split('=').next().unwrap_or_default();
    let (flag, now) = FLAGS.iter().find(|(flag, _)| *flag == name)?;
    Some(format!(
        "{flag} is no flag of SynodKV: `synodkv {now}` says the same. A server is started with\n  \
        synodkv serve --thrift-addr 127.0.0.1:9090 --data-dir ./data\n\
        docs/MIGRATE.md has a table of all settings, and how to move the data."
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn flags_of_the_predecessor_are_answered_with_their_replacements() {
        for words in [
            &["synodkv", "--port", "9090", "--db-path", "./d"][..],
            &["synodkv", "serve", "--port", "9090"],
            &["synodkv", "serve", "--db-path=./d"],
            &["synodkv", "--db-path", "./d"],
        ] {
            let error = Cli::try_parse_from(words).expect_err("no such flag");
            let hint = hint(&error).unwrap_or_else(|| panic!("{words:?}: {error}"));
            assert!(hint.contains("--thrift-addr") && hint.contains("--data-dir"), "{hint}");
            assert!(hint.contains("docs/MIGRATE.md"), "{hint}");
        }
    }

    #[test]
    fn other_mistakes_get_no_hint() {
        let error = Cli::try_parse_from(["synodkv", "get", "--colour", "k"]).expect_err("no such flag");
        assert_eq!(hint(&error), None);
    }
}
