//! The table of commands: syntax, description and an example of each.

use super::arguments::{Arguments, Opt};
use super::{Action, SessionCommand, actions};

/// One command of the table.
pub struct Command {
    pub name: &'static str,
    /// Operands as in the usage text, without options; see [`Command::usage`].
    operands: &'static str,
    pub options: &'static [Opt],
    /// A short description.
    pub about: &'static str,
    pub details: &'static str,
    pub example: &'static str,
    pub build: Build,
}

/// The function that builds a command from its arguments.
pub enum Build {
    Statement(fn(&mut Arguments) -> Result<Action, String>),
    /// A command of the shell only.
    Session(fn(&mut Arguments) -> Result<SessionCommand, String>),
}

const fn flag(name: &'static str, about: &'static str) -> Opt {
    Opt { name, value: None, about }
}

const fn option(name: &'static str, value: &'static str, about: &'static str) -> Opt {
    Opt { name, value: Some(value), about }
}

const FAMILY: Opt = option("--family", "NAME", "the column family");
const AT: Opt = option("--at", "VERSION", "at this version; not inside a transaction");
const SNAPSHOT: Opt = flag("--snapshot", "does not count as read: later writes there are no conflict");
const NUMBER: Opt = option("--number", "N", "instead of VALUE: N as 8 bytes, little-endian");
const BYTES: Opt = option("--bytes", "OPERAND", "instead of NUMBER: bytes of any length");
const PREFIX: Opt = option("--prefix", "PREFIX", "all keys with this prefix, instead of BEGIN and END");
const SUFFIX: Opt = option("--suffix", "SUFFIX", "text after the stamp");

const WITH_FAMILY: &[Opt] = &[FAMILY];
const WITH_NUMBER: &[Opt] = &[NUMBER, FAMILY];
const WITH_BYTES: &[Opt] = &[BYTES, FAMILY];
const STAMPED: &[Opt] = &[SUFFIX, NUMBER, FAMILY];

const ARITHMETIC: &str = "Numbers are unsigned and little-endian: NUMBER stands for 8 bytes. A missing value becomes the \
    operand. The value changes where it is: no conflict, however many do the same.";
const BITWISE: &str = "The value is cut or extended with zeros to the length of OPERAND. A missing value becomes OPERAND. \
    The value changes where it is: no conflict, however many do the same.";

pub const COMMANDS: &[Command] = &[
    Command {
        name: "get",
        operands: "KEY",
        options: &[flag("--number", "shows the value as a little-endian number"), SNAPSHOT, AT, FAMILY],
        about: "print the value of a key",
        details: "A key that does not exist is no error.",
        example: "get 'user\\x00\\x01'",
        build: Build::Statement(actions::get),
    },
    Command {
        name: "range",
        operands: "[BEGIN [END]]",
        options: &[
            PREFIX,
            option("--limit", "ROWS", "the most rows; 0 means all [default: 100]"),
            flag("--reverse", "the last row first"),
            SNAPSHOT,
            AT,
            FAMILY,
        ],
        about: "print the rows between two keys",
        details: "From BEGIN up to, not including, END; by default from the very first key to the very last. What was printed \
            counts as read, and the gaps between.",
        example: "range --prefix user/ --limit 10",
        build: Build::Statement(actions::range),
    },
    Command {
        name: "assert",
        operands: "KEY VALUE",
        options: &[
            option("--not", "VALUE", "the value is a different one, or none exists"),
            flag("--exists", "a value exists"),
            flag("--missing", "no value exists"),
            NUMBER,
            FAMILY,
        ],
        about: "continue only if a key has this value",
        details: "Otherwise the transaction ends, and nothing of it is written.",
        example: "assert balance 100",
        build: Build::Statement(actions::assert),
    },
    Command {
        name: "conflict",
        operands: "KEY [END]",
        options: WITH_FAMILY,
        about: "count a key, or a range, as read",
        details: "The commit fails if it is written meanwhile. With END: everything from KEY up to, not including, END.",
        example: "conflict lock",
        build: Build::Statement(actions::conflict),
    },
    Command {
        name: "set",
        operands: "KEY VALUE",
        options: WITH_NUMBER,
        about: "set a key to a value",
        details: "",
        example: "set greeting 'hello world'",
        build: Build::Statement(actions::set),
    },
    Command {
        name: "delete",
        operands: "KEY",
        options: WITH_FAMILY,
        about: "delete a key",
        details: "A key that does not exist is no error.",
        example: "delete greeting",
        build: Build::Statement(actions::delete),
    },
    Command {
        name: "clear",
        operands: "BEGIN END",
        options: &[PREFIX, FAMILY],
        about: "delete all keys of a range",
        details: "From BEGIN up to, not including, END. Costs the same for ten keys and for ten million.",
        example: "clear --prefix session/",
        build: Build::Statement(actions::clear),
    },
    Command {
        name: "add",
        operands: "KEY NUMBER",
        options: WITH_BYTES,
        about: "add to a number",
        details: "NUMBER may be negative. Numbers are little-endian: NUMBER stands for 8 bytes. A missing value becomes the \
            operand. The value changes where it is: no conflict, however many do the same. `get KEY --number` shows it.",
        example: "add visits 1",
        build: Build::Statement(actions::add),
    },
    Command {
        name: "min",
        operands: "KEY NUMBER",
        options: WITH_BYTES,
        about: "keep the smaller number",
        details: ARITHMETIC,
        example: "min lowest 7",
        build: Build::Statement(actions::min),
    },
    Command {
        name: "max",
        operands: "KEY NUMBER",
        options: WITH_BYTES,
        about: "keep the larger number",
        details: ARITHMETIC,
        example: "max highest 7",
        build: Build::Statement(actions::max),
    },
    Command {
        name: "byte-min",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "keep the value that sorts first",
        details: "A missing value becomes OPERAND.",
        example: "byte-min first apple",
        build: Build::Statement(actions::byte_min),
    },
    Command {
        name: "byte-max",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "keep the value that sorts last",
        details: "A missing value becomes OPERAND.",
        example: "byte-max last pear",
        build: Build::Statement(actions::byte_max),
    },
    Command {
        name: "bit-and",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "keep the bits that are set in both",
        details: BITWISE,
        example: "bit-and flags '\\x0f'",
        build: Build::Statement(actions::bit_and),
    },
    Command {
        name: "bit-or",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "set the bits that are set in either",
        details: BITWISE,
        example: "bit-or flags '\\x01'",
        build: Build::Statement(actions::bit_or),
    },
    Command {
        name: "bit-xor",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "flip bits",
        details: BITWISE,
        example: "bit-xor flags '\\xff'",
        build: Build::Statement(actions::bit_xor),
    },
    Command {
        name: "append-if-fits",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "append to a value",
        details: "Unless it would become longer than a value may be (100,000 bytes): then nothing happens.",
        example: "append-if-fits log 'one more line\\n'",
        build: Build::Statement(actions::append_if_fits),
    },
    Command {
        name: "compare-and-clear",
        operands: "KEY OPERAND",
        options: WITH_FAMILY,
        about: "delete a key if it has this value",
        details: "",
        example: "compare-and-clear lock me",
        build: Build::Statement(actions::compare_and_clear),
    },
    Command {
        name: "set-versionstamped-key",
        operands: "PREFIX VALUE",
        options: STAMPED,
        about: "set a key that ends with the commit's versionstamp",
        details: "The key is PREFIX and a stamp of 10 bytes, which grows with the order of commits; it is printed after the \
            commit. It cannot be read before.",
        example: "set-versionstamped-key queue/ job",
        build: Build::Statement(actions::set_versionstamped_key),
    },
    Command {
        name: "set-versionstamped-value",
        operands: "KEY [PREFIX]",
        options: &[SUFFIX, FAMILY],
        about: "set a key to the commit's versionstamp",
        details: "The value is PREFIX, if any, and a stamp of 10 bytes, which grows with the order of commits; it is printed \
            after the commit. It cannot be read before.",
        example: "set-versionstamped-value last-change",
        build: Build::Statement(actions::set_versionstamped_value),
    },
    Command {
        name: "begin",
        operands: "",
        options: &[option("--at", "VERSION", "reads as of this version")],
        about: "begin a transaction",
        details: "The following commands take effect together at `commit`, or not at all. Reads see the state at the first of \
            them, and the transaction's own writes. Outside of a transaction each command is one of its own.",
        example: "begin",
        build: Build::Session(actions::begin),
    },
    Command {
        name: "commit",
        operands: "",
        options: &[],
        about: "commit the transaction",
        details: "Fails with CONFLICT if something that it read was written meanwhile: then begin again.",
        example: "commit",
        build: Build::Session(actions::commit),
    },
    Command {
        name: "rollback",
        operands: "",
        options: &[],
        about: "roll the transaction back",
        details: "Nothing of it was written.",
        example: "rollback",
        build: Build::Session(actions::rollback),
    },
    Command {
        name: "use",
        operands: "[FAMILY]",
        options: &[],
        about: "choose the column family of the following commands",
        details: "Without FAMILY: the default one.",
        example: "use sessions",
        build: Build::Session(actions::use_family),
    },
    Command {
        name: "help",
        operands: "[COMMAND]",
        options: &[],
        about: "list the commands, or explain one",
        details: "",
        example: "help range",
        build: Build::Session(help),
    },
    Command {
        name: "quit",
        operands: "",
        options: &[],
        about: "end the shell",
        details: "So do `exit` and Ctrl-D. An open transaction is rolled back.",
        example: "quit",
        build: Build::Session(actions::quit),
    },
];

/// Other names of commands.
const ALIASES: &[(&str, &str)] = &[("exit", "quit")];

/// Finds a command; `_` may stand for `-`, as in the names of the Thrift interface.
pub fn find(name: &str) -> Option<&'static Command> {
    let name = name.replace('_', "-");
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(&name[..], |(_, meant)| *meant);
    COMMANDS.iter().find(|command| command.name == name)
}

impl Command {
    pub fn is_for_shell_only(&self) -> bool {
        matches!(self.build, Build::Session(_))
    }

    /// `range [BEGIN [END]] [--prefix PREFIX] …`
    pub fn usage(&self) -> String {
        let options = self.options.iter().map(|option| match option.value {
            Some(value) => format!("[{} {value}]", option.name),
            None => format!("[{}]", option.name),
        });
        let parts = [self.name.to_string(), self.operands.to_string()].into_iter().chain(options);
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The full help of the command.
    pub fn help(&self) -> String {
        let mut lines = vec![self.usage(), format!("  {}", sentence(self.about))];
        if !self.details.is_empty() {
            lines.extend(wrap(self.details));
        }
        let option =
            |option: &Opt| format!("{} {}", option.name, option.value.unwrap_or_default()).trim_end().to_string();
        let width = self.options.iter().map(|each| option(each).len()).max().unwrap_or(0);
        lines.extend(self.options.iter().map(|each| format!("  {:<width$}  {}", option(each), each.about)));
        lines.push(format!("  Example: {}", self.example));
        lines.join("\n")
    }
}

/// Lines of at most 100 columns, indented by two.
fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![" ".to_string()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("never empty");
        if last.len() + 1 + word.len() > 100 && last.len() > 1 {
            lines.push(format!("  {word}"));
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines
}

fn sentence(about: &str) -> String {
    let mut letters = about.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

/// A list of commands, one line each.
pub fn list(is_wanted: impl Fn(&Command) -> bool) -> String {
    let head = |command: &Command| format!("{} {}", command.name, command.operands).trim_end().to_string();
    let wanted: Vec<&Command> = COMMANDS.iter().filter(|command| is_wanted(command)).collect();
    let width = wanted.iter().map(|command| head(command).len()).max().unwrap_or(0);
    let line = |command: &&Command| format!("  {:<width$}  {}", head(command), command.about);
    wanted.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn help(arguments: &mut Arguments) -> Result<SessionCommand, String> {
    let command = arguments.next_operand();
    match &command {
        Some(name) if find(name).is_none() => Err(unknown(name)),
        _ => Ok(SessionCommand::Help { command }),
    }
}

/// The error for an unknown command.
pub fn unknown(name: &str) -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    format!("no such command: `{name}`; there are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;
    use crate::text::Notation;

    #[test]
    fn every_example_is_understood() {
        for command in COMMANDS {
            let line = parse(command.example, Notation::Escaped, "");
            assert!(matches!(line, Ok(Some(_))), "{}: {line:?}", command.example);
            assert!(command.help().contains(command.example));
        }
    }

    #[test]
    fn a_usage_shows_operands_and_options() {
        let usage = find("clear").expect("a command").usage();
        assert_eq!(usage, "clear BEGIN END [--prefix PREFIX] [--family NAME]");
    }

    #[test]
    fn names_may_be_those_of_the_interface_and_have_aliases() {
        assert_eq!(find("append_if_fits").map(|command| command.name), Some("append-if-fits"));
        assert_eq!(find("exit").map(|command| command.name), Some("quit"));
        assert!(find("sett").is_none());
    }

    #[test]
    fn long_texts_are_wrapped_between_words() {
        assert_eq!(wrap("a few words"), ["  a few words"]);
        let lines = wrap(&"word ".repeat(50));
        assert!(
            lines.len() == 3 && lines.iter().all(|line| line.len() <= 100 && line.starts_with("  word")),
            "{lines:?}"
        );
    }

    #[test]
    fn lists_line_up() {
        let list = list(|command| !command.is_for_shell_only());
        let column = |about: &str| list.lines().find_map(|line| line.find(about)).expect("a line");
        assert_eq!(column("print the value of a key"), column("set a key to a value"), "{list}");
        assert!(!list.contains("rollback"));
    }
}
