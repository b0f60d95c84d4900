use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// Longer than anything takes in a test that passes.
const LONG: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_millis(10);

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// A port on which nothing listens any more.
async fn dead_address() -> SocketAddr {
    listener().await.1
}

/// Neither accepts nor refuses connections: its queue is full, so the system drops the first packet
/// of every further connection.
struct Hung {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

async fn hung_listener() -> Hung {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let listener = socket.listen(1).expect("it listens");
    let address = listener.local_addr().expect("it is bound");
    let mut queued = Vec::new();
    while let Ok(stream) = time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream.expect("there is room in the queue"));
    }
    Hung { address, _listener: listener, _queued: queued }
}

async fn reached(addresses: &[SocketAddr], head_start: Duration) -> io::Result<SocketAddr> {
    let connected = time::timeout(LONG, connect_to_any(addresses, head_start)).await;
    connected.expect("it ends").and_then(|stream| stream.peer_addr())
}

#[test]
fn the_address_families_alternate_beginning_with_the_first_one() {
    let v4 = |last| SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 1));
    let v6 = |last| SocketAddr::from((Ipv6Addr::new(1, 0, 0, 0, 0, 0, 0, last), 1));
    assert_eq!(families_in_turn(&[v6(1), v6(2), v6(3), v4(1), v4(2)]), [v6(1), v4(1), v6(2), v4(2), v6(3)]);
    assert_eq!(families_in_turn(&[v4(1), v6(1)]), [v4(1), v6(1)]);
    assert_eq!(families_in_turn(&[]), []);
}

#[tokio::test]
async fn an_address_that_hangs_delays_the_next_one_by_its_head_start_only() {
    let (hung, (_listener, good)) = (hung_listener().await, listener().await);
    assert_eq!(reached(&[hung.address, good], SOON).await.expect("one answers"), good);
}

#[tokio::test]
async fn an_address_that_refuses_does_not_delay_the_next_one() {
    let (dead, (_listener, good)) = (dead_address().await, listener().await);
    // The head start is longer than the time limit of the test.
    assert_eq!(reached(&[dead, dead, good], 2 * LONG).await.expect("one answers"), good);
}

#[tokio::test]
async fn an_address_that_is_slower_than_its_head_start_is_not_abandoned() {
    let ((_listener, good), dead) = (listener().await, dead_address().await);
    assert_eq!(reached(&[good, dead], Duration::ZERO).await.expect("one answers"), good);
}

#[tokio::test]
async fn if_no_address_answers_the_last_refusal_is_the_error() {
    let dead = dead_address().await;
    let error = reached(&[dead, dead], SOON).await.expect_err("nothing listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    let error = reached(&[], SOON).await.expect_err("no address");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn numeric_addresses_need_no_look_up() {
    let mut literal = Name::new("[::1]:90");
    let found = literal.look_up(LONG).await.expect("an address");
    assert_eq!(found, [SocketAddr::from((Ipv6Addr::LOCALHOST, 90))]);
    assert_eq!(literal.last_known(), found);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_an_error_that_says_so() {
    let mut missing = Name::new("nobody.invalid:90");
    let error = missing.look_up(LONG).await.expect_err("the domain is reserved for names that never resolve");
    assert!(error.to_string().contains("lookup"), "{error}");
    assert!(missing.last_known().is_empty());
}

#[tokio::test]
async fn a_look_up_that_takes_long_is_not_started_again() {
    let (reply, pending) = oneshot::channel();
    let mut slow = Name { address: "nobody.invalid:90".into(), pending: Some(pending), last_known: Vec::new() };
    let error = slow.look_up(SOON).await.expect_err("no answer yet");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 90));
    reply.send(Ok(vec![address])).expect("somebody waits");
    assert_eq!(slow.look_up(LONG).await.expect("the answer"), [address]);
}
