//! One function per command, which converts its arguments to an action.

use kv_client::{Bytes, MutationKind, Stamped, prefix_end};

use super::arguments::Arguments;
use super::{Action, Expected, Scan, SessionCommand};

const DEFAULT_LIMIT: usize = 100;

pub fn get(arguments: &mut Arguments) -> Result<Action, String> {
    let (is_snapshot, is_number) = (arguments.flag("--snapshot"), arguments.flag("--number"));
    Ok(Action::Get { key: arguments.key()?, is_snapshot, is_number })
}

pub fn range(arguments: &mut Arguments) -> Result<Action, String> {
    let (begin, end) = match arguments.bytes_option("--prefix")? {
        Some(prefix) => (prefix.clone(), prefix_end(prefix)),
        None => {
            let begin = if arguments.operand_count() > 0 { arguments.bytes("BEGIN")? } else { Bytes::new() };
            let end = if arguments.operand_count() > 0 { arguments.bytes("END")? } else { prefix_end("") };
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
    if arguments.operand_count() < 2 {
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
    let prefix = if arguments.operand_count() > 0 { arguments.bytes("PREFIX")? } else { Bytes::new() };
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
    let family = arguments.next_operand().unwrap_or_default();
    Ok(SessionCommand::Use { family })
}

pub fn quit(_: &mut Arguments) -> Result<SessionCommand, String> {
    Ok(SessionCommand::Quit)
}
