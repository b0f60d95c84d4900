//! Clients that behave badly. Each kind does one thing wrong, again and again, at a pace that
//! leaves the machine time for others: what is tried here is what they may take of the servers, not
//! how busy they can make a processor.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_api::thrift::generated as wire;
use kv_api::thrift::wire::{Encoding, encode_call};
use kv_api::thrift::{ThriftCall, ThriftRequest};
use kv_api::{KeyRef, Mutation};
use kv_client::{AtomicCommit, Client, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::servers::Servers;
use crate::chaos::random::Random;

/// The rows that large ranges read: 20 MB.
const BULK_ROWS: u64 = 2_000;
const BULK_VALUE_BYTES: usize = 10_000;

/// One attempt of one kind of client. An error ends only the attempt: such clients must expect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Asks for much and reads it at a trickle.
    SlowReader,
    /// Asks for much a hundred times and reads nothing.
    NeverReads,
    /// Connects and says nothing, or not everything, to any port.
    HalfOpen,
    /// Reads everything, again and again.
    HugeRange,
    /// A thousand requests in one go, and gone before the replies.
    Pipeline,
    /// Connects and closes as fast as it can, for a while.
    ReconnectStorm,
    /// Another protocol than the port's.
    WrongProtocol,
    /// Pins a version and leaves.
    AbandonedPin,
    /// Transactions close to the limit.
    HugeWrite,
    /// A request that says it is long, and stops in the middle.
    HalfRequest,
}

/// The number of clients of each kind.
const CROWD: [(Kind, usize); 10] = [
    (Kind::SlowReader, 8),
    (Kind::NeverReads, 8),
    (Kind::HalfOpen, 400),
    (Kind::HugeRange, 1),
    (Kind::Pipeline, 4),
    (Kind::ReconnectStorm, 2),
    (Kind::WrongProtocol, 8),
    (Kind::AbandonedPin, 4),
    (Kind::HugeWrite, 1),
    (Kind::HalfRequest, 16),
];

type Counts = Arc<Mutex<BTreeMap<Kind, (u64, u64)>>>;

pub struct BadClients {
    tasks: JoinSet<()>,
    counts: Counts,
}

/// How often each kind did what it does, and how often that ended in an error.
pub struct Attempts(BTreeMap<Kind, (u64, u64)>);

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self
            .0
            .iter()
            .map(|(kind, (done, failed))| format!("{kind:?} {done} ({failed} ended by the server)"))
            .collect();
        write!(f, "bad clients: {}", kinds.join(", "))
    }
}

/// Writes what the large ranges read.
pub async fn load_rows(thrift: &[String]) -> Result<(), String> {
    let client =
        Client::connect(thrift.iter().cloned(), Options::default()).await.map_err(|error| error.to_string())?;
    for row in 0..BULK_ROWS {
        let set = client.set(KeyRef::new(format!("bulk/{row:08}")), vec![row as u8; BULK_VALUE_BYTES]).await;
        set.map_err(|error| error.to_string())?;
    }
    Ok(())
}

pub fn start(servers: &Servers, seed: u64, stop: &Arc<AtomicBool>) -> BadClients {
    let ports = Ports { thrift: servers.thrift(), admin: servers.admin(), peer: servers.peer() };
    let (ports, counts) = (Arc::new(ports), Counts::default());
    let mut random = Random::new(seed ^ 0xbad);
    let mut tasks = JoinSet::new();
    for (kind, crowd) in CROWD {
        for _ in 0..crowd {
            let client =
                BadClient { kind, ports: ports.clone(), random: Random::new(random.number()), stop: stop.clone() };
            tasks.spawn(client.run(counts.clone()));
        }
    }
    BadClients { tasks, counts }
}

impl BadClients {
    pub async fn stop(mut self) -> Attempts {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        Attempts(self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

struct Ports {
    thrift: Vec<String>,
    admin: Vec<String>,
    peer: Vec<String>,
}

struct BadClient {
    kind: Kind,
    ports: Arc<Ports>,
    random: Random,
    stop: Arc<AtomicBool>,
}

type Attempt = std::io::Result<()>;

impl BadClient {
    async fn run(mut self, counts: Counts) {
        while !self.stop.load(Ordering::Relaxed) {
            let done = self.attempt().await;
            let failed = u64::from(done.is_err());
            {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let (attempts, failures) = counts.entry(self.kind).or_default();
                *attempts += 1;
                *failures += failed;
            }
            sleep(Duration::from_millis(self.random.between(50, 1000))).await;
        }
    }

    async fn attempt(&mut self) -> Attempt {
        match self.kind {
            Kind::SlowReader => self.slow_reader().await,
            Kind::NeverReads => self.never_reads().await,
            Kind::HalfOpen => self.half_open().await,
            Kind::HugeRange => self.huge_range().await,
            Kind::Pipeline => self.pipeline().await,
            Kind::ReconnectStorm => self.storm().await,
            Kind::WrongProtocol => self.wrong_protocol().await,
            Kind::AbandonedPin => self.abandoned_pin().await,
            Kind::HugeWrite => self.huge_write().await,
            Kind::HalfRequest => self.half_request().await,
        }
    }

    async fn thrift(&mut self) -> std::io::Result<TcpStream> {
        TcpStream::connect(&self.ports.thrift[self.random.index(self.ports.thrift.len())]).await
    }

    /// Holds what it has for some seconds.
    async fn linger(&mut self) {
        sleep(Duration::from_millis(self.random.between(5_000, 60_000))).await;
    }

    async fn slow_reader(&mut self) -> Attempt {
        let mut stream = self.thrift().await?;
        stream.write_all(&everything(20)).await?;
        let mut bytes = [0; 2048];
        for _ in 0..self.random.between(50, 300) {
            stream.read_exact(&mut bytes).await?;
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn never_reads(&mut self) -> Attempt {
        let mut stream = self.thrift().await?;
        stream.write_all(&everything(100)).await?;
        self.linger().await;
        Ok(())
    }

    async fn half_open(&mut self) -> Attempt {
        let ports = match self.random.index(4) {
            0 => &self.ports.admin,
            1 => &self.ports.peer,
            _ => &self.ports.thrift,
        };
        let mut stream = TcpStream::connect(&ports[self.random.index(ports.len())]).await?;
        let beginnings: [&[u8]; 3] = [b"", b"GET /status HTTP/1.1\r\nHost: x\r\nX-Long: ", b"\x80\x01\x00\x01\x00\x00"];
        stream.write_all(beginnings[self.random.index(beginnings.len())]).await?;
        self.linger().await;
        Ok(())
    }

    async fn huge_range(&mut self) -> Attempt {
        let mut stream = self.thrift().await?;
        for _ in 0..5 {
            stream.write_all(&everything(1)).await?;
            let mut left = BULK_ROWS as usize * BULK_VALUE_BYTES;
            let mut bytes = vec![0; 1 << 16];
            while left > 0 {
                let read = timeout(Duration::from_secs(30), stream.read(&mut bytes)).await??;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                left = left.saturating_sub(read);
            }
            sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    }

    async fn pipeline(&mut self) -> Attempt {
        let mut stream = self.thrift().await?;
        let mut bytes = Vec::new();
        for sequence in 0..1_000 {
            let key = format!("bulk/{:08}", self.random.between(0, BULK_ROWS)).into_bytes();
            encode(
                &mut bytes,
                sequence,
                wire::GetRequest { key, column_family: None, consistency: None, auth_token: None },
            );
        }
        stream.write_all(&bytes).await
    }

    async fn storm(&mut self) -> Attempt {
        for _ in 0..200 {
            drop(self.thrift().await?);
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn wrong_protocol(&mut self) -> Attempt {
        let mut thrift_call = Vec::new();
        encode(&mut thrift_call, 1, wire::GetReadVersionRequest { auth_token: None });
        let noise: Vec<u8> = (0..4096).map(|_| self.random.number() as u8).collect();
        let words: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            &thrift_call,
            &noise,
        ];
        let ports = [&self.ports.thrift, &self.ports.admin, &self.ports.peer][self.random.index(3)];
        let mut stream = TcpStream::connect(&ports[self.random.index(ports.len())]).await?;
        stream.write_all(words[self.random.index(words.len())]).await?;
        let mut bytes = Vec::new();
        let end = timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
        end.map_or(Ok(()), |read| read.map(drop))
    }

    async fn abandoned_pin(&mut self) -> Attempt {
        let thrift = self.ports.thrift[self.random.index(self.ports.thrift.len())].clone();
        let failed = |error: kv_client::ClientError| std::io::Error::other(error.to_string());
        let client = Client::connect([thrift], Options::default()).await.map_err(failed)?;
        let version = client.read_version().await.map_err(failed)?;
        client.pin_snapshot(version, Duration::from_secs(60)).await.map_err(failed)
    }

    async fn huge_write(&mut self) -> Attempt {
        let failed = |error: kv_client::ClientError| std::io::Error::other(error.to_string());
        let client = Client::connect(self.ports.thrift.iter().cloned(), Options::default()).await.map_err(failed)?;
        let value = bytes::Bytes::from(vec![self.random.number() as u8; 90_000]);
        let set = |row: u64| Mutation::set(format!("huge/{row:04}"), value.clone());
        let mutations = (0..100).map(set).collect();
        client.commit(AtomicCommit { mutations, ..AtomicCommit::default() }).await.map_err(failed)?;
        sleep(Duration::from_secs(5)).await;
        Ok(())
    }

    async fn half_request(&mut self) -> Attempt {
        let mut stream = self.thrift().await?;
        let mut bytes = Vec::new();
        let request =
            wire::SetRequest { key: b"half".to_vec(), value: vec![1; 99_000], column_family: None, auth_token: None };
        encode(&mut bytes, 1, request);
        stream.write_all(&bytes[..50_000]).await?;
        self.linger().await;
        Ok(())
    }
}

fn encode<R: ThriftRequest + Into<ThriftCall>>(bytes: &mut Vec<u8>, sequence_id: i32, request: R) {
    encode_call(bytes, Encoding::default(), sequence_id, &request.into());
}

/// A number of requests, each for all rows of the bulk.
fn everything(count: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sequence in 0..count {
        let request = wire::GetRangeRequest {
            begin_key: Some(b"bulk/".to_vec()),
            end_key: Some(b"bulk0".to_vec()),
            begin_offset: None,
            begin_or_equal: None,
            end_offset: None,
            end_or_equal: None,
            limit: Some(0),
            column_family: None,
            reverse: None,
            target_bytes: None,
            begin_selector: None,
            end_selector: None,
            consistency: None,
            auth_token: None,
        };
        encode(&mut bytes, sequence, request);
    }
    bytes
}
