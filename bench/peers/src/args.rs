//! The command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub const HELP: &str = "\
peer-bench: puts a closed loop of requests on etcd, ZooKeeper or Redis and prints one line of JSON.

    peer-bench --system etcd --addr 127.0.0.1:2379 --workload put --concurrency 64

  --system NAME       etcd, zookeeper or redis
  --addr LIST         addresses, separated by commas; the connections take them in turn
  --workload NAME     load      writes every record once; the others need that before
                      put, get  uniform keys of 16 bytes
                      ycsb-a, ycsb-b, ycsb-c
                                50, 95 and 100 % reads, the rest updates; zipfian keys of 23 bytes
                      txn       read two records, write both if neither has changed (etcd, zookeeper)
  --keys hex|ycsb     which keys `load` writes: those of put, get and txn, or those of YCSB (hex)
  --concurrency N     requests in flight, over all connections (64)
  --connections N     connections, at most as many as requests in flight (8)
  --seconds N         how long to send requests (10)
  --records N         number of records (100000)
  --value-size N      bytes of a value (100)
  --handshake         print `begin` before the first request and `end` after the last reply, and wait for
                      a line of standard input each time, so that the starter can take figures between

Reads are linearizable: etcd's default range, ZooKeeper's sync and getData in one go, Redis' GET.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    Etcd,
    ZooKeeper,
    Redis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Load,
    Put,
    Get,
    YcsbA,
    YcsbB,
    YcsbC,
    Txn,
}

impl Workload {
    const NAMES: [(&'static str, Workload); 7] = [
        ("load", Workload::Load),
        ("put", Workload::Put),
        ("get", Workload::Get),
        ("ycsb-a", Workload::YcsbA),
        ("ycsb-b", Workload::YcsbB),
        ("ycsb-c", Workload::YcsbC),
        ("txn", Workload::Txn),
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, workload)| *workload == self).expect("all are listed").0
    }

    pub fn is_ycsb(self) -> bool {
        matches!(self, Workload::YcsbA | Workload::YcsbB | Workload::YcsbC)
    }

    /// Percentage of reads; the rest are updates.
    pub fn reads(self) -> u64 {
        match self {
            Workload::Get | Workload::YcsbC => 100,
            Workload::YcsbB => 95,
            Workload::YcsbA => 50,
            Workload::Load | Workload::Put | Workload::Txn => 0,
        }
    }
}

#[derive(Debug)]
pub struct Args {
    pub system: System,
    pub addresses: Vec<SocketAddr>,
    pub workload: Workload,
    pub ycsb_keys: bool,
    pub concurrency: usize,
    pub connections: usize,
    pub seconds: f64,
    pub records: u64,
    pub value_size: usize,
    pub handshake: bool,
}

impl Args {
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Args, String> {
        let mut given = Given::of(words)?;
        let system = match given.take("system").as_deref() {
            Some("etcd") => System::Etcd,
            Some("zookeeper") => System::ZooKeeper,
            Some("redis") => System::Redis,
            other => {
                return Err(format!("--system {}: expected etcd, zookeeper or redis", other.unwrap_or("is missing")));
            }
        };
        let name = given.take("workload").ok_or("--workload is missing")?;
        let known = Workload::NAMES.iter().find(|(each, _)| *each == name);
        let workload = known.ok_or(format!("--workload {name}: unknown; see --help"))?.1;
        if workload == Workload::Txn && system == System::Redis {
            return Err("--workload txn: only for etcd and zookeeper".to_string());
        }
        let addresses = given.take("addr").ok_or("--addr is missing")?;
        let addresses = addresses.split(',').map(str::parse).collect::<Result<Vec<_>, _>>();
        let concurrency: usize = given.number("concurrency", 64)?.max(1);
        let args = Args {
            system,
            addresses: addresses.map_err(|error| format!("--addr: {error}"))?,
            workload,
            ycsb_keys: workload.is_ycsb() || given.take("keys").is_some_and(|keys| keys == "ycsb"),
            concurrency,
            connections: given.number("connections", 8)?.clamp(1, concurrency),
            seconds: given.number("seconds", 10.0)?,
            records: given.number("records", 100_000)?.max(2),
            value_size: given.number("value-size", 100)?,
            handshake: given.take("handshake").is_some(),
        };
        given.refuse_rest().map(|()| args)
    }

    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.max(0.0))
    }
}

/// Options by name, with their values.
struct Given(BTreeMap<String, String>);

impl Given {
    fn of(words: impl IntoIterator<Item = String>) -> Result<Given, String> {
        let mut given = BTreeMap::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or(format!("{word}: expected an option; see --help"))?;
            let value = match name {
                "handshake" => String::new(),
                _ => words.next().ok_or(format!("--{name}: its value is missing"))?,
            };
            given.insert(name.to_string(), value);
        }
        Ok(Given(given))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        match self.take(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("--{name} {text}: expected a number")),
        }
    }

    fn refuse_rest(&self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(name) => Err(format!("--{name}: unknown option; see --help")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_string))
    }

    #[test]
    fn connections_are_at_most_the_requests_in_flight() {
        let args = parse("--system redis --addr 127.0.0.1:1 --workload put --concurrency 3").expect("it is allowed");
        assert_eq!((args.connections, args.ycsb_keys), (3, false));
        let args = parse("--system etcd --addr 127.0.0.1:1 --workload ycsb-b --connections 9").expect("it is allowed");
        assert_eq!((args.connections, args.ycsb_keys), (9, true));
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        let refused = |line| parse(line).expect_err("refused");
        assert!(refused("--system mysql").starts_with("--system mysql"));
        assert!(refused("--system redis --addr 127.0.0.1:1 --workload txn").contains("only for etcd"));
        assert!(refused("--system redis --addr 127.0.0.1:1 --workload get --secunds 4").contains("--secunds: unknown"));
        assert!(refused("--system redis --addr 127.0.0.1:1 --workload get --seconds").contains("is missing"));
    }
}
