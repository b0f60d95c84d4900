//! The gate with a policy that the test sets: identities, epochs, and what each method and route
//! needs.

mod oracle;
mod under_way;

use std::net::SocketAddr;
use std::sync::RwLock;

use kv_api::access::{AccessChange, AccessCommand, AddUser, DisableUser, Keys, Need, SetRole, TokenRecord};

use super::*;
use crate::thrift_server::Method;

/// A policy in memory. Product code has it from the applied state of the replica.
#[derive(Default)]
pub struct TestPolicy(RwLock<Arc<Policy>>);

impl TestPolicy {
    pub fn change(&self, change: impl Into<AccessChange>) {
        let mut policy = self.0.write().expect("no panic");
        let mut next = Policy::clone(&policy);
        next.change(&change.into(), now_us()).expect("the change is accepted");
        *policy = Arc::new(next);
    }
}

impl PolicySource for TestPolicy {
    fn enabled_revision(&self) -> u64 {
        let policy = self.policy();
        if policy.enabled { policy.revision } else { 0 }
    }

    fn policy(&self) -> Arc<Policy> {
        self.0.read().expect("no panic").clone()
    }

    fn check_fresh(&self) -> Result<(), KvError> {
        Ok(())
    }
}

pub fn token(id: u64) -> String {
    token_text(id, &[id as u8; 32])
}

fn record(id: u64, user: &str) -> TokenRecord {
    TokenRecord { id, sha256: digest_of(&token(id)).to_vec().into(), user: user.into(), ..TokenRecord::default() }
}

fn add_user(name: &str, roles: &[&str]) -> AccessCommand {
    AccessCommand::AddUser(AddUser { name: name.into(), roles: roles.iter().map(ToString::to_string).collect() })
}

fn set_role(name: &str, grants: &[&str]) -> AccessCommand {
    let grants = grants.iter().map(|grant| grant.parse().expect("a grant")).collect();
    AccessCommand::SetRole(SetRole { name: name.into(), grants })
}

/// Enabled: token 1 is that of root, 2 that of `eve`, who reads and writes `a` to `b` in `f`.
pub fn gate() -> (Arc<TestPolicy>, Gate) {
    let policy = Arc::new(TestPolicy::default());
    policy.change(set_role("some", &["read,write f range:a..b"]));
    policy.change(add_user("eve", &["some"]));
    policy.change(AccessCommand::AddToken(record(2, "eve")));
    policy.change(AccessCommand::Enable(record(1, "")));
    let gate = Gate::new(policy.clone(), None, false);
    (policy, gate)
}

fn session_from(address: &str) -> Arc<Session> {
    Arc::new(Session::new(ConnectionFacts::plain(address.parse::<SocketAddr>().expect("an address"), None)))
}

pub fn session() -> Arc<Session> {
    session_from("127.0.0.1:1")
}

fn admit(gate: &Gate, session: &Arc<Session>, rule: Rule) -> Result<Caller, KvError> {
    gate.admit(session, None, "test", rule)
}

fn user_of(caller: Result<Caller, KvError>) -> String {
    caller.expect("admitted").granted().expect("checked").rights.user().to_owned()
}

fn is_unauthenticated<T>(result: Result<T, KvError>) -> bool {
    matches!(result, Err(KvError::Unauthenticated(_)))
}

#[test]
fn a_connection_has_no_identity_until_it_proves_one() {
    let (_, gate) = gate();
    let session = session();
    assert!(is_unauthenticated(admit(&gate, &session, Rule::Identified)));
    assert!(admit(&gate, &session, Rule::Open).is_ok());
    assert_eq!(gate.authenticate(&session, &token(2)), Ok(Some("eve".into())));
    assert_eq!(user_of(admit(&gate, &session, Rule::Operation)), "eve");
    assert_eq!(gate.authenticate(&session, &token(1)), Ok(Some("root".into())));
    assert_eq!(user_of(admit(&gate, &session, Rule::Operation)), "root");
}

#[test]
fn a_failed_authentication_takes_the_identity_away() {
    let (_, gate) = gate();
    let session = session();
    let wrong = token(2).replace("0202", "0203");
    for bad in ["", "x", "synodkv_", &wrong, &token(3), &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        assert!(gate.authenticate(&session, &token(2)).is_ok());
        assert!(is_unauthenticated(gate.authenticate(&session, bad)), "{bad}");
        assert!(is_unauthenticated(admit(&gate, &session, Rule::Identified)), "{bad}");
    }
}

/// It was made at another server, and this one had not heard of it.
#[test]
fn a_refused_token_counts_once_the_server_has_heard_of_it() {
    let (policy, gate) = gate();
    let session = session();
    assert!(is_unauthenticated(gate.authenticate(&session, &token(3))));
    assert!(is_unauthenticated(admit(&gate, &session, Rule::Identified)) && !gate.knows(&session));
    policy.change(AccessCommand::AddToken(record(3, "eve")));
    assert_eq!(user_of(admit(&gate, &session, Rule::Identified)), "eve");
}

#[test]
fn no_error_holds_a_part_of_the_token() {
    let (_, gate) = gate();
    let secret = token(3);
    let error = gate.authenticate(&session(), &secret).expect_err("unknown").to_string();
    assert!(!error.contains(&secret[25..33]), "{error}");
    let error = gate.admit(&session(), Some(&secret), "test", Rule::Operation).expect_err("unknown").to_string();
    assert!(!error.contains(&secret[25..33]), "{error}");
}

#[test]
fn the_token_of_a_request_counts_for_that_request_alone() {
    let (policy, gate) = gate();
    let session = session();
    gate.authenticate(&session, &token(2)).expect("eve");
    let of_request = |token: &str| gate.admit(&session, Some(token), "test", Rule::Operation);
    for _ in 0..2 {
        assert_eq!(user_of(of_request(&token(1))), "root");
        assert_eq!(user_of(admit(&gate, &session, Rule::Operation)), "eve");
        assert!(is_unauthenticated(of_request(&token(9))), "the connection's identity does not step in");
    }
    policy.change(AccessCommand::RevokeToken(2));
    assert!(is_unauthenticated(of_request(&token(2))));
}

#[test]
fn a_certificate_identifies_its_user() {
    let (policy, gate) = gate();
    let facts = |user: &str| ConnectionFacts {
        encrypted: true,
        certificate_user: Some(user.into()),
        ..ConnectionFacts::plain("10.0.0.1:1".parse().expect("an address"), None)
    };
    let (eve, nobody) = (Arc::new(Session::new(facts("eve"))), Arc::new(Session::new(facts("nobody"))));
    assert!(gate.knows(&eve) && !gate.knows(&nobody), "before the first request");
    assert_eq!(user_of(admit(&gate, &eve, Rule::Operation)), "eve");
    assert!(is_unauthenticated(admit(&gate, &nobody, Rule::Operation)));
    policy.change(AccessCommand::DisableUser(DisableUser { name: "eve".into(), disabled: true }));
    assert!(is_unauthenticated(admit(&gate, &eve, Rule::Operation)));
}

#[test]
fn a_change_of_the_policy_holds_for_the_next_request_of_every_connection() {
    let (policy, gate) = gate();
    let session = session();
    gate.authenticate(&session, &token(2)).expect("eve");
    let need = Need::of(Verb::Write, "f", Keys::One(b"a"));
    let may = || admit(&gate, &session, Rule::Operation).and_then(|caller| caller.check(&need));
    assert_eq!(may(), Ok(()));
    policy.change(set_role("some", &["read f range:a..b"]));
    assert!(matches!(may(), Err(KvError::Forbidden(_))));
    policy.change(set_role("some", &["write f"]));
    assert_eq!(may(), Ok(()));
    policy.change(AccessCommand::RevokeToken(2));
    assert!(is_unauthenticated(may()));
    policy.change(AccessCommand::AddToken(record(2, "eve")));
    assert_eq!(may(), Ok(()));
    policy.change(AccessCommand::Disable(true));
    assert_eq!(may(), Ok(()));
}

#[test]
fn rights_are_worked_out_once_for_each_revision() {
    let (policy, gate) = gate();
    let session = session();
    gate.authenticate(&session, &token(2)).expect("eve");
    let granted = |caller: &Caller| std::ptr::from_ref(caller.granted().expect("checked"));
    let first = admit(&gate, &session, Rule::Operation).expect("eve");
    let second = admit(&gate, &session, Rule::Operation).expect("eve");
    assert_eq!(granted(&first), granted(&second));
    policy.change(add_user("adam", &[]));
    let third = admit(&gate, &session, Rule::Operation).expect("eve");
    assert_ne!(granted(&first), granted(&third));
}

#[test]
fn a_token_ends_with_its_time() {
    let (policy, gate) = gate();
    policy.change(AccessCommand::AddToken(TokenRecord { expires_us: now_us() + 60_000_000, ..record(4, "eve") }));
    policy.change(AccessCommand::AddToken(TokenRecord { expires_us: 1, ..record(5, "eve") }));
    assert!(gate.authenticate(&session(), &token(4)).is_ok());
    let session = session();
    assert!(is_unauthenticated(gate.authenticate(&session, &token(5))));
    assert!(is_unauthenticated(admit(&gate, &session, Rule::Identified)));
    assert!(is_unauthenticated(gate.admit(&session, Some(&token(5)), "test", Rule::Operation)));
}

#[test]
fn a_token_presented_before_authentication_is_enabled_counts_afterwards() {
    let (policy, gate) = gate();
    policy.change(AccessCommand::Disable(true));
    let (good, bad) = (session(), session());
    assert_eq!(gate.authenticate(&good, &token(2)), Ok(None));
    assert_eq!(gate.authenticate(&bad, &token(9)), Ok(None), "nothing is checked yet");
    policy.change(AccessCommand::Enable(record(1, "")));
    assert_eq!(user_of(admit(&gate, &good, Rule::Operation)), "eve");
    assert!(is_unauthenticated(admit(&gate, &bad, Rule::Operation)));
}

#[test]
fn a_server_in_the_network_serves_nobody_until_authentication_is_enabled() {
    let policy = Arc::new(TestPolicy::default());
    let gate = Gate::new(policy.clone(), None, true);
    let (here, there) = (session(), session_from("10.0.0.1:1"));
    let auth = Rule::Cluster(Verb::AdminAuth);
    for rule in [Rule::Identified, Rule::Operation, Rule::Cluster(Verb::AdminStatus)] {
        assert!(is_unauthenticated(admit(&gate, &here, rule)), "{rule:?}");
    }
    assert!(is_unauthenticated(admit(&gate, &there, auth)));
    assert!(admit(&gate, &there, Rule::Open).is_ok());
    assert!(admit(&gate, &here, auth).is_ok());
    policy.change(AccessCommand::Enable(record(1, "")));
    assert!(is_unauthenticated(admit(&gate, &here, auth)), "from now on, a token is needed here as well");
    assert!(gate.admit(&there, Some(&token(1)), "test", auth).is_ok());
}

#[test]
fn every_method_and_every_route_but_the_open_ones_needs_an_identity() {
    let (_, gate) = gate();
    let open: Vec<&str> = Method::ALL
        .iter()
        .map(|method| (method.name(), rule_of_method(*method)))
        .chain(Route::ALL.map(|route| (route.name(), route.rule())))
        .filter(|(_, rule)| admit(&gate, &session(), *rule).is_ok())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(open, ["ping", "authenticate", "GET /health/live", "GET /health/ready"]);
}

#[test]
fn a_user_without_roles_may_do_nothing() {
    let (policy, gate) = gate();
    policy.change(add_user("nobody", &[]));
    policy.change(AccessCommand::AddToken(record(6, "nobody")));
    let session = session();
    gate.authenticate(&session, &token(6)).expect("a user");
    let admitted = |rule: Rule| admit(&gate, &session, rule).is_ok();
    // The others are refused for everybody, or checked by what the operation does.
    for method in Method::ALL {
        let rule = rule_of_method(*method);
        assert_eq!(admitted(rule), matches!(rule, Rule::Open | Rule::Identified | Rule::Operation), "{method:?}");
    }
    for route in Route::ALL {
        let rule = route.rule();
        assert_eq!(admitted(rule), matches!(rule, Rule::Open | Rule::Operation), "{route:?}");
    }
}
