//! A load generator for etcd, ZooKeeper and Redis, to compare them with SynodKV.
//!
//! It does what `synodkv bench` does, and costs as little: one thread (`engine`) with hand-written
//! protocols (`etcd` over `http2`, `zookeeper`, `redis`), the same keys, values and distributions
//! (`keys`), and the same names in the result (`stats`).

mod args;
mod engine;
mod etcd;
mod http2;
mod keys;
mod protocol;
mod redis;
mod stats;
mod zookeeper;

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use args::{Args, HELP};
use engine::Engine;
use protocol::Broken;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(text) => {
            eprintln!("error: {text}");
            return ExitCode::from(2);
        }
    };
    match measure(&args) {
        Ok(operations) => ExitCode::from(u8::from(operations == 0)),
        Err(Broken(text)) => {
            eprintln!("error: {text}");
            ExitCode::from(1)
        }
    }
}

fn measure(args: &Args) -> Result<u64, Broken> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let mut engine = Engine::open(args, seed)?;
    announce(args, "begin");
    let (stats, seconds) = engine.run()?;
    let (report, operations) = (stats.json(args, seconds), stats.operations);
    announce(args, "end");
    engine.close();
    println!("{report}");
    Ok(operations)
}

/// With `--handshake`: prints the word and waits for a line.
fn announce(args: &Args, word: &str) {
    if args.handshake {
        println!("{word}");
        let _ = std::io::stdout().flush();
        let _ = std::io::stdin().read_line(&mut String::new());
    }
}
