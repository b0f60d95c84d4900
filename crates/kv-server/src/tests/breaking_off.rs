//! Tests of clients that leave while their writes are in flight, with a real database. Each write
//! takes effect at most once, and exactly once if its client got a success.

use std::collections::HashMap;

use kv_api::thrift::wire as codec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const WRITES: u32 = 12;

/// Writes that each add one more row whenever they are executed.
fn writes(round: u32) -> Vec<Vec<u8>> {
    let write = |number: u32| {
        let prefix = format!("{round:04} {number:02} ");
        let call =
            wire::SetVersionstampedKeyRequest::new([prefix.as_bytes(), &[0; 10]].concat(), vec![1], None, None).into();
        let mut bytes = Vec::new();
        codec::encode_call(&mut bytes, codec::Encoding::default(), number as i32, &call);
        bytes
    };
    (0..WRITES).map(write).collect()
}

/// The number of rows that each write of a round has added.
async fn rows(client: &mut Client, round: u32) -> HashMap<u32, usize> {
    let (begin, end) = (format!("{round:04} "), format!("{round:04}!"));
    let range = wire::GetRangeRequest {
        begin_key: Some(begin.into_bytes()),
        end_key: Some(end.into_bytes()),
        limit: Some(0),
        ..everything()
    };
    let mut rows = HashMap::new();
    for row in client.call(range).await.key_values {
        let number = String::from_utf8_lossy(&row.key[5..7]).parse().expect("a number");
        *rows.entry(number).or_default() += 1;
    }
    rows
}

/// Whether only the witness is connected.
async fn is_alone(server: &TestServer) -> bool {
    let page = super::http_client().get(server.url("/metrics")).send().await.expect("the admin interface answers");
    let page = page.text().await.expect("a page");
    page.lines().any(|line| line == "synodkv_connections_open 1")
}

#[tokio::test]
async fn of_writes_whose_client_goes_away_at_any_byte_each_takes_effect_at_most_once() {
    let server = TestServer::start().await;
    let mut witness = server.client().await;
    let length: usize = writes(0).iter().map(Vec::len).sum();
    for (round, cut) in (0u32..).zip((0..=length).step_by(11)) {
        let writes = writes(round);
        let mut stream = TcpStream::connect(server.manager.thrift_addr()).await.expect("the server listens");
        stream.write_all(&writes.concat()[..cut]).await.expect("the server reads");
        // Some clients leave before their first reply, some after it, and some with a reset.
        let mut reply = [0; 40];
        let is_answered = round % 3 == 0 && cut >= writes[0].len();
        if is_answered {
            stream.read_exact(&mut reply).await.expect("a reply");
        }
        if round % 2 == 0 {
            stream.set_zero_linger().expect("a socket");
        }
        drop(stream);
        let mut end = 0;
        let whole = writes.iter().take_while(|write| {
            end += write.len();
            end <= cut
        });
        let whole = u32::try_from(whole.count()).expect("a few");
        // Writes are executed in the order in which they began, so none can follow after one more.
        while !is_alone(&server).await {
            tokio::task::yield_now().await;
        }
        witness.call(set(b"behind", b"all")).await;
        let rows = rows(&mut witness, round).await;
        assert!(
            rows.iter().all(|(number, times)| *number < whole && *times == 1),
            "round {round}, cut {cut}: {rows:?}"
        );
        assert!(!is_answered || rows.contains_key(&0), "round {round}: it was answered and did not happen");
    }
}
