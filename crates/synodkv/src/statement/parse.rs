//! Parses lines. An error says what was expected; the caller adds the line number.

use std::collections::VecDeque;

use super::arguments::Arguments;
use super::commands::{Build, find, unknown};
use super::words::split;
use super::{Line, Statement};
use crate::text::Notation;

/// Parses a line; `None` if it is blank or a comment. Keys belong to `family` unless the line names
/// another.
pub fn parse(line: &str, notation: Notation, family: &str) -> Result<Option<Line>, String> {
    let mut words = VecDeque::from(split(line)?);
    let Some(name) = words.pop_front() else { return Ok(None) };
    let command = find(&name.text).ok_or_else(|| unknown(&name.text))?;
    let mut arguments = Arguments::sort(words, command.options, command.usage(), notation)?;
    let line = match command.build {
        Build::Session(build) => Line::Session(build(&mut arguments)?),
        Build::Statement(build) => {
            let action = build(&mut arguments)?;
            let family = arguments.option("--family").map_or(family.to_string(), |word| word.text);
            let at = arguments.version("--at")?;
            Line::Statement(Statement { name: command.name, family, action, at })
        }
    };
    arguments.finish()?;
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use kv_client::prefix_end;

    use super::super::{Action, Expected};
    use super::*;

    fn action(line: &str) -> Action {
        match parse(line, Notation::Escaped, "") {
            Ok(Some(Line::Statement(statement))) => statement.action,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        parse(line, Notation::Escaped, "").expect_err("refused")
    }

    #[test]
    fn keys_and_values_are_written_as_on_the_command_line() {
        let set = |key: &'static [u8], value: &'static [u8]| Action::Set { key: key.into(), value: value.into() };
        assert_eq!(action(r"set 'a\x00b' 'c\n d'"), set(b"a\0b", b"c\n d"));
        assert_eq!(action("set k ''"), set(b"k", b""));
        assert_eq!(action("set k --number -2"), set(b"k", b"\xfe\xff\xff\xff\xff\xff\xff\xff"));
        assert_eq!(action("set '--number' '--x'"), set(b"--number", b"--x"));
        let hex = parse("set 00ff 6B", Notation::Hex, "").expect("a line");
        assert!(matches!(hex, Some(Line::Statement(Statement { action, .. })) if action == set(b"\0\xff", b"k")));
    }

    #[test]
    fn a_blank_line_has_no_statement() {
        for line in ["", "  \t", "# get a"] {
            assert_eq!(parse(line, Notation::Escaped, ""), Ok(None), "{line}");
        }
    }

    #[test]
    fn a_family_is_the_one_named_or_the_one_in_use() {
        let family = |line| match parse(line, Notation::Escaped, "used") {
            Ok(Some(Line::Statement(statement))) => statement.family,
            other => panic!("{other:?}"),
        };
        assert_eq!(family("get k"), "used");
        assert_eq!(family("get k --family other"), "other");
        assert_eq!(family("get --family '' k"), "");
    }

    #[test]
    fn a_range_has_defaults_and_options() {
        let scan = |line| match action(line) {
            Action::Range(scan) => scan,
            other => panic!("{other:?}"),
        };
        let all = scan("range");
        assert_eq!((&all.begin[..], all.end == prefix_end(""), all.limit), (&b""[..], true, Some(100)));
        let some = scan("range a --limit 0 b --reverse --snapshot");
        assert_eq!((&some.begin[..], &some.end[..], some.limit), (&b"a"[..], &b"b"[..], None));
        assert!(some.is_reverse && some.is_snapshot && !all.is_reverse && !all.is_snapshot);
        assert_eq!(scan("range --prefix a/").end, "a0");
    }

    #[test]
    fn numbers_are_little_endian_and_operands_may_be_bytes() {
        let operand = |line| match action(line) {
            Action::Atomic { operand, .. } => operand,
            other => panic!("{other:?}"),
        };
        assert_eq!(operand("add k 258"), [2, 1, 0, 0, 0, 0, 0, 0][..]);
        assert_eq!(operand("add k -1"), [0xff; 8][..]);
        assert_eq!(operand("max k 18446744073709551615"), [0xff; 8][..]);
        assert_eq!(operand("add k --bytes '\\x01\\x00'"), [1, 0][..]);
        assert_eq!(operand("bit-or k '\\x01'"), [1][..]);
        assert!(refused("min k -1").contains("expected a number from 0 to"));
        assert!(refused("add k 18446744073709551616").contains("expected a number from -9223372036854775808 to"));
        assert!(refused("add k one").starts_with("NUMBER `one`: expected a number"));
    }

    #[test]
    fn asserts_demand_a_value_another_one_any_or_none() {
        let expected = |line| match action(line) {
            Action::Assert { expected, .. } => expected,
            other => panic!("{other:?}"),
        };
        assert_eq!(expected("assert k v"), Expected::Value("v".into()));
        assert_eq!(expected("assert k --number 1"), Expected::Value([1, 0, 0, 0, 0, 0, 0, 0][..].to_vec().into()));
        assert_eq!(expected("assert k --not v"), Expected::Not("v".into()));
        assert_eq!(expected("assert k --exists"), Expected::Exists);
        assert_eq!(expected("assert k --missing"), Expected::Missing);
    }

    #[test]
    fn an_error_in_a_line_shows_the_usage() {
        assert_eq!(refused("set k"), "VALUE is missing; usage: set KEY VALUE [--number N] [--family NAME]");
        assert!(
            refused("set k v w")
                .starts_with("`w` is one argument too many: put quotes around text with blanks; usage: set")
        );
        assert!(refused("get k --hurry").starts_with("there is no option --hurry; usage: get KEY"));
        assert!(refused("get k --family").starts_with("--family needs NAME; usage"));
        assert!(refused("get k --snapshot --snapshot").starts_with("--snapshot is given twice"));
        assert!(refused("assert k --exists --missing").starts_with("--missing does not apply here"));
        assert!(refused("assert k v --exists").starts_with("`v` is one argument too many"));
        assert!(refused("range --limit few").starts_with("--limit `few`: expected a number of rows"));
        assert!(refused("clear b a").starts_with("BEGIN comes after END"));
        assert!(refused("get ''").starts_with("KEY cannot be empty"));
        assert!(refused(r"get 'a\q'").starts_with(r"KEY `a\q`: a backslash is followed by"));
        assert!(refused("sett k v").starts_with("no such command: `sett`; there are get, range,"));
        assert!(refused("help sett").starts_with("no such command: `sett`"));
        assert!(refused("set 'k v").starts_with("the quote before `k v` is not closed"));
    }
}
