//! A fake admin interface of replicas that hold different rows, which a real cluster never should.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

type Rows = Vec<(String, String)>;

pub struct FakeReplicas {
    pub address: String,
    status: Arc<Mutex<Value>>,
}

impl FakeReplicas {
    /// Each item holds the rows of one replica, in key order.
    pub fn start(replicas: Vec<Rows>) -> FakeReplicas {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let each = (0..replicas.len()).map(|id| replica_status(id, &address));
        let status = json!({
            "mode": "replicated", "primary": 0, "column_families": ["default"], "replicas": each.collect::<Vec<_>>()
        });
        let status = Arc::new(Mutex::new(status));
        let shared = status.clone();
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (replicas, status) = (replicas.clone(), shared.clone());
                std::thread::spawn(move || serve(stream.expect("a connection"), &replicas, &status));
            }
        });
        FakeReplicas { address, status }
    }

    /// Adds a replica to the status, at an address where no server answers.
    pub fn announce_unreachable(&self, id: usize, admin: &str) {
        let mut status = self.status.lock().expect("no panic while locked");
        status["replicas"].as_array_mut().expect("a list").push(replica_status(id, admin));
    }

    /// Removes the primary from the status.
    pub fn lose_the_primary(&self) {
        self.status.lock().expect("no panic while locked")["primary"] = Value::Null;
    }

    /// Adds a problem to the status.
    pub fn list_problem(&self, problem: Value) {
        self.status.lock().expect("no panic while locked")["problems"] = json!([problem]);
    }

    /// Sets a field of the status.
    pub fn set(&self, field: &str, value: Value) {
        self.status.lock().expect("no panic while locked")[field] = value;
    }

    /// Sets a field of a replica in the status.
    pub fn set_of_replica(&self, id: usize, field: &str, value: Value) {
        self.status.lock().expect("no panic while locked")["replicas"][id][field] = value;
    }

    /// Sets the problem of a replica in the status.
    pub fn set_problem(&self, id: usize, problem: &str) {
        let mut status = self.status.lock().expect("no panic while locked");
        status["replicas"][id]["problem"] = problem.into();
    }
}

fn replica_status(id: usize, admin: &str) -> Value {
    json!({ "id": id, "role": "secondary", "reachable": true, "admin": admin })
}

fn serve(mut stream: TcpStream, replicas: &[Rows], status: &Mutex<Value>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    while let Some(Ok(request)) = lines.next() {
        for header in lines.by_ref() {
            if header.expect("a header").is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).expect("GET PATH HTTP/1.1");
        let body = match path.split_once('?') {
            None => status.lock().expect("no panic while locked").to_string(),
            Some((_, query)) => hash(query, replicas).to_string(),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn hash(query: &str, replicas: &[Rows]) -> Value {
    let parameter = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(n, _)| *n == name).map(|(_, value)| value.to_string()).next().expect("the parameter is given")
    };
    let begin: Vec<u8> = (0..parameter("begin").len() / 2)
        .map(|i| u8::from_str_radix(&parameter("begin")[2 * i..][..2], 16).expect("hexadecimal"))
        .collect();
    let limit: usize = parameter("limit").parse().expect("a number");
    let rows = &replicas[parameter("replica").parse::<usize>().expect("a number")];
    let rows: Vec<_> = rows.iter().filter(|(key, _)| key.as_bytes() >= &begin[..]).collect();
    let page = &rows[..limit.min(rows.len())];
    let mut hasher = DefaultHasher::new();
    page.hash(&mut hasher);
    let hex = |key: &String| key.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let next = rows.get(limit).map(|(key, _)| hex(key));
    json!({ "count": page.len(), "hash": format!("{:016x}", hasher.finish()), "next": next })
}
