//! One connection and its exchanges: whose answer is whose, which connection may be used again, and who waits for whom.

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

use crate::clock::{STEP, passing, settle, standing_still};
use crate::peer::{Action, Gate, Peer};
use crate::store::Store;
use crate::{alone, connect};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

/// The value of each key is its name.
fn value_of(call: ThriftCall) -> ThriftReply {
    let ThriftCall::Get(request) = call else { panic!("a request that this test does not expect: {call:?}") };
    GetResponse { value: request.key, found: true, error: None, error_code: None, leader_endpoint: None }.into()
}

/// Does something else with one of the calls, counted from 0; answers the others.
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

/// After any of these nothing more can be believed that comes on the connection.
fn disorders() -> BTreeMap<&'static str, Odd> {
    let twice: Odd = Action::Twice;
    let another: Odd = |reply| Action::AsAnEarlierOne(reply, 1);
    let later: Odd = |reply| Action::AsAnEarlierOne(reply, -1);
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
async fn a_connection_whose_order_is_broken_is_not_used_again_and_misleads_nobody() {
    for (name, odd) in disorders() {
        for odd_one in 0..3 {
            let peer = peer_with(odd_one, odd).await;
            let client = client(&[&peer], timing(LONG, LONG)).await;
            for key in ["a", "b", "c", "d", "e"] {
                match passing(get(&client, key)).await {
                    Ok(value) => assert_eq!(value.as_deref(), Some(key.as_bytes()), "{name}"),
                    // Nobody else can be asked, and the answer makes no sense.
                    Err(error) => assert!(matches!(error, ClientError::Malformed { .. }), "{name}: {error:?}"),
                }
                settle().await;
            }
            assert_eq!(peer.connections(), 2, "{name} at call {odd_one}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_side_by_side_get_their_own_answers_or_none_whatever_happens_between_them() {
    let mut all = disorders();
    all.insert("strayed", Action::Stray);
    for (name, odd) in all {
        for odd_one in 0..8 {
            let peer = peer_with(odd_one, odd).await;
            let client = client(&[&peer], timing(LONG, SHORT)).await;
            let keys: Vec<String> = (0..8).map(|number| format!("key {number}")).collect();
            let values = passing(join_all(keys.iter().map(|key| get(&client, key)))).await;
            for (key, value) in keys.iter().zip(values) {
                match value {
                    Ok(value) => assert_eq!(value.as_deref(), Some(key.as_bytes()), "{name} at call {odd_one}"),
                    // Nothing came behind it that would have shown that it went astray.
                    Err(ClientError::DeadlineExceeded { .. }) => assert_eq!((name, odd_one), ("strayed", 7)),
                    Err(error) => assert!(matches!(error, ClientError::Malformed { .. }), "{name}: {error:?}"),
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_two_halves_is_one_answer_and_may_come_too_late() {
    let gate = Gate::closed();
    let of_peer = gate.clone();
    let peer = peer_with(0, move |reply| Action::Halves(reply, of_peer.clone())).await;
    let client = client(&[&peer], timing(SHORT, LONG)).await;
    let error = passing(get(&client, "a")).await.expect_err("half of an answer came");
    assert!(matches!(error, ClientError::DeadlineExceeded { .. }), "{error:?}");
    let (of_b, of_c) = (get(&client, "b"), get(&client, "c"));
    let mut both = pin!(futures_util::future::join(of_b, of_c));
    assert_eq!(standing_still(both.as_mut()).await, None, "they come behind the other half");
    gate.open();
    let (b, c) = standing_still(both.as_mut()).await.expect("nothing is in their way");
    assert_eq!((b, c), (Ok(Some("b".into())), Ok(Some("c".into()))));
    assert_eq!(peer.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_strays_behind_that_of_a_later_call_is_given_to_neither() {
    let peer = peer_with(0, Action::Stray).await;
    let client = client(&[&peer], timing(SHORT, LONG)).await;
    passing(get(&client, "a")).await.expect_err("no answer came");
    let error = passing(get(&client, "b")).await.expect_err("what comes is out of order");
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
    assert_eq!(passing(get(&client, "c")).await, Ok(Some("c".into())));
    assert_eq!(peer.connections(), 2);
}

/// However many calls go on coming, each of which waits a short time only.
#[tokio::test(start_paused = true)]
async fn a_connection_is_given_up_when_its_oldest_call_is_overdue() {
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
        assert!(begun.elapsed() < SHORT * 6, "it is still waited for");
        advance(STEP * 20).await;
    }
    assert!(begun.elapsed() >= SHORT * 4, "it was given up after {:?}", begun.elapsed());
    assert_eq!(passing(get(&client, "b")).await, Ok(Some("b".into())));
}

#[tokio::test(start_paused = true)]
async fn a_read_does_not_wait_behind_a_commit_nor_a_commit_behind_a_read() {
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

/// Some connect, and say nothing; some do not answer one kind of call.
#[tokio::test(start_paused = true)]
async fn whatever_is_waited_for_ends_at_the_deadline() {
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
            let error = passing(run).await.expect_err("nobody answers");
            let most = options.timeout + SHORT * 2;
            assert!(begun.elapsed() < most, "{silent}: it took {:?}", begun.elapsed());
            assert_eq!(error.maybe_committed(), silent == "atomicCommit", "{error:?}");
        }
    }
}

/// The first one hangs with its answer ready; the second one breaks off late, and the third one in the middle.
#[tokio::test(start_paused = true)]
async fn a_read_of_many_endpoints_is_answered_by_whichever_can() {
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
        assert_eq!(standing_still(reading.as_mut()).await, None);
        advance(SHORT).await;
    }
    breaking.open();
    assert_eq!(standing_still(reading.as_mut()).await, None, "two have failed, and the first one may still answer");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "its first answer is waited for");
    gate.open();
    assert_eq!(standing_still(reading.as_mut()).await, Some(Ok(Some("a".into()))));
    assert_eq!(passing(get(&client, "b")).await, Ok(Some("b".into())));
}

/// A server that takes half of a large request and closes has not carried it out, but the client cannot know.
#[tokio::test(start_paused = true)]
async fn a_request_of_which_a_part_was_sent_is_in_doubt() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let written = Arc::new(Gate::closed());
    let closing = written.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the client connects");
        answer_ping(&mut stream).await;
        closing.opened().await;
        drop((stream, listener));
    });
    let client = passing(Client::connect([address], timing(SHORT * 10, LONG))).await.expect("it is there");
    // More than sockets take that nobody reads.
    let value = vec![b'v'; 64 << 20];
    let mut setting = pin!(client.set(KeyRef::new("k"), value));
    assert_eq!(standing_still(setting.as_mut()).await, None);
    written.open();
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
