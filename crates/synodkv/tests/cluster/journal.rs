//! Records the log of servers in this process, to print it when a test fails. All tests share it,
//! so lines of concurrent tests are interleaved; the names of their threads distinguish them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, Once, PoisonError};

const LINES: usize = 400;
/// Prefixes of the names of threads that belong to servers and not to tests.
const SERVER_THREADS: [&str; 2] = ["server ", "rsml-"];

static RECENT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

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

/// Starts to record, once for all tests.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let recorder = tracing_subscriber::fmt().with_thread_names(true).with_ansi(false).with_writer(|| Recent);
        recorder.init();
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            if SERVER_THREADS.iter().any(|prefix| name.starts_with(prefix)) {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(format!("thread {name}: {panic}"));
            }
            report(panic);
        }));
    });
}

/// Panics in servers of this process since the last call, in whichever test.
pub fn panics() -> Vec<String> {
    std::mem::take(&mut PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Prints the last lines, to the output of the test that calls it.
pub fn print() {
    let recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("--- the last lines logged in this process ---");
    for line in recent.iter() {
        eprint!("{line}");
    }
}
