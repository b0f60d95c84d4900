//! `shell`: commands one after the other, typed or from a pipe.
//!
//! `input` reads lines, from a terminal with an editor (`editor`), from standard input or from the
//! command line, and `session` executes them. After a failure, the shell continues on a terminal
//! and ends otherwise.

mod editor;
mod input;
mod session;

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::cli::ShellArgs;
use crate::failure::Failure;
use crate::output;
use input::{Input, Inputs};
use session::{Next, Session};

pub async fn run(args: ShellArgs) -> Result<ExitCode, Failure> {
    let is_interactive = args.lines.is_empty() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut session = Session::new(&args, is_interactive)?;
    if is_interactive { converse(&mut session, !args.no_history).await } else { execute_all(&mut session, args).await }
}

async fn converse(session: &mut Session, with_history: bool) -> Result<ExitCode, Failure> {
    // Fails at once if no server answers.
    session.connect().await?;
    output::write_line(&format!("connected to {}; `help` lists the commands, Ctrl-D ends", session.address()))?;
    let mut inputs = Inputs::start(move || editor::open(with_history));
    loop {
        match inputs.next(session.prompt()).await? {
            Input::Line(line) => match session.execute(&line).await {
                Ok(Next::Continue) => {}
                Ok(Next::Quit) => break,
                Err(failure) => output::remark(format!("error: {failure}")),
            },
            Input::Interrupted => {}
            Input::End => break,
        }
    }
    if session.is_in_transaction() {
        output::remark("the open transaction was rolled back: nothing of it was written");
    }
    Ok(ExitCode::SUCCESS)
}

async fn execute_all(session: &mut Session, args: ShellArgs) -> Result<ExitCode, Failure> {
    let mut inputs = Inputs::start(move || Ok(input::of_program(args.lines)));
    let mut number = 0;
    loop {
        let line = match inputs.next("").await? {
            Input::Line(line) => line,
            Input::Interrupted | Input::End => break,
        };
        number += 1;
        match session.execute(&line).await {
            Ok(Next::Continue) => {}
            Ok(Next::Quit) => break,
            Err(failure) if number == 1 => return Err(failure.with_text(|text| format!("line 1: {text}"))),
            // The lines before it were executed.
            Err(failure) => return Err(failure.after(&format!("line {number}: "))),
        }
    }
    match session.is_in_transaction() {
        true => {
            let reason = "the input ended inside a transaction: without `commit`, nothing of it was written";
            Err(Failure::Failed(reason.to_string()))
        }
        false => Ok(ExitCode::SUCCESS),
    }
}
