//! The sources of lines. Reading blocks, so it happens in a thread of its own, and connections stay
//! alive meanwhile.

use std::io::{BufRead, Read, StdinLock};

use tokio::sync::mpsc;

use crate::failure::Failure;

pub enum Input {
    Line(String),
    /// Ctrl-C, which discards what was typed.
    Interrupted,
    End,
}

/// A source of lines.
pub trait Source {
    fn next(&mut self, prompt: &str) -> Result<Input, Failure>;
}

/// Reads lines from a source in a thread of its own, which ends when the last prompt was answered.
pub struct Inputs {
    prompts: std::sync::mpsc::Sender<String>,
    inputs: mpsc::UnboundedReceiver<Result<Input, Failure>>,
}

impl Inputs {
    /// Starts the thread; `open` runs in it.
    pub fn start(open: impl FnOnce() -> Result<Box<dyn Source>, Failure> + Send + 'static) -> Self {
        let (prompts, questions) = std::sync::mpsc::channel::<String>();
        let (answers, inputs) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut source = open();
            for prompt in questions {
                let answer = match &mut source {
                    Ok(source) => source.next(&prompt),
                    Err(failure) => Err(failure.clone()),
                };
                if answers.send(answer).is_err() {
                    return;
                }
            }
        });
        Inputs { prompts, inputs }
    }

    pub async fn next(&mut self, prompt: &str) -> Result<Input, Failure> {
        // If the thread has ended, there is no input either.
        let _ = self.prompts.send(prompt.to_string());
        self.inputs.recv().await.unwrap_or(Ok(Input::End))
    }
}

/// The given lines, or those of standard input if there are none.
pub fn of_program(lines: Vec<String>) -> Box<dyn Source> {
    match lines.is_empty() {
        true => Box::new(StandardInput(std::io::stdin().lock())),
        false => Box::new(Given(lines.into_iter())),
    }
}

struct Given(std::vec::IntoIter<String>);

impl Source for Given {
    fn next(&mut self, _: &str) -> Result<Input, Failure> {
        Ok(self.0.next().map_or(Input::End, Input::Line))
    }
}

/// Longest line. Larger statements are rarely intended; note that the text is escaped.
const MAX_LINE_BYTES: u64 = 256 << 20;

struct StandardInput(StdinLock<'static>);

impl Source for StandardInput {
    fn next(&mut self, _: &str) -> Result<Input, Failure> {
        let mut line = String::new();
        let read = self.0.by_ref().take(MAX_LINE_BYTES + 1).read_line(&mut line);
        match read.map_err(|error| Failure::Usage(format!("cannot read standard input: {error}")))? {
            0 => Ok(Input::End),
            length if length as u64 > MAX_LINE_BYTES => {
                Err(Failure::Usage(format!("a line has at most {MAX_LINE_BYTES} bytes")))
            }
            _ => Ok(Input::Line(line)),
        }
    }
}
