//! The log of a server. Logging never blocks the threads that serve.
//!
//! An event becomes a [`Record`](record::Record). The [`throttle`] admits it or counts it. Its line
//! is appended to a bounded [`queue`], and one thread ([`writer`]) writes the queue to standard
//! error or to a file. The logging thread only copies bytes into memory: when a pipe is not read, a
//! disk is full or a terminal is gone, lines are dropped and counted, and nothing else happens.
//!
//! Left out on purpose: spans, because nothing in this program opens one; and rotation by size or
//! date, because `logrotate` does it.

mod format;
mod queue;
mod record;
mod throttle;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kv_server::config::{LogFormat, LogSettings};
use kv_server::problems::Problem;
use prometheus::IntCounter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use self::format::Format;
use self::queue::Queue;
use self::record::Record;
use self::throttle::Throttle;
use self::writer::{Target, Writer};
use crate::failure::Failure;

/// The target of lines about the log itself.
const TARGET: &str = "synodkv::logging";
/// How long the process waits at its end for the log to be written.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// The running log. Dropping it flushes the queue, for [`LAST_PATIENCE`] at most.
pub struct Logging {
    control: Control,
}

/// A handle to change the running log.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Shared by the layer, the writer and the handles.
struct Shared {
    target: Target,
    format: Format,
    throttle: Mutex<Throttle>,
    queue: Queue,
    dropped: IntCounter,
}

impl Logging {
    /// Opens the log and installs it for the whole process, including panics.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the file cannot be opened or the level is invalid.
    pub fn start(settings: &LogSettings) -> Result<Logging, Failure> {
        let target = settings.file.clone().map_or(Target::StandardError, Target::File);
        let file = target.open().map_err(|error| {
            let path = target.to_string();
            Failure::Usage(format!("cannot open the log {path}: {error}; see log.file (--log-file)"))
        })?;
        let colours = target == Target::StandardError
            && std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let shared = Arc::new(Shared::new(target, Format { kind: settings.format, colours }));
        let (filter, handle) = reload::Layer::new(filter(&settings.level)?);
        let layer = Recording(shared.clone());
        tracing_subscriber::registry().with(filter).with(layer).init();
        let writer = Writer::new(shared.clone(), file);
        std::thread::Builder::new().name("log-writer".to_string()).spawn(move || writer.run())?;
        std::panic::set_hook(Box::new(panic_logger(shared.clone())));
        Ok(Logging { control: Control { shared, filter: handle } })
    }

    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The number of lines dropped since the start.
    pub fn dropped(&self) -> IntCounter {
        self.control.shared.dropped.clone()
    }

    /// Reports why the program ends: in the log, and as plain text on standard error. Where the log
    /// is text on standard error the plain text is enough; where it is JSON there, plain text would
    /// break the format and is left out.
    pub fn say_at_the_end(&self, failure: &Failure) {
        let is_on_stderr = self.control.shared.target == Target::StandardError;
        let is_text = self.control.shared.format.kind == LogFormat::Text;
        if !(is_on_stderr && is_text) {
            self.control.shared.log(Record::new(Level::ERROR, "synodkv::serve", format!("the server ends: {failure}")));
        }
        if !is_on_stderr || is_text {
            self.flush();
            say(std::io::stderr(), format!("error: {failure}\n"), LAST_PATIENCE);
        }
    }

    fn flush(&self) {
        for record in self.control.shared.throttle().rest() {
            self.control.shared.write(&record);
        }
        // A flush that times out has no one left to report to; `/status` has shown the problem
        // before.
        let _ = self.control.shared.queue.flush(LAST_PATIENCE);
    }
}

impl Control {
    /// A source of problems for `/status`.
    pub fn problems(&self) -> impl Fn() -> Vec<Problem> + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.problems()
    }

    pub fn set_level(&self, level: &str) -> Result<(), Failure> {
        self.filter.reload(filter(level)?).map_err(|error| Failure::Failed(error.to_string()))
    }

    /// Asks the writer's thread to open the file again. The result is logged.
    pub fn reopen(&self) {
        self.shared.queue.reopen();
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.flush();
    }
}

fn filter(level: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(level).map_err(|error| Failure::Usage(format!("log.level = {level}: {error}")))
}

/// Writes to a stream that may block for ever, such as a pipe that is not read. Returns after
/// `patience` at the latest; a thread keeps trying until the process ends.
pub fn say(mut stream: impl Write + Send + 'static, text: String, patience: Duration) {
    let (done, is_done) = mpsc::channel();
    let writing = move || {
        if let Err(error) = stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
            tracing::warn!(%error, "cannot write to standard output or standard error: {}", text.trim_end());
        }
        // The receiver is gone after its timeout.
        let _ = done.send(());
    };
    match std::thread::Builder::new().name("say".to_string()).spawn(writing) {
        // A timeout needs no action, because the thread continues.
        Ok(_) => drop(is_done.recv_timeout(patience)),
        Err(error) => tracing::warn!(%error, "cannot start a thread that writes to standard output"),
    }
}

/// The panic hook. The standard one writes to standard error itself, and would block there while
/// nothing reads it.
fn panic_logger(shared: Arc<Shared>) -> impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static {
    move |panic| {
        let payload = panic.payload();
        let words = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = format!("thread '{thread}' panicked at {place}: {}", words.unwrap_or("(no message)"));
        let mut record = Record::new(Level::ERROR, "synodkv::panic", message);
        record.kind.distinction = place;
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            record = record.with("backtrace", backtrace);
        }
        shared.log(record);
    }
}

impl Shared {
    fn new(target: Target, format: Format) -> Shared {
        let dropped = IntCounter::new("synodkv_log_lines_dropped_total", "Lines of the log that could not be written");
        Shared {
            target,
            format,
            throttle: Mutex::default(),
            queue: Queue::default(),
            dropped: dropped.expect("a valid metric"),
        }
    }

    fn log(&self, record: Record) {
        let admitted = match record.is_for_operators() {
            true => self.throttle().admit(record, Instant::now()),
            // Details are for debugging, where a gap would mislead.
            false => Some(record),
        };
        if let Some(record) = admitted {
            self.write(&record);
        }
    }

    /// Writes the lines that were held back and are due now.
    fn log_overdue(&self, now: Instant) {
        let due = self.throttle().overdue(now);
        due.iter().for_each(|record| self.write(record));
    }

    fn write(&self, record: &Record) {
        if !self.queue.push(self.format.line(record).as_bytes()) {
            self.dropped.inc();
        }
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problems(&self) -> Vec<Problem> {
        let drops = self.queue.drops();
        if drops.lines == 0 {
            return Vec::new();
        }
        let (why, remedy) = match (&drops.error, &self.target) {
            (Some(error), target) => (
                format!("{target} cannot be written: {error}"),
                "remove the cause, for example by freeing disk space; logging resumes by itself",
            ),
            (None, Target::StandardError) => (
                "standard error is not read, or not fast enough".to_string(),
                "make the program at the other end of standard error read it, or log to a file (log.file)",
            ),
            (None, Target::File(path)) => (
                format!("writing to {} is too slow", path.display()),
                "log to a faster disk (log.file), or log less (log.level)",
            ),
        };
        vec![Problem::new("log_lines_dropped", format!("{} log lines were dropped: {why}", drops.lines), remedy)]
    }
}

/// The layer of the subscriber.
struct Recording(Arc<Shared>);

impl<S: Subscriber> Layer<S> for Recording {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.log(Record::of(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(Target::StandardError, Format { kind: LogFormat::Text, colours: false }))
    }

    /// The content of the queue.
    fn waiting(shared: &Shared) -> String {
        String::from_utf8(shared.queue.take(Duration::ZERO).lines).expect("UTF-8")
    }

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        let shared = shared();
        let (ours, before) = (panic_logger(shared.clone()), std::panic::take_hook());
        // Other tests of this process that panic still report it.
        std::panic::set_hook(Box::new(move |panic| {
            ours(panic);
            before(panic);
        }));
        let thread = std::thread::Builder::new().name("a-thread".to_string()).spawn(|| panic!("on purpose\nand so on"));
        assert!(thread.expect("it starts").join().is_err());
        let log = waiting(&shared);
        let line = log.lines().find(|line| line.contains("a-thread")).expect("a line");
        assert!(line.contains("ERROR synodkv::panic: thread 'a-thread' panicked at "), "{line}");
        assert!(line.contains(&format!("{}:", file!())) && line.contains("on purpose\\nand so on"), "{line}");
    }

    #[test]
    fn details_are_never_held_back() {
        let shared = shared();
        for _ in 0..100 {
            shared.log(Record::new(Level::DEBUG, "here", "a detail".to_string()));
            shared.log(Record::new(Level::INFO, "here", "some news".to_string()));
        }
        let log = waiting(&shared);
        let count = |words| log.lines().filter(|line| line.contains(words)).count();
        assert_eq!((count("a detail"), count("some news")), (100, throttle::AT_ONCE as usize));
    }

    #[test]
    fn a_queue_that_is_full_is_a_problem_with_a_remedy() {
        let shared = shared();
        assert_eq!(shared.problems(), []);
        let long = "x".repeat(5 << 20);
        shared.log(Record::new(Level::INFO, "here", long));
        let problems = shared.problems();
        assert_eq!((problems.len(), problems[0].kind, shared.dropped.get()), (1, "log_lines_dropped", 1));
        assert!(problems[0].text.starts_with("1 log lines were dropped: standard error is not read"));
        assert!(problems[0].remedy.contains("log.file"), "{}", problems[0].remedy);
    }
}
