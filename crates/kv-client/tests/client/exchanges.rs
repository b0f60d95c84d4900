//! One connection and its requests: which reply belongs to which call, whether the connection may
//! be used again, and which calls wait for others.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use kv_api::thrift::generated::GetResponse;
use kv_api::thrift::{ThriftCall, ThriftReply};
use kv_client::{Bytes, Client, ClientError, KeyRef, Options, TransactionOptions};
use tokio::time::{Instant, advance};

use crate::clock::{STEP, passing, settle, without_time_passing};
use crate::peer::{Action, Gate, Peer};
use crate::store::Store;
use crate::{alone, connect};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// The value of each key is the key itself.
fn value_of(call: ThriftCall) -> ThriftReply {
    let ThriftCall::Get(request) = call else { panic!("a request that this test does not expect: {call:?}") };
    GetResponse { value: request.key, found: true, error: None, error_code: None, leader_endpoint: None }.into()
}

/// Treats one of the calls, counted from 0, in an odd way, and answers the others.
async fn peer_with(odd_one: usize, odd: impl Fn(ThriftReply) -> Action + Send + Sync + 'static) -> Peer {
    let asked = AtomicUsize::new(0);
    Peer::start(move |call| match asked.fetch_add(1, Ordering::SeqCst) == odd_one {
        true => odd(value_of(call)),
        false => Action::Reply(value_of(call)),
    })
    .await
}

async fn client(peers: &[&Peer], options: Options) -> Client {
    let addresses: Vec<String> = peers.iter().map(|peer| peer.address()).collect();
    passing(Client::connect(addresses, options)).await.expect("they are there")
}

fn timing(request_timeout: Duration, stall_timeout: Duration) -> Options {
    Options { request_timeout, stall_timeout, backoff_max: Duration::from_millis(20), ..Options::default() }
}

async fn get(client: &Client, key: &str) -> Result<Option<Bytes>, ClientError> {
    client.get(KeyRef::new(key.to_string())).await
}

type Odd = fn(ThriftReply) -> Action;

/// After any of these, nothing that arrives on the connection can be trusted.
fn disorders() -> BTreeMap<&'static str, Odd> {
    let twice: Odd = Action::Twice;
    let another: Odd = |reply| Action::UnderSequenceOf(reply, 1);
    let later: Odd = |reply| Action::UnderSequenceOf(reply, -1);
    let half: Odd = Action::HalfAndClose;
    let closed: Odd = Action::ReplyAndClose;
    let garbage: Odd = |_| Action::Bytes(vec![b'?'; 32]);
    BTreeMap::from([
        ("twice", twice),
        ("as the one before", another),
        ("as the one after", later),
        ("half and closed", half),
        ("closed", closed),
        ("something else", garbage),
    ])
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_order_is_broken_is_not_used_again_and_gives_no_wrong_answer() {
    for (name, odd) in disorders() {
        for odd_one in 0..3 {
            let peer = peer_with(odd_one, odd).await;
            let client = client(&[&peer], timing(LONG, LONG)).await;
            for key in ["a", "b", "c", "d", "e"] {
                match passing(get(&client, key)).await {
                    Ok(value) => assert_eq!(value.as_deref(), Some(key.as_bytes()), "{name}"),
                    // The reply is invalid, and there is no other server to ask.
                    Err(error) => assert!(matches!(error, ClientError::Malformed { .. }), "{name}: {error:?}"),
                }
                settle().await;
            }
            assert_eq!(peer.connections(), 2, "{name} at call {odd_one}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_get_their_own_answers_or_none() {
    let mut all = disorders();
    all.insert("after the next", Action::AfterTheNext);
    for (name, odd) in all {
        for odd_one in 0..8 {
            let peer = peer_with(odd_one, odd).await;
            let client = client(&[&peer], timing(LONG, SHORT)).await;
            let keys: Vec<String> = (0..8).map(|number| format!("key {number}")).collect();
            let values = passing(join_all(keys.iter().map(|key| get(&client, key)))).await;
            for (key, value) in keys.iter().zip(values) {
                match value {
                    Ok(value) => assert_eq!(value.as_deref(), Some(key.as_bytes()), "{name} at call {odd_one}"),
                    // No later reply revealed that this one was out of order.
                    Err(ClientError::DeadlineExceeded { .. }) => assert_eq!((name, odd_one), ("after the next", 7)),
                    Err(error) => assert!(matches!(error, ClientError::Malformed { .. }), "{name}: {error:?}"),
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_two_halves_is_one_answer_even_if_it_comes_too_late() {
    let gate = Gate::closed();
    let of_peer = gate.clone();
    let peer = peer_with(0, move |reply| Action::Halves(reply, of_peer.clone())).await;
    let client = client(&[&peer], timing(SHORT, LONG)).await;
    let error = passing(get(&client, "a")).await.expect_err("only half of an answer came");
    assert!(matches!(error, ClientError::DeadlineExceeded { .. }), "{error:?}");
    let (of_b, of_c) = (get(&client, "b"), get(&client, "c"));
    let mut both = pin!(futures_util::future::join(of_b, of_c));
    assert_eq!(without_time_passing(both.as_mut()).await, None, "their replies come after the other half");
    gate.open();
    let (b, c) = without_time_passing(both.as_mut()).await.expect("nothing holds them back");
    assert_eq!((b, c), (Ok(Some("b".into())), Ok(Some("c".into()))));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_that_of_a_later_call_is_given_to_neither() {
    let peer = peer_with(0, Action::AfterTheNext).await;
    let client = client(&[&peer], timing(SHORT, LONG)).await;
    passing(get(&client, "a")).await.expect_err("no answer came");
    let error = passing(get(&client, "b")).await.expect_err("the reply is out of order");
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
    assert_eq!(passing(get(&client, "c")).await, Ok(Some("c".into())));
    assert_eq!(peer.connections(), 2);
}

/// This holds no matter how many further calls arrive, each of which waits only for a short time.
#[tokio::test(start_paused = true)]
async fn a_connection_is_abandoned_once_its_oldest_call_is_overdue() {
    let peer = peer_with(0, |_| Action::Silence).await;
    let client = client(&[&peer], timing(SHORT, SHORT * 3)).await;
    let begun = Instant::now();
    let mut calls = Vec::new();
    loop {
        let client = client.clone();
        calls.push(tokio::spawn(async move { get(&client, "a").await }));
        settle().await;
        if peer.connections() > 1 {
            break;
        }
        assert!(begun.elapsed() < SHORT * 6, "the client still waits for it");
        advance(STEP * 20).await;
    }
    assert!(begun.elapsed() >= SHORT * 4, "it was abandoned after {:?}", begun.elapsed());
    assert_eq!(passing(get(&client, "b")).await, Ok(Some("b".into())));
}

#[tokio::test(start_paused = true)]
async fn reads_and_commits_do_not_wait_for_each_other() {
    for held_back in ["atomicCommit", "snapshotGet"] {
        let (store, gate) = (Store::default(), Gate::closed());
        let of_peer = gate.clone();
        let peer = store
            .replica(move |call, store| {
                let (store, owned) = (store.clone(), call.clone());
                let is_held = call.method().name() == held_back;
                is_held.then(|| Action::after(&of_peer, move || Action::Reply(store.serve(owned))))
            })
            .await;
        let patient = Options { attempt_timeout: LONG, stall_timeout: LONG, ..alone() };
        let db = passing(connect(&peer, patient)).await;
        passing(db.transaction().read_version()).await.expect("a version");
        let (reader, writer) = (db.transaction(), db.transaction());
        writer.set("k", "v");
        let reading = tokio::spawn(async move { reader.get("k").await.map(|_| ()) });
        settle().await;
        let writing = tokio::spawn(async move { writer.commit().await.map(|_| ()) });
        settle().await;
        assert_eq!(reading.is_finished(), held_back != "snapshotGet");
        assert_eq!(writing.is_finished(), held_back != "atomicCommit");
        gate.open();
        for task in [reading, writing] {
            assert_eq!(passing(task).await.expect("no panic"), Ok(()));
        }
    }
}

/// The replicas answer everything except for one kind of call.
#[tokio::test(start_paused = true)]
async fn every_wait_ends_at_the_deadline() {
    for silent in ["getReadVersion", "snapshotGet", "snapshotGetRange", "atomicCommit"] {
        for attempt_timeout in [Duration::from_millis(30), LONG] {
            let store = Store::default();
            store.set("k", "v");
            let fault = move |call: &ThriftCall, _: &Store| (call.method().name() == silent).then_some(Action::Silence);
            let peers = [store.replica(fault).await, store.replica(fault).await];
            let db = passing(connect(&peers[0], Options { attempt_timeout, stall_timeout: LONG, ..alone() })).await;
            let options = TransactionOptions { timeout: SHORT * 3, ..TransactionOptions::default() };
            let begun = Instant::now();
            let run = db.run_with(options, async |tx| {
                tx.get("k").await?;
                tx.get_range("a".."z").all().await?;
                tx.set("k", "w");
                Ok::<_, ClientError>(())
            });
            let error = passing(run).await.expect_err("no replica answers");
            let most = options.timeout + SHORT * 2;
            assert!(begun.elapsed() < most, "{silent}: it took {:?}", begun.elapsed());
            assert_eq!(error.maybe_committed(), silent == "atomicCommit", "{error:?}");
        }
    }
}

/// The first server answers late, the second one closes the connection late, and the third one
/// sends half of an answer.
#[tokio::test(start_paused = true)]
async fn a_read_is_answered_by_any_endpoint_that_can() {
    let (gate, breaking) = (Gate::closed(), Gate::closed());
    let asked = Arc::new(AtomicUsize::new(0));
    let (late, end, count) = (gate.clone(), breaking.clone(), asked.clone());
    let first = Peer::start(move |call| {
        count.fetch_add(1, Ordering::SeqCst);
        let reply = value_of(call);
        Action::after(&late, move || Action::Reply(reply))
    })
    .await;
    let second = Peer::start(move |_| Action::after(&end, || Action::Close)).await;
    let third = Peer::start(|call| Action::HalfAndClose(value_of(call))).await;
    let options = Options { hedge_after: SHORT / 10, ..timing(LONG, LONG) };
    let client = client(&[&first, &second, &third], options).await;
    let mut reading = pin!(get(&client, "a"));
    for _ in 0..3 {
        assert_eq!(without_time_passing(reading.as_mut()).await, None);
        advance(SHORT).await;
    }
    breaking.open();
    assert_eq!(without_time_passing(reading.as_mut()).await, None, "two have failed, but the first may still answer");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the client waits for its first answer");
    gate.open();
    assert_eq!(without_time_passing(reading.as_mut()).await, Some(Ok(Some("a".into()))));
    assert_eq!(passing(get(&client, "b")).await, Ok(Some("b".into())));
}

/// A server that reads half of a large request and closes has not executed it, but the client
/// cannot know that.
#[tokio::test(start_paused = true)]
async fn a_write_of_which_only_a_part_was_sent_is_in_doubt() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let closing = Gate::closed();
    let of_server = closing.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the client connects");
        answer_ping(&mut stream).await;
        of_server.opened().await;
        drop((stream, listener));
    });
    let client = passing(Client::connect([address], timing(SHORT * 10, LONG))).await.expect("it is there");
    // More than the socket buffers hold.
    let value = vec![b'v'; 64 << 20];
    let mut setting = pin!(client.set(KeyRef::new("k"), value));
    assert_eq!(without_time_passing(setting.as_mut()).await, None);
    closing.open();
    let error = passing(setting).await.expect_err("the connection is lost");
    assert!(matches!(error, ClientError::ConnectionLost { .. }) && error.maybe_committed(), "{error:?}");
}

async fn answer_ping(stream: &mut tokio::net::TcpStream) {
    use kv_api::thrift::generated::PingResponse;
    use kv_api::thrift::wire::{self, Encoding};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let count = stream.read(&mut [0; 256]).await.expect("a ping");
    assert!(count > 0, "the client closed the connection");
    let pong = PingResponse { message: b"pong".to_vec(), timestamp: 0, server_timestamp: 1 };
    let mut output = Vec::new();
    wire::encode_reply(&mut output, Encoding::default(), b"ping", 0, &pong.into());
    stream.write_all(&output).await.expect("the client reads");
}
