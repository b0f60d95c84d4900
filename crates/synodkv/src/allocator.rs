//! How the system's allocator is set up for a server.
//!
//! The allocator of glibc gives threads arenas of their own, up to eight for each processor, and an arena keeps most of what
//! was freed in it. Replies are made by whichever thread is free, so each arena would come to hold as much as the largest
//! reply: several times what is in use, and beyond any budget. Few arenas are hardly slower, because each thread also has a
//! small cache.
//!
//! That can be said only in the environment that the program starts with, so it starts itself once more.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Whoever sets this, or [`TUNABLES`], has decided.
const ARENAS: &str = "MALLOC_ARENA_MAX";
const TUNABLES: &str = "GLIBC_TUNABLES";
const LEAST_ARENAS: usize = 2;

/// Goes on with one arena for each processor: in this process, from the beginning of the program. Comes back where that has
/// been done, is decided by the environment, or fails; then the program needs more memory, and nothing else changes.
pub fn limit_arenas(processors: usize) {
    if cfg!(not(target_env = "gnu")) || [ARENAS, TUNABLES].iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // Not by way of /proc/self/exe, which would become the name of the process.
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    command.arg0(arguments.next().unwrap_or_else(|| "synodkv".into())).args(arguments);
    let _failure = command.env(ARENAS, processors.max(LEAST_ARENAS).to_string()).exec();
}
