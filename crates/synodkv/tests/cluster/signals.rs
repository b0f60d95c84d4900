//! Signals to processes under test.

use std::process::Command;
use std::time::{Duration, Instant};

/// Sends a signal by its name, without `SIG`. After STOP it returns only once the process has
/// stopped, because the signal stops one thread after the other and requests are answered until
/// then.
pub fn send_signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().expect("kill runs");
    assert!(sent.success(), "signal {name} was not sent");
    if name == "STOP" {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !stands_still(process) {
            assert!(Instant::now() < deadline, "the process does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn stands_still(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
    })
}
