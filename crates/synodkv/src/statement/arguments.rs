//! The arguments of a command: its options, and its operands in order.

use std::collections::{BTreeMap, VecDeque};

use kv_client::{Bytes, Version};

use super::words::Word;
use crate::text::Notation;

/// An option of a command.
#[derive(Clone, Copy)]
pub struct Opt {
    pub name: &'static str,
    /// The name of its value in usage texts; `None` if it has none.
    pub value: Option<&'static str>,
    pub about: &'static str,
}

/// The arguments of a command that are not consumed yet.
pub struct Arguments {
    /// The usage of the command, which every error shows.
    usage: String,
    notation: Notation,
    operands: VecDeque<Word>,
    options: BTreeMap<&'static str, Option<Word>>,
}

impl Arguments {
    /// Separates options from operands.
    pub fn sort(
        mut words: VecDeque<Word>,
        options: &'static [Opt],
        usage: String,
        notation: Notation,
    ) -> Result<Self, String> {
        let mut sorted = Arguments { usage, notation, operands: VecDeque::new(), options: BTreeMap::new() };
        while let Some(word) = words.pop_front() {
            if !word.is_option() {
                sorted.operands.push_back(word);
                continue;
            }
            let known = options.iter().find(|option| option.name == word.text);
            let option = known.ok_or_else(|| sorted.wrong(&format!("there is no option {}", word.text)))?;
            let value = match option.value {
                None => None,
                Some(what) => {
                    let value = words.pop_front();
                    Some(value.ok_or_else(|| sorted.wrong(&format!("{} needs {what}", option.name)))?)
                }
            };
            if sorted.options.insert(option.name, value).is_some() {
                return Err(sorted.wrong(&format!("{} is given twice", option.name)));
            }
        }
        Ok(sorted)
    }

    pub fn wrong(&self, what: &str) -> String {
        format!("{what}; usage: {}", self.usage)
    }

    /// Checks that every argument was consumed.
    pub fn finish(&self) -> Result<(), String> {
        if let Some(word) = self.operands.front() {
            return Err(
                self.wrong(&format!("`{}` is one argument too many: put quotes around text with blanks", word.text))
            );
        }
        match self.options.keys().next() {
            Some(name) => Err(self.wrong(&format!("{name} does not apply here"))),
            None => Ok(()),
        }
    }

    pub fn flag(&mut self, name: &str) -> bool {
        self.options.remove(name).is_some()
    }

    pub fn option(&mut self, name: &str) -> Option<Word> {
        self.options.remove(name).flatten()
    }

    pub fn operand(&mut self, what: &str) -> Result<Word, String> {
        self.operands.pop_front().ok_or_else(|| self.wrong(&format!("{what} is missing")))
    }

    pub fn bytes_of(&self, what: &str, word: &Word) -> Result<Bytes, String> {
        self.notation.parse(what, &word.text).map(Bytes::from)
    }

    pub fn bytes(&mut self, what: &str) -> Result<Bytes, String> {
        let word = self.operand(what)?;
        self.bytes_of(what, &word)
    }

    pub fn bytes_option(&mut self, name: &str) -> Result<Option<Bytes>, String> {
        self.option(name).map(|word| self.bytes_of(name, &word)).transpose()
    }

    pub fn key(&mut self) -> Result<Bytes, String> {
        let key = self.bytes("KEY")?;
        if key.is_empty() { Err(self.wrong("KEY cannot be empty")) } else { Ok(key) }
    }

    /// A value: an operand, or `--number N`.
    pub fn value(&mut self) -> Result<Bytes, String> {
        match self.option("--number") {
            Some(word) => self.number_of("--number", &word, true),
            None => self.bytes("VALUE"),
        }
    }

    /// A number: an operand, or `--bytes OPERAND`.
    pub fn number(&mut self, may_be_negative: bool) -> Result<Bytes, String> {
        if let Some(bytes) = self.bytes_option("--bytes")? {
            return Ok(bytes);
        }
        let word = self.operand("NUMBER")?;
        self.number_of("NUMBER", &word, may_be_negative)
    }

    /// A number as 8 bytes, little-endian; a negative one as two's complement.
    pub fn number_of(&self, what: &str, word: &Word, may_be_negative: bool) -> Result<Bytes, String> {
        let least = if may_be_negative { i128::from(i64::MIN) } else { 0 };
        let number = word.text.parse::<i128>().ok().filter(|number| (least..=i128::from(u64::MAX)).contains(number));
        let number = number.ok_or_else(|| {
            self.wrong(&format!("{what} `{}`: expected a number from {least} to {}", word.text, u64::MAX))
        })?;
        Ok(Bytes::copy_from_slice(&number.to_le_bytes()[..8]))
    }

    pub fn version(&mut self, name: &str) -> Result<Option<Version>, String> {
        let Some(word) = self.option(name) else { return Ok(None) };
        let version =
            word.text.parse().map_err(|_| self.wrong(&format!("{name} `{}`: expected a version", word.text)))?;
        Ok(Some(Version(version)))
    }

    /// The next operand, if there is one.
    pub fn next_operand(&mut self) -> Option<String> {
        self.operands.pop_front().map(|word| word.text)
    }

    /// The number of remaining operands.
    pub fn operand_count(&self) -> usize {
        self.operands.len()
    }

    pub fn in_order(&self, begin: Bytes, end: Bytes) -> Result<(Bytes, Bytes), String> {
        if begin > end { Err(self.wrong("BEGIN comes after END")) } else { Ok((begin, end)) }
    }
}
