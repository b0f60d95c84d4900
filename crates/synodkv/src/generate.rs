//! Files that packages install with the program: completions for shells (`completion`) and man
//! pages (`man`). Both are made from the command line itself, so they cannot disagree with it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::output;
use crate::usage::epilogue;

const NO: &str = "a file could not be written";

/// Print the completions of a shell, for commands, flags and their values.
///
/// The packages install them already. Elsewhere, put the output where the shell looks for
/// completions, and start a new shell.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv completion bash > ~/.local/share/bash-completion/completions/synodkv\n  \
    synodkv completion zsh  > \"${fpath[1]}/_synodkv\"\n  \
    synodkv completion fish > ~/.config/fish/completions/synodkv.fish", NO))]
pub struct CompletionArgs {
    /// The shell.
    pub shell: CompletionShell,
}

/// The shells whose completions the packages install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Write the man pages of all commands into a folder.
///
/// One page for the program, and one for each command: synodkv.1, synodkv-serve.1, … The folder is
/// created if necessary.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv man ./man && man ./man/synodkv-serve.1\n  \
    synodkv man /usr/local/share/man/man1", NO))]
pub struct ManArgs {
    /// The folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Prints the completions of `program`.
pub fn completion(mut program: Command, args: CompletionArgs) -> Result<ExitCode, Failure> {
    let shell = match args.shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "synodkv", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the man pages of `program`.
pub fn man(program: Command, args: ManArgs) -> Result<ExitCode, Failure> {
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| {
        let mut count = 0;
        for (name, page) in pages(program)? {
            std::fs::write(args.dir.join(name), page)?;
            count += 1;
        }
        Ok(count)
    });
    let count = written.map_err(|error| Failure::Failed(format!("{}: {error}", args.dir.display())))?;
    output::write_line(&done(&args.dir, count))?;
    Ok(ExitCode::SUCCESS)
}

fn done(dir: &Path, count: usize) -> String {
    format!("{count} man pages in {}", dir.display())
}

/// The file names and contents of all pages.
pub fn pages(mut program: Command) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    program.build();
    let mut pages = Vec::new();
    add(&program, "synodkv", &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let mut page = Vec::new();
    let source = concat!("SynodKV ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command.clone()).title(name.to_uppercase());
    man.source(source).manual("SynodKV Manual").render(&mut page)?;
    pages.push((format!("{name}.1"), page));
    for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
        add(part, &format!("{name}-{}", part.get_name()), pages)?;
    }
    Ok(())
}
