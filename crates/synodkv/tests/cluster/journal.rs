//! What servers in this process log, for a test that fails. They share it: lines of tests that run at the same time stand
//! between each other, told apart by the names of their threads.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, Once, PoisonError};

const LINES: usize = 400;

static RECENT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

struct Recent;

impl io::Write for Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == LINES {
            recent.pop_front();
        }
        recent.push_back(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to record, once for all tests.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let recorder = tracing_subscriber::fmt().with_thread_names(true).with_ansi(false).with_writer(|| Recent);
        recorder.init();
    });
}

/// Prints the last lines, to the output of the test that calls it.
pub fn print() {
    let recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("--- the last lines logged in this process ---");
    for line in recent.iter() {
        eprint!("{line}");
    }
}
