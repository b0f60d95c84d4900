//! Configures the system's allocator for a server.
//!
//! glibc's allocator gives threads their own arenas, up to eight per processor, and an arena keeps
//! most of the memory freed in it. Any free thread may make a reply, so each arena would grow to
//! the size of the largest reply: several times the memory in use, and beyond any budget. Fewer
//! arenas are hardly slower, because each thread also has a small cache.
//!
//! Only the environment at the program's start can set this, so the program executes itself once
//! more.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// If this variable or [`TUNABLES`] is set, the user has decided.
const ARENAS: &str = "MALLOC_ARENA_MAX";
const TUNABLES: &str = "GLIBC_TUNABLES";
const LEAST_ARENAS: usize = 2;

/// Executes the program again in this process, limited to one arena per processor. Returns if that
/// was done already, if the environment decides, or if it fails; then the program only needs more
/// memory.
pub fn limit_arenas(processors: usize) {
    if cfg!(not(target_env = "gnu")) || [ARENAS, TUNABLES].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // Does not execute /proc/self/exe, because that would become the name of the process.
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    command.arg0(arguments.next().unwrap_or_else(|| "synodkv".into())).args(arguments);
    let _failure = command.env(ARENAS, processors.max(LEAST_ARENAS).to_string()).exec();
}
