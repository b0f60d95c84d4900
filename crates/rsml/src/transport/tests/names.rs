//! Peers whose addresses are names.

use std::net::Ipv4Addr;

use super::*;

/// The top-level domain `.invalid` is reserved for names that never resolve.
const NOBODY: &str = "replica-2.invalid:9290";

fn trouble(node: &Node, of: ReplicaId) -> Option<Arc<Trouble>> {
    node.transport.troubles().get(&of).cloned()
}

/// Waits for trouble of that kind.
pub(super) fn wait_for_trouble(node: &Node, of: ReplicaId, kind: TroubleKind) -> Arc<Trouble> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match trouble(node, of) {
            Some(trouble) if trouble.kind == kind => return trouble,
            other => assert!(Instant::now() < deadline, "{other:?} is not {kind:?}"),
        }
        std::thread::yield_now();
    }
}

/// Options for A with this name as the address of B.
fn options_with_b_at(network: &mut Network, b: &str) -> TcpOptions {
    let mut options = network.options(A);
    options.membership = Membership::new(A, [A, B, C]);
    options.membership.set_addresses(B, Addresses::of_peer(b));
    options.membership.set_addresses(C, Addresses::of_peer(NOBODY));
    options
}

#[test]
fn a_peer_is_found_by_its_name() {
    let mut network = Network::on(Ipv4Addr::LOCALHOST, 2);
    let port = network.peers[1].1.port();
    let options = options_with_b_at(&mut network, &format!("localhost:{port}"));
    let (mut a, mut b) = (network.start_with(options), network.start(B));
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    while !arrives_soon(&network, &a, &mut b, envelope(A, B, "by name", vec![])) {}
    assert_eq!(trouble(&a, B), None);
}

#[test]
fn a_name_that_does_not_resolve_is_reported_and_affects_no_other_peer() {
    let mut network = Network::on(Ipv4Addr::LOCALHOST, 2);
    let port = network.peers[1].1.port();
    let options = options_with_b_at(&mut network, &format!("127.0.0.1:{port}"));
    let (mut a, _b) = (network.start_with(options), network.start(B));
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    let found = wait_for_trouble(&a, C, TroubleKind::Unresolved);
    assert_eq!(found.address, NOBODY);
    assert!(found.reason.contains("cannot resolve"), "{}", found.reason);
}

#[test]
fn a_peer_that_is_down_is_reported_until_it_is_up() {
    let mut network = Network::on(Ipv4Addr::LOCALHOST, 2);
    let b_options = network.options(B);
    let listener = b_options.listener.expect("a listener");
    let mut a = network.start(A);
    drop(listener);
    wait_for_trouble(&a, B, TroubleKind::Unreachable);
    let _b = network.start(B);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    assert_eq!(trouble(&a, B), None);
}

#[test]
fn a_replica_whose_own_name_does_not_resolve_runs_and_reaches_the_others() {
    let mut network = Network::on(Ipv4Addr::LOCALHOST, 2);
    let mut options = network.options(A);
    options.listener = None;
    options.listen = "replica-0.invalid:9290".into();
    let (mut a, mut b) = (network.start_with(options), network.start(B));
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    assert_eq!(a.transport.local_address(), None);
    wait_for_trouble(&a, A, TroubleKind::Unresolved);
    while !arrives_soon(&network, &a, &mut b, envelope(A, B, "from the nameless", vec![])) {}
}

#[test]
fn a_replica_listens_on_the_address_of_its_own_name() {
    let mut network = Network::on(Ipv4Addr::LOCALHOST, 1);
    let mut options = network.options(A);
    drop(options.listener.take());
    options.listen = format!("localhost:{}", network.peers[0].1.port()).as_str().into();
    let a = network.start_with(options);
    let deadline = Instant::now() + Duration::from_secs(20);
    while a.transport.local_address().is_none() {
        assert!(Instant::now() < deadline, "it does not listen: {:?}", a.transport.troubles());
        std::thread::yield_now();
    }
    assert_eq!(trouble(&a, A), None);
}
