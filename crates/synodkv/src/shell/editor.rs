//! The line editor of a terminal: completion, and a history that outlives the shell.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::input::{Input, Source};
use crate::failure::Failure;
use crate::output;
use crate::statement::commands::{COMMANDS, find};

const HISTORY_LINES: usize = 10_000;

pub fn open(with_history: bool) -> Result<Box<dyn Source>, Failure> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)
        .map_err(failure)?
        // As in other shells, a line that begins with a blank is not remembered.
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .build();
    let mut editor = Editor::with_config(config).map_err(failure)?;
    editor.set_helper(Some(Assistant));
    let history = if with_history { history_file(|name| std::env::var_os(name)) } else { None };
    let mut terminal = Terminal { editor, history };
    terminal.load_history();
    Ok(Box::new(terminal))
}

fn failure(error: ReadlineError) -> Failure {
    Failure::Unsure(format!("the terminal: {error}"))
}

/// The path given by the XDG base directory specification; `None` without a home directory.
fn history_file(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The specification says to ignore relative paths.
    let state = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(home()?.join(".local/state")))?;
    Some(state.join("synodkv/history"))
}

struct Terminal {
    editor: Editor<Assistant, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Terminal {
    /// Loads the history. The shell works without one.
    fn load_history(&mut self) {
        let Some(path) = &self.history else { return };
        let prepared = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let loaded = prepared.map_err(ReadlineError::Io).and_then(|()| match path.exists() {
            true => self.editor.load_history(path),
            false => Ok(()),
        });
        if let Err(error) = loaded {
            output::remark(format!("no history: {}: {error}", path.display()));
            self.history = None;
        }
    }

    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() || !self.editor.add_history_entry(line).unwrap_or(false) {
            return;
        }
        // Saves the line at once, so that neither a crash nor another shell loses it.
        let append = |path: &PathBuf| self.editor.append_history(Path::new(path));
        if let Some(Err(error)) = self.history.as_ref().map(append) {
            output::remark(format!("no history any more: {error}"));
            self.history = None;
        }
    }
}

impl Source for Terminal {
    fn next(&mut self, prompt: &str) -> Result<Input, Failure> {
        match self.editor.readline(prompt) {
            Ok(line) => {
                self.remember(&line);
                Ok(Input::Line(line))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(failure(error)),
        }
    }
}

/// Completes the names of commands and of their options.
struct Assistant;

/// The completions of the word at the cursor, and where that word begins.
fn candidates(line: &str, cursor: usize) -> (usize, Vec<String>) {
    let before = &line[..cursor];
    let begin = before.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
    let (earlier, word) = before.split_at(begin);
    let mut earlier = earlier.split_whitespace();
    let names = || COMMANDS.iter().map(|command| command.name);
    let all: Vec<&str> = match earlier.next() {
        None => names().collect(),
        Some("help") if earlier.next().is_none() => names().collect(),
        Some("help") => Vec::new(),
        Some(name) => {
            let options = find(name).map(|command| command.options).unwrap_or_default();
            // A key may be any text, so options are offered only once the word begins like one.
            options.iter().map(|option| option.name).filter(|_| word.starts_with('-')).collect()
        }
    };
    let fitting = all.into_iter().filter(|candidate| candidate.starts_with(word));
    (begin, fitting.map(|candidate| format!("{candidate} ")).collect())
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(candidates(line, cursor))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Validator for Assistant {}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, begin: usize, expected: &[&str]) {
        assert_eq!(candidates(line, line.len()), (begin, expected.iter().map(|word| word.to_string()).collect()));
    }

    #[test]
    fn commands_and_their_options_are_completed() {
        check("ro", 0, &["rollback "]);
        check("se", 0, &["set ", "set-versionstamped-key ", "set-versionstamped-value "]);
        check("range --re", 6, &["--reverse "]);
        check("clear a --", 8, &["--prefix ", "--family "]);
        check("help cl", 5, &["clear "]);
    }

    #[test]
    fn keys_are_not_completed() {
        check("get se", 4, &[]);
        check("help clear s", 11, &[]);
        check("nonsense --", 9, &[]);
    }

    #[test]
    fn the_history_is_where_state_belongs() {
        let file = |state: Option<&str>, home: Option<&str>| {
            let value = |name: &str| if name == "HOME" { home } else { state };
            history_file(|name| value(name).map(OsString::from))
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(file(Some("/s"), Some("/h")), path("/s/synodkv/history"));
        assert_eq!(file(None, Some("/h")), path("/h/.local/state/synodkv/history"));
        assert_eq!(file(Some("relative"), Some("/h")), path("/h/.local/state/synodkv/history"));
        assert_eq!(file(None, None), None);
    }
}
