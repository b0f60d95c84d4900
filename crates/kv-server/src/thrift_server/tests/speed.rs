//! Measures calls per second. Not a test: run it by name with `--ignored --nocapture`, in a release
//! build.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::get;
use super::*;

/// Each connection sends `depth` calls at a time and waits for their replies.
async fn calls_per_second(connections: usize, depth: usize, rounds: usize) -> f64 {
    let server = TestServer::with_defaults().await;
    let mut tasks = tokio::task::JoinSet::new();
    let began = Instant::now();
    for _ in 0..connections {
        let mut client = server.client().await;
        tasks.spawn(async move {
            let mut batch = Vec::new();
            for _ in 0..depth {
                batch.extend(client.encode(kv_api::thrift::generated::PingRequest::default()));
            }
            client.send(get("k")).await;
            client.receive_value().await;
            client.send_bytes(&batch).await;
            let mut length = 0;
            for _ in 0..depth {
                length += client.receive_bytes().await.expect("a reply").0.len();
            }
            let mut reply = vec![0; length];
            for _ in 1..rounds {
                client.stream.write_all(&batch).await.expect("the server reads");
                client.stream.read_exact(&mut reply).await.expect("the server answers");
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    let seconds = began.elapsed().as_secs_f64();
    server.stop().await;
    (connections * depth * rounds) as f64 / seconds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_calls_per_second() {
    println!("64 connections, one call at a time: {:.0}/s", calls_per_second(64, 1, 5_000).await);
    println!("64 connections, 100 calls at a time: {:.0}/s", calls_per_second(64, 100, 500).await);
}
