//! `bench-disk`: measures the disk, and a plain storage engine on it, as a baseline for the server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::usage::epilogue;

/// Measure the disk: syncs per second, and synced group writes of a plain storage engine.
///
/// First, 4 KiB writes into a preallocated file, each followed by fdatasync: by one thread, and by
/// three, each with a file of its own. Then raw RocksDB: `--concurrency` threads pass one row at a
/// time to one writer, which writes all waiting rows as one synced batch. A server without any
/// other cost would reach this throughput.
#[derive(Debug, Args)]
#[command(after_help = epilogue("Examples:\n  \
    synodkv bench-disk --data-dir ./bench-data\n  \
    synodkv bench-disk --data-dir ./bench-data --concurrency 64 --seconds 10 --format json", "never"))]
pub struct BenchDiskArgs {
    /// A directory on the disk to measure; created if necessary. The files written there are
    /// removed afterwards.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// How long each measurement takes.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Number of threads that each pass one row at a time.
    #[arg(long, value_name = "N[,…]", value_delimiter = ',', default_value = "1,16,64,256")]
    pub concurrency: Vec<usize>,
    /// Length of a key.
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    pub key_size: u32,
    /// Length of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub value_size: u32,
    /// How the results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Measured {
    what: &'static str,
    concurrency: usize,
    throughput: f64,
    p50_us: u64,
    p99_us: u64,
}

const WRITE_BYTES: usize = 4096;
const FILE_BYTES: u64 = 16 << 20;
const FSYNC_THREADS: [usize; 2] = [1, 3];

pub fn run(args: BenchDiskArgs) -> Result<ExitCode, Failure> {
    if args.concurrency.iter().any(|n| !(1..=4096).contains(n)) {
        return Err(Failure::Usage(
            "--concurrency: expected numbers from 1 to 4096, with commas between them".to_string(),
        ));
    }
    std::fs::create_dir_all(&args.data_dir)
        .map_err(|error| Failure::Unsure(format!("{}: {error}", args.data_dir.display())))?;
    let scratch = Scratch::create(&args.data_dir)?;
    let seconds = Duration::from_secs(args.seconds);
    let bar = output::progress("", None);
    let mut measured = Vec::new();
    for threads in FSYNC_THREADS {
        bar.set_message(format!("fdatasync, {threads} threads"));
        measured.push(fsync_rate(&scratch.path, threads, seconds)?);
    }
    for concurrency in &args.concurrency {
        bar.set_message(format!("raw RocksDB, {concurrency} rows at a time"));
        measured.extend(raw_engine(&scratch.path, *concurrency, &args)?);
    }
    bar.finish_and_clear();
    match args.format {
        Format::Json => output::write_json(&measured)?,
        Format::Text => output::write_line(&show(&measured))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(measured: &[Measured]) -> String {
    let mut rows = vec![["what", "concurrency", "per second", "p50 (ms)", "p99 (ms)"].map(str::to_string).to_vec()];
    let ms = |us: u64| format!("{:.3}", us as f64 / 1e3);
    rows.extend(measured.iter().map(|m| {
        vec![m.what.to_string(), m.concurrency.to_string(), format!("{:.0}", m.throughput), ms(m.p50_us), ms(m.p99_us)]
    }));
    output::table(&rows)
}

/// A directory of this run, removed at its end.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create(parent: &Path) -> Result<Self, Failure> {
        let path = parent.join(format!("bench-disk-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| Failure::Unsure(format!("{}: {error}", path.display())))?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            output::remark(format!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

fn summarise(what: &'static str, concurrency: usize, elapsed: Duration, mut latencies: Vec<u64>) -> Measured {
    latencies.sort_unstable();
    let quantile = |q: f64| latencies.get(((latencies.len() as f64 * q) as usize).min(latencies.len().max(1) - 1));
    Measured {
        what,
        concurrency,
        throughput: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_us: quantile(0.5).copied().unwrap_or(0),
        p99_us: quantile(0.99).copied().unwrap_or(0),
    }
}

/// Runs `work` on several threads at once, each for `duration`, and returns the latencies of all.
/// `work` performs one operation; its arguments are the thread's number and the number of
/// operations so far.
fn timed(
    threads: usize,
    duration: Duration,
    work: impl Fn(usize, u64) -> Result<(), Failure> + Sync,
) -> Result<(Duration, Vec<u64>), Failure> {
    let start = Barrier::new(threads + 1);
    let one_thread = |thread: usize| {
        let mut latencies = Vec::new();
        start.wait();
        let begun = Instant::now();
        while begun.elapsed() < duration {
            let at = Instant::now();
            work(thread, latencies.len() as u64)?;
            latencies.push(at.elapsed().as_micros() as u64);
        }
        Ok(latencies)
    };
    let one_thread = &one_thread;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one_thread(thread))).collect();
        start.wait();
        let begun = Instant::now();
        let mut all = Vec::new();
        for thread in running {
            let latencies: Result<Vec<u64>, Failure> = thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
            all.extend(latencies?);
        }
        Ok((begun.elapsed(), all))
    })
}

fn fsync_rate(folder: &Path, threads: usize, duration: Duration) -> Result<Measured, Failure> {
    let files: Vec<File> =
        (0..threads).map(|n| zero_filled(&folder.join(format!("fsync-{n}")))).collect::<Result<_, _>>()?;
    let page = [0x5a; WRITE_BYTES];
    let (elapsed, latencies) = timed(threads, duration, |thread, done| {
        let at = (done * WRITE_BYTES as u64) % FILE_BYTES;
        files[thread].write_all_at(&page, at)?;
        Ok(files[thread].sync_data()?)
    })?;
    Ok(summarise("fdatasync of 4 KiB", threads, elapsed, latencies))
}

/// A file whose blocks are all allocated, so that syncing a write into it need not write metadata.
fn zero_filled(path: &Path) -> Result<File, Failure> {
    let file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

#[cfg(not(feature = "rocksdb"))]
fn raw_engine(_: &Path, _: usize, _: &BenchDiskArgs) -> Result<Option<Measured>, Failure> {
    output::remark("skipped: raw RocksDB (this program was built without the cargo feature \"rocksdb\")");
    Ok(None)
}

#[cfg(feature = "rocksdb")]
fn raw_engine(folder: &Path, concurrency: usize, args: &BenchDiskArgs) -> Result<Option<Measured>, Failure> {
    use kv_store::{Durability, ResourceOptions, RocksEngine, RocksOptions, SharedResources};

    let failed = |error: kv_api::KvError| Failure::Unsure(error.to_string());
    let path = folder.join(format!("rocksdb-{concurrency}"));
    let resources = SharedResources::new(ResourceOptions::default()).map_err(failed)?;
    let engine = RocksEngine::open(&path, RocksOptions::new(Durability::EveryWrite, resources)).map_err(failed)?;
    let group = group::Group::start(&engine);
    let value = vec![0xa5; args.value_size as usize];
    let duration = Duration::from_secs(args.seconds);
    let (elapsed, latencies) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| group.write_until_closed());
        let result = timed(concurrency, duration, |thread, done| {
            let row = done * concurrency as u64 + thread as u64;
            // Keys are spread like those of the server's benchmark.
            let mut key = vec![b'0'; args.key_size as usize];
            key[..8].copy_from_slice(&row.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            group.write(key, value.clone()).map_err(Failure::Unsure)
        });
        group.close();
        writer.join().unwrap_or_else(|error| std::panic::resume_unwind(error));
        result
    })?;
    Ok(Some(summarise("raw RocksDB, synced groups", concurrency, elapsed, latencies)))
}

#[cfg(feature = "rocksdb")]
mod group {
    //! Many threads and one writer, which writes all waiting rows as one synced batch.

    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

    use kv_store::Engine;
    use kv_store::engine::{Table, WriteBatch};
    use kv_store::key_codec;

    type Written = Result<(), String>;

    struct Row {
        key: Vec<u8>,
        value: Vec<u8>,
        written: SyncSender<Written>,
    }

    pub struct Group<'a> {
        engine: &'a dyn Engine,
        rows: Mutex<Option<Sender<Row>>>,
        queue: Mutex<Receiver<Row>>,
    }

    impl<'a> Group<'a> {
        pub fn start(engine: &'a dyn Engine) -> Self {
            let (rows, queue) = channel();
            Group { engine, rows: Mutex::new(Some(rows)), queue: Mutex::new(queue) }
        }

        /// Passes one row to the writer and waits until it is on disk.
        pub fn write(&self, key: Vec<u8>, value: Vec<u8>) -> Written {
            let (written, done) = sync_channel(1);
            let closed = || "the writer has stopped".to_string();
            {
                let rows = self.rows.lock().expect("no panic while it is locked");
                rows.as_ref().ok_or_else(closed)?.send(Row { key, value, written }).map_err(|_| closed())?;
            }
            done.recv().map_err(|_| closed())?
        }

        pub fn close(&self) {
            self.rows.lock().expect("no panic while it is locked").take();
        }

        pub fn write_until_closed(&self) {
            let queue = self.queue.lock().expect("there is one writer");
            let (mut batch, mut waiting) = (WriteBatch::new(), Vec::new());
            while let Ok(first) = queue.recv() {
                for row in std::iter::once(first).chain(queue.try_iter()) {
                    // Keys have the layout of the database's rows.
                    let key = key_codec::prefix("", &row.key);
                    let version = key_codec::version_suffix(2);
                    batch.put_parts(Table::Data, &[&key, &version], &key_codec::row_parts(Some(&row.value)));
                    waiting.push(row.written);
                }
                let result = self.engine.write(&batch).map_err(|error| error.to_string());
                for written in waiting.drain(..) {
                    // The thread that passed the row is waiting for this.
                    let _ = written.send(result.clone());
                }
                batch.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sync_is_counted_and_nothing_stays_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::create(folder.path()).expect("a scratch folder");
        let measured = fsync_rate(&scratch.path, 3, Duration::from_millis(50)).expect("a rate");
        assert!(measured.throughput > 0.0 && measured.p50_us <= measured.p99_us, "{measured:?}");
        drop(scratch);
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0);
    }
}
