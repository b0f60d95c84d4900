//! Goes through the scenario of SCENARIO.md with the crate `thrift` and what the stock compiler made. See programs.py for how
//! it is called and what it prints.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;

use kv::{Client, Kv, Step};
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol, TInputProtocol,
    TOutputProtocol,
};
use thrift::transport::{
    TBufferedReadTransport, TBufferedWriteTransport, TFramedReadTransport, TFramedWriteTransport, TIoChannel,
    TReadTransport, TTcpChannel, TWriteTransport,
};

#[cfg(feature = "extensions")]
mod extensions;
/// Put here by scripts/interop.sh.
#[allow(dead_code, clippy::all)]
mod generated;
mod kv;
mod ranges;
mod single_keys;
mod stamps_and_the_rest;
mod tls;
mod versions_and_commits;

/// The message of the last panic.
static WHY: Mutex<String> = Mutex::new(String::new());

type Options = HashMap<String, String>;

fn options() -> Options {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options: Options = arguments.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    for name in ["--addresses", "--protocol", "--transport", "--prefix", "--nodes"] {
        assert!(options.contains_key(name), "missing: {name}");
    }
    options
}

/// What is read from, and what is written to.
fn halves(address: &str, options: &Options) -> (Box<dyn Read + Send>, Box<dyn Write + Send>) {
    if let Some(ca) = options.get("--ca") {
        let identity = options.get("--cert").zip(options.get("--key"));
        let stream = tls::Shared::connect(address, ca, identity);
        return (Box::new(stream.clone()), Box::new(stream));
    }
    let mut channel = TTcpChannel::new();
    channel.open(address).expect("a connection");
    let (read, write) = channel.split().expect("two halves");
    (Box::new(read), Box::new(write))
}

fn connect(address: &str, options: &Options) -> Client {
    let (read, write) = halves(address, options);
    let (read, write): (Box<dyn TReadTransport + Send>, Box<dyn TWriteTransport + Send>) =
        match options["--transport"].as_str() {
            "buffered" => (Box::new(TBufferedReadTransport::new(read)), Box::new(TBufferedWriteTransport::new(write))),
            "framed" => (Box::new(TFramedReadTransport::new(read)), Box::new(TFramedWriteTransport::new(write))),
            other => panic!("--transport {other}; allowed: buffered and framed"),
        };
    let (input, output): (Box<dyn TInputProtocol>, Box<dyn TOutputProtocol>) = match options["--protocol"].as_str() {
        "binary" => {
            (Box::new(TBinaryInputProtocol::new(read, true)), Box::new(TBinaryOutputProtocol::new(write, true)))
        }
        "compact" => (Box::new(TCompactInputProtocol::new(read)), Box::new(TCompactOutputProtocol::new(write))),
        other => panic!("--protocol {other}; allowed: binary and compact"),
    };
    #[allow(unused_mut)]
    let mut client = Client::new(input, output);
    #[cfg(feature = "extensions")]
    if let Some(token) = options.get("--token") {
        use generated::{AuthenticateRequest, TTransactionalKVSyncClient};
        kv::succeeded(client.authenticate(AuthenticateRequest::new(token.clone())).expect("a reply"));
    }
    client
}

fn all_steps() -> Vec<Step> {
    let parts: &[&[Step]] = &[
        single_keys::STEPS,
        versions_and_commits::STEPS,
        ranges::STEPS,
        stamps_and_the_rest::STEPS,
        #[cfg(feature = "extensions")]
        extensions::STEPS,
    ];
    parts.concat()
}

fn main() -> ExitCode {
    let options = options();
    let clients = options["--addresses"].split(',').map(|address| connect(address, &options)).collect();
    let mut kv = Kv::new(clients, options["--nodes"].parse().expect("--nodes is a number"), options.get("--token").cloned());
    std::panic::set_hook(Box::new(|panic| {
        *WHY.lock().expect("one thread") = panic.to_string().replace('\n', " | ");
    }));
    let mut failures = 0;
    for (number, (name, step)) in all_steps().into_iter().enumerate() {
        let key = [options["--prefix"].as_bytes(), b"\x00\xff", format!("{number}/").as_bytes()].concat();
        match catch_unwind(AssertUnwindSafe(|| step(&mut kv, &key))) {
            Ok(()) => println!("ok {name}"),
            Err(_) => {
                failures += 1;
                println!("FAILED {name}: {}", WHY.lock().expect("one thread"));
            }
        }
    }
    ExitCode::from(u8::from(failures > 0))
}
