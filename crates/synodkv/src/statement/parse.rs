//! Lines to statements. An error says what was expected; which line it was, the caller knows.

use std::collections::{BTreeMap, VecDeque};

use kv_client::{Bytes, MutationKind, Stamped, Version, prefix_end};

use super::commands::{Build, COMMANDS, Command, find};
use super::words::{Word, split};
use super::{Action, Expected, Line, Scan, SessionCommand, Statement};
use crate::text::Notation;

const DEFAULT_LIMIT: usize = 100;

/// What a line says; `None`: nothing. Keys belong to `family` unless it names another.
pub fn parse(line: &str, notation: Notation, family: &str) -> Result<Option<Line>, String> {
    let mut words = VecDeque::from(split(line)?);
    let Some(name) = words.pop_front() else { return Ok(None) };
    let command = find(&name.text).ok_or_else(|| unknown(&name.text))?;
    let mut arguments = Arguments::sort(words, command, notation)?;
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

fn unknown(name: &str) -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    format!("no such command: `{name}`; there are {}", names.join(", "))
}

/// The words behind a command's name.
pub struct Arguments {
    command: &'static Command,
    notation: Notation,
    operands: VecDeque<Word>,
    options: BTreeMap<&'static str, Option<Word>>,
}

impl Arguments {
    /// Tells options from operands.
    fn sort(mut words: VecDeque<Word>, command: &'static Command, notation: Notation) -> Result<Self, String> {
        let mut sorted = Arguments { command, notation, operands: VecDeque::new(), options: BTreeMap::new() };
        while let Some(word) = words.pop_front() {
            if !word.is_option() {
                sorted.operands.push_back(word);
                continue;
            }
            let known = command.options.iter().find(|option| option.name == word.text);
            let option = known.ok_or_else(|| sorted.wrong(&format!("there is no option {}", word.text)))?;
            let value = match option.value {
                None => None,
                Some(what) => {
                    let value = words.pop_front();
                    Some(value.ok_or_else(|| sorted.wrong(&format!("{} needs {what}", option.name)))?)
                }
            };
            if sorted.options.insert(option.name, value).is_some() {
                return Err(sorted.wrong(&format!("{} stands there twice", option.name)));
            }
        }
        Ok(sorted)
    }

    fn wrong(&self, what: &str) -> String {
        format!("{what}; usage: {}", self.command.usage())
    }

    /// Everything has a meaning.
    fn finish(&self) -> Result<(), String> {
        if let Some(word) = self.operands.front() {
            return Err(self.wrong(&format!("`{}` is too much: put quotes around what has blanks in it", word.text)));
        }
        match self.options.keys().next() {
            Some(name) => Err(self.wrong(&format!("{name} does not go with the rest"))),
            None => Ok(()),
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        self.options.remove(name).is_some()
    }

    fn option(&mut self, name: &str) -> Option<Word> {
        self.options.remove(name).flatten()
    }

    fn operand(&mut self, what: &str) -> Result<Word, String> {
        self.operands.pop_front().ok_or_else(|| self.wrong(&format!("{what} is missing")))
    }

    fn bytes_of(&self, what: &str, word: &Word) -> Result<Bytes, String> {
        self.notation.parse(what, &word.text).map(Bytes::from)
    }

    fn bytes(&mut self, what: &str) -> Result<Bytes, String> {
        let word = self.operand(what)?;
        self.bytes_of(what, &word)
    }

    fn bytes_option(&mut self, name: &str) -> Result<Option<Bytes>, String> {
        self.option(name).map(|word| self.bytes_of(name, &word)).transpose()
    }

    fn key(&mut self) -> Result<Bytes, String> {
        let key = self.bytes("KEY")?;
        if key.is_empty() { Err(self.wrong("KEY cannot be empty")) } else { Ok(key) }
    }

    /// An operand, or `--number N`.
    fn value(&mut self) -> Result<Bytes, String> {
        match self.option("--number") {
            Some(word) => self.number_of("--number", &word, true),
            None => self.bytes("VALUE"),
        }
    }

    /// A number as an operand, or `--bytes OPERAND`.
    fn number(&mut self, may_be_negative: bool) -> Result<Bytes, String> {
        if let Some(bytes) = self.bytes_option("--bytes")? {
            return Ok(bytes);
        }
        let word = self.operand("NUMBER")?;
        self.number_of("NUMBER", &word, may_be_negative)
    }

    /// 8 bytes, little-endian; of a negative number its two's complement.
    fn number_of(&self, what: &str, word: &Word, may_be_negative: bool) -> Result<Bytes, String> {
        let least = if may_be_negative { i128::from(i64::MIN) } else { 0 };
        let number = word.text.parse::<i128>().ok().filter(|number| (least..=i128::from(u64::MAX)).contains(number));
        let number = number.ok_or_else(|| {
            self.wrong(&format!("{what} `{}`: expected a number from {least} to {}", word.text, u64::MAX))
        })?;
        Ok(Bytes::copy_from_slice(&number.to_le_bytes()[..8]))
    }

    fn version(&mut self, name: &str) -> Result<Option<Version>, String> {
        let Some(word) = self.option(name) else { return Ok(None) };
        let version =
            word.text.parse().map_err(|_| self.wrong(&format!("{name} `{}`: expected a version", word.text)))?;
        Ok(Some(Version(version)))
    }

    fn in_order(&self, begin: Bytes, end: Bytes) -> Result<(Bytes, Bytes), String> {
        if begin > end { Err(self.wrong("BEGIN comes after END")) } else { Ok((begin, end)) }
    }
}

pub fn get(arguments: &mut Arguments) -> Result<Action, String> {
    let (is_snapshot, is_number) = (arguments.flag("--snapshot"), arguments.flag("--number"));
    Ok(Action::Get { key: arguments.key()?, is_snapshot, is_number })
}

pub fn range(arguments: &mut Arguments) -> Result<Action, String> {
    let (begin, end) = match arguments.bytes_option("--prefix")? {
        Some(prefix) => (prefix.clone(), prefix_end(prefix)),
        None => {
            let has = |arguments: &Arguments| !arguments.operands.is_empty();
            let begin = if has(arguments) { arguments.bytes("BEGIN")? } else { Bytes::new() };
            let end = if has(arguments) { arguments.bytes("END")? } else { prefix_end("") };
            (begin, end)
        }
    };
    let (begin, end) = arguments.in_order(begin, end)?;
    let limit = match arguments.option("--limit") {
        None => Some(DEFAULT_LIMIT),
        Some(word) => {
            let wrong = |_| arguments.wrong(&format!("--limit `{}`: expected a number of rows", word.text));
            Some(word.text.parse().map_err(wrong)?).filter(|rows| *rows > 0)
        }
    };
    let (is_reverse, is_snapshot) = (arguments.flag("--reverse"), arguments.flag("--snapshot"));
    Ok(Action::Range(Scan { begin, end, limit, is_reverse, is_snapshot }))
}

pub fn assert(arguments: &mut Arguments) -> Result<Action, String> {
    let key = arguments.key()?;
    let expected = if arguments.flag("--exists") {
        Expected::Exists
    } else if arguments.flag("--missing") {
        Expected::Missing
    } else if let Some(value) = arguments.bytes_option("--not")? {
        Expected::Not(value)
    } else {
        Expected::Value(arguments.value()?)
    };
    Ok(Action::Assert { key, expected })
}

pub fn conflict(arguments: &mut Arguments) -> Result<Action, String> {
    if arguments.operands.len() < 2 {
        return Ok(Action::Conflict { begin: arguments.key()?, end: None });
    }
    let (begin, end) = (arguments.bytes("KEY")?, arguments.bytes("END")?);
    let (begin, end) = arguments.in_order(begin, end)?;
    Ok(Action::Conflict { begin, end: Some(end) })
}

pub fn set(arguments: &mut Arguments) -> Result<Action, String> {
    Ok(Action::Set { key: arguments.key()?, value: arguments.value()? })
}

pub fn delete(arguments: &mut Arguments) -> Result<Action, String> {
    Ok(Action::Delete { key: arguments.key()? })
}

pub fn clear(arguments: &mut Arguments) -> Result<Action, String> {
    let (begin, end) = match arguments.bytes_option("--prefix")? {
        Some(prefix) => (prefix.clone(), prefix_end(prefix)),
        None => (arguments.bytes("BEGIN")?, arguments.bytes("END")?),
    };
    let (begin, end) = arguments.in_order(begin, end)?;
    Ok(Action::Clear { begin, end })
}

pub fn add(arguments: &mut Arguments) -> Result<Action, String> {
    Ok(Action::Atomic { kind: MutationKind::Add, key: arguments.key()?, operand: arguments.number(true)? })
}

pub fn min(arguments: &mut Arguments) -> Result<Action, String> {
    Ok(Action::Atomic { kind: MutationKind::Min, key: arguments.key()?, operand: arguments.number(false)? })
}

pub fn max(arguments: &mut Arguments) -> Result<Action, String> {
    Ok(Action::Atomic { kind: MutationKind::Max, key: arguments.key()?, operand: arguments.number(false)? })
}

macro_rules! of_bytes {
    ($($name:ident $kind:ident;)*) => {
        $(pub fn $name(arguments: &mut Arguments) -> Result<Action, String> {
            Ok(Action::Atomic { kind: MutationKind::$kind, key: arguments.key()?, operand: arguments.bytes("OPERAND")? })
        })*
    };
}

of_bytes! {
    byte_min ByteMin;
    byte_max ByteMax;
    bit_and BitAnd;
    bit_or BitOr;
    bit_xor BitXor;
    append_if_fits AppendIfFits;
    compare_and_clear CompareAndClear;
}

pub fn set_versionstamped_key(arguments: &mut Arguments) -> Result<Action, String> {
    let prefix = arguments.bytes("PREFIX")?;
    let suffix = arguments.bytes_option("--suffix")?.unwrap_or_default();
    Ok(Action::SetStampedKey { key: Stamped::between(prefix, suffix), value: arguments.value()? })
}

pub fn set_versionstamped_value(arguments: &mut Arguments) -> Result<Action, String> {
    let key = arguments.key()?;
    let prefix = if arguments.operands.is_empty() { Bytes::new() } else { arguments.bytes("PREFIX")? };
    let suffix = arguments.bytes_option("--suffix")?.unwrap_or_default();
    Ok(Action::SetStampedValue { key, value: Stamped::between(prefix, suffix) })
}

pub fn begin(arguments: &mut Arguments) -> Result<SessionCommand, String> {
    Ok(SessionCommand::Begin { at: arguments.version("--at")? })
}

pub fn commit(_: &mut Arguments) -> Result<SessionCommand, String> {
    Ok(SessionCommand::Commit)
}

pub fn rollback(_: &mut Arguments) -> Result<SessionCommand, String> {
    Ok(SessionCommand::Rollback)
}

pub fn use_family(arguments: &mut Arguments) -> Result<SessionCommand, String> {
    let family = arguments.operands.pop_front().map(|word| word.text).unwrap_or_default();
    Ok(SessionCommand::Use { family })
}

pub fn help(arguments: &mut Arguments) -> Result<SessionCommand, String> {
    let command = arguments.operands.pop_front().map(|word| word.text);
    match &command {
        Some(name) if find(name).is_none() => Err(unknown(name)),
        _ => Ok(SessionCommand::Help { command }),
    }
}

pub fn quit(_: &mut Arguments) -> Result<SessionCommand, String> {
    Ok(SessionCommand::Quit)
}

#[cfg(test)]
mod tests {
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
    fn a_line_without_words_says_nothing() {
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
    fn what_is_wrong_with_a_line_is_said_with_the_usage() {
        assert_eq!(refused("set k"), "VALUE is missing; usage: set KEY VALUE [--number N] [--family NAME]");
        assert!(
            refused("set k v w").starts_with("`w` is too much: put quotes around what has blanks in it; usage: set")
        );
        assert!(refused("get k --hurry").starts_with("there is no option --hurry; usage: get KEY"));
        assert!(refused("get k --family").starts_with("--family needs NAME; usage"));
        assert!(refused("get k --snapshot --snapshot").starts_with("--snapshot stands there twice"));
        assert!(refused("assert k --exists --missing").starts_with("--missing does not go with the rest"));
        assert!(refused("assert k v --exists").starts_with("`v` is too much"));
        assert!(refused("range --limit few").starts_with("--limit `few`: expected a number of rows"));
        assert!(refused("clear b a").starts_with("BEGIN comes after END"));
        assert!(refused("get ''").starts_with("KEY cannot be empty"));
        assert!(refused(r"get 'a\q'").starts_with(r"KEY `a\q`: a backslash is followed by"));
        assert!(refused("sett k v").starts_with("no such command: `sett`; there are get, range,"));
        assert!(refused("help sett").starts_with("no such command: `sett`"));
        assert!(refused("set 'k v").starts_with("the quote before `k v` is not closed"));
    }
}
