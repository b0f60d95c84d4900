//! Decisions against brute force, changes, and the encoding.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::KvError;

fn add_user(name: &str, roles: &[&str]) -> AccessChange {
    let roles = roles.iter().map(ToString::to_string).collect();
    AccessCommand::AddUser(AddUser { name: name.into(), roles }).into()
}

fn set_user_roles(name: &str, roles: &[&str]) -> AccessChange {
    let roles = roles.iter().map(ToString::to_string).collect();
    AccessCommand::SetUserRoles(SetUserRoles { name: name.into(), roles }).into()
}

fn set_role(name: &str, grants: &[&str]) -> AccessChange {
    let grants = grants.iter().map(|grant| grant.parse().expect("a grant")).collect();
    AccessCommand::SetRole(SetRole { name: name.into(), grants }).into()
}

fn disable_user(name: &str, disabled: bool) -> AccessChange {
    AccessCommand::DisableUser(DisableUser { name: name.into(), disabled }).into()
}

fn token(id: u64, user: &str) -> TokenRecord {
    TokenRecord { id, sha256: vec![id as u8; 32].into(), user: user.into(), expires_us: 0, created_us: 0 }
}

fn enable() -> AccessChange {
    AccessCommand::Enable(token(1, "")).into()
}

fn changed(policy: &mut Policy, changes: impl IntoIterator<Item = AccessChange>) {
    for change in changes {
        policy.change(&change, 1_000).unwrap_or_else(|error| panic!("{change:?}: {error}"));
    }
}

/// Enabled, with `eve`, who may read and write what begins with `eu/` in `orders`.
fn policy() -> Policy {
    let mut policy = Policy::default();
    let changes = [
        set_role("eu", &["read,write orders prefix:eu/", "read orders prefix:eu0"]),
        add_user("eve", &["eu"]),
        AccessCommand::AddToken(token(7, "eve")).into(),
        enable(),
    ];
    changed(&mut policy, changes);
    policy
}

fn principal(name: &str) -> Principal {
    Principal { name: name.into(), identity: Identity::Certificate }
}

fn with_token(name: &str, id: u64) -> Principal {
    Principal { name: name.into(), identity: Identity::Token { id } }
}

fn jwt(name: &str, roles: &[&str]) -> Principal {
    let roles = roles.iter().map(ToString::to_string).collect();
    Principal { name: name.into(), identity: Identity::Jwt { roles, expires_us: 0 } }
}

fn allows(policy: &Policy, principal: &Principal, need: Need) -> bool {
    policy.rights(principal).is_ok_and(|rights| rights.allow(&need))
}

#[test]
fn what_is_not_granted_is_denied() {
    let policy = policy();
    let eve = principal("eve");
    let may = |verb, family, keys| allows(&policy, &eve, Need::of(verb, family, keys));
    assert!(may(Verb::Read, "orders", Keys::One(b"eu/1")));
    assert!(may(Verb::Write, "orders", Keys::Range { begin: b"eu/", end: b"eu0" }));
    assert!(may(Verb::Read, "orders", Keys::Prefix(b"eu/")));
    assert!(may(Verb::Read, "orders", Keys::Range { begin: b"eu/9", end: b"eu1" }), "two grants that adjoin");
    for (verb, family, keys) in [
        (Verb::Write, "orders", Keys::Range { begin: b"eu/", end: b"eu0\0" }),
        (Verb::Write, "orders", Keys::Range { begin: b"eu", end: b"eu0" }),
        (Verb::Read, "orders", Keys::Range { begin: b"eu/9", end: b"eu1\0" }),
        (Verb::Read, "orders", Keys::Prefix(b"eu")),
        (Verb::Read, "orders", Keys::From(b"eu/")),
        (Verb::Read, "orders", Keys::All),
        (Verb::Read, "", Keys::One(b"eu/1")),
        (Verb::Read, "order", Keys::One(b"eu/1")),
        (Verb::Read, "", Keys::Range { begin: b"b", end: b"a" }),
        (Verb::Watch, "orders", Keys::One(b"eu/1")),
    ] {
        assert!(!may(verb, family, keys), "{verb} {family} {keys:?}");
    }
    assert!(!allows(&policy, &eve, Need { verb: Verb::Read, family: None, keys: Keys::One(b"eu/1") }));
    assert!(!allows(&policy, &eve, Need::cluster(Verb::AdminStatus)));
    assert!(!allows(&policy, &principal("mallory"), Need::of(Verb::Read, "orders", Keys::One(b"eu/1"))));
}

#[test]
fn root_may_do_everything_and_the_other_built_in_roles_their_part() {
    let mut policy = policy();
    for role in BUILT_IN_ROLES {
        changed(&mut policy, [add_user(&format!("a-{role}"), &[role])]);
    }
    let held = |role: &str| {
        let user = principal(&format!("a-{role}"));
        Verbs::of(
            &Verb::ALL.into_iter().filter(|verb| allows(&policy, &user, Need::cluster(*verb))).collect::<Vec<_>>(),
        )
    };
    assert_eq!(held(ROOT), Verbs::of(&Verb::ALL));
    assert_eq!(held("reader").to_string(), "read,watch");
    assert_eq!(held("writer").to_string(), "read,write,watch");
    assert_eq!(held("operator").to_string(), "admin:status,admin:family,admin:member,admin:backup");
    assert_eq!(held("metrics").to_string(), "admin:status");
}

#[test]
fn a_denial_names_the_user_the_verb_and_the_keys() {
    let policy = policy();
    let rights = policy.rights(&principal("eve")).unwrap();
    let denial = rights.check(&Need::of(Verb::Write, "", Keys::Range { begin: b"a\0", end: b"b" }));
    let text = "user 'eve' has no `write` in column family 'default' on keys from 'a\\x00' up to 'b'";
    assert_eq!(denial, Err(KvError::Forbidden(text.into())));
    assert_eq!(rights.check(&Need::cluster(Verb::Fault)), Err(KvError::Forbidden("user 'eve' has no `fault`".into())));
}

#[test]
fn a_disabled_user_a_removed_one_and_a_revoked_token_have_no_rights() {
    let mut policy = policy();
    assert!(policy.rights(&with_token("eve", 7)).is_ok());
    assert_eq!(policy.rights(&with_token("root", 7)), Err(Refusal::InvalidToken), "the token of somebody else");
    changed(&mut policy, [disable_user("eve", true)]);
    for of in [principal("eve"), with_token("eve", 7), jwt("eve", &["root"])] {
        assert_eq!(policy.rights(&of), Err(Refusal::Disabled("eve".into())), "{of:?}");
    }
    changed(&mut policy, [disable_user("eve", false), AccessCommand::RevokeToken(7).into()]);
    assert_eq!(policy.rights(&with_token("eve", 7)), Err(Refusal::InvalidToken));
    changed(&mut policy, [AccessCommand::RemoveUser("eve".into()).into()]);
    assert_eq!(policy.rights(&principal("eve")), Err(Refusal::UnknownUser("eve".into())));
}

#[test]
fn a_jwt_has_the_roles_that_it_claims_as_far_as_they_exist() {
    let policy = policy();
    let eu = Need::of(Verb::Read, "orders", Keys::One(b"eu/1"));
    assert!(allows(&policy, &jwt("stranger", &["eu", "no such role"]), eu));
    assert!(!allows(&policy, &jwt("stranger", &["no such role"]), eu));
    assert!(!allows(&policy, &jwt("stranger", &[]), eu), "no roles, no user");
    assert!(allows(&policy, &jwt("eve", &[]), eu), "the roles of the user");
    assert_eq!(policy.rights(&jwt("", &["root"])), Err(Refusal::UnknownUser(String::new())), "the name of the server");
    let authority = policy.rights(&jwt("stranger", &["eu", "no such role"])).unwrap().authority().clone();
    assert_eq!(authority.roles, ["eu"]);
}

#[test]
fn an_authority_falls_with_the_rights_it_comes_from_and_with_no_others() {
    let role = || set_role("eu", &["read orders prefix:eu/"]);
    let remove_token = || AccessCommand::RevokeToken(7).into();
    let remove_user = || AccessCommand::RemoveUser("eve".into()).into();
    let (by_certificate, by_token, by_jwt) = (principal("eve"), with_token("eve", 7), jwt("stranger", &["eu"]));
    let cases: [(&str, Vec<AccessChange>, [bool; 3]); 8] = [
        ("another user", vec![add_user("adam", &["reader"])], [true; 3]),
        ("another role", vec![set_role("us", &["read orders"])], [true; 3]),
        ("another token", vec![AccessCommand::AddToken(token(8, "eve")).into()], [true; 3]),
        ("the role", vec![role()], [false; 3]),
        ("the user", vec![set_user_roles("eve", &[])], [false, false, true]),
        ("disabled", vec![disable_user("eve", true)], [false, false, true]),
        ("removed and added", vec![remove_user(), add_user("eve", &["eu"])], [false, false, true]),
        ("the token", vec![remove_token()], [true, false, true]),
    ];
    for (case, changes, expected) in cases {
        let mut policy = policy();
        let of = [&by_certificate, &by_token, &by_jwt];
        let authorities = of.map(|principal| policy.rights(principal).unwrap().authority().clone());
        assert!(authorities.iter().all(|authority| policy.upholds(Some(authority)).is_ok()));
        changed(&mut policy, changes);
        assert_eq!(authorities.map(|authority| policy.upholds(Some(&authority)).is_ok()), expected, "{case}");
    }
}

#[test]
fn a_write_that_was_accepted_before_authentication_is_refused_afterwards() {
    let mut policy = policy();
    assert!(matches!(policy.upholds(None), Err(KvError::Unauthenticated(_))));
    assert_eq!(policy.upholds(Some(&WriteAuthority::server())), Ok(()), "the server's own writes go on");
    changed(&mut policy, [AccessCommand::Disable(true).into()]);
    assert_eq!(policy.upholds(None), Ok(()));
}

#[test]
fn enabling_needs_somebody_who_can_disable() {
    let mut policy = Policy::default();
    let without_token = AccessChange::from(AccessCommand::Enable(TokenRecord::default()));
    assert_eq!(policy.change(&without_token, 0), Err(AccessError::NoAdministrator));
    changed(&mut policy, [add_user("adam", &[ROOT]), without_token.clone()]);
    assert!(policy.enabled && !policy.users.contains_key(ROOT));
    for last in [
        disable_user("adam", true),
        set_user_roles("adam", &["reader"]),
        AccessCommand::RemoveUser("adam".into()).into(),
    ] {
        let before = policy.clone();
        assert_eq!(policy.change(&last, 0), Err(AccessError::NoAdministrator), "{last:?}");
        assert_eq!(policy, before, "a refused change changes nothing");
    }
    assert_eq!(policy.change(&enable(), 0), Err(AccessError::Enabled));
    changed(&mut policy, [AccessCommand::Disable(true).into(), enable(), enable()]);
    assert_eq!(policy.users[ROOT].roles, [ROOT]);
    assert_eq!(policy.tokens[&1].user, ROOT);
}

#[test]
fn bad_changes_are_refused_by_name() {
    let mut policy = policy();
    let bad_grant = |grant: Grant| AccessCommand::SetRole(SetRole { name: "r".into(), grants: vec![grant] }).into();
    let status_of_orders =
        Grant { families: vec!["orders".into()], verbs: Verbs::of(&[Verb::AdminStatus]).bits(), ..Grant::default() };
    let nowhere = Grant { verbs: Verbs::of(&[Verb::Read]).bits(), ..Grant::default() };
    for (change, text) in [
        (add_user("eve", &["reader"]), "user 'eve' exists already, with other roles"),
        (add_user("x", &["nope"]), "there is no role 'nope'"),
        (
            add_user("a b", &[]),
            "'a b' cannot be the name of a user or role: a name has 1 to 128 letters, digits, or _ - . @ :",
        ),
        (set_role("reader", &["read *"]), "role 'reader' is built in and cannot be changed"),
        (
            AccessCommand::RemoveRole("eu".into()).into(),
            "user 'eve' has role 'eu': change the roles of that user first",
        ),
        (AccessCommand::RevokeToken(5).into(), "there is no token 0000000000000005"),
        (
            AccessCommand::AddToken(TokenRecord { id: 7, user: "root".into(), ..token(9, "") }).into(),
            "token 0000000000000007 exists already",
        ),
        (AccessCommand::AddToken(token(9, "nobody")).into(), "there is no user 'nobody'"),
        (
            bad_grant(status_of_orders),
            "role 'r': admin:status concerns the whole cluster: grant it on all column families, `admin:status *`",
        ),
        (bad_grant(nowhere), "role 'r': a grant is for all column families or names some"),
        (AccessChange::default(), "this version does not know the change"),
    ] {
        let before = policy.clone();
        assert_eq!(policy.change(&change, 0).map_err(|error| error.to_string()), Err(text.to_string()));
        assert_eq!(policy, before);
    }
}

#[test]
fn the_policy_is_bounded() {
    let mut policy = Policy::default();
    let grants = vec!["read orders prefix:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"; 1_000];
    let refused = (0..).find_map(|i| policy.change(&set_role(&format!("r{i}"), &grants), 0).err());
    assert!(matches!(refused, Some(AccessError::TooLarge { limit: MAX_POLICY_BYTES, .. })), "{refused:?}");
    assert!(policy.to_bytes().len() <= MAX_POLICY_BYTES);
}

#[test]
fn an_expired_token_is_forgotten_when_the_next_one_is_made() {
    let mut policy = policy();
    let expiring = TokenRecord { expires_us: 50, ..token(8, "eve") };
    policy.change(&AccessCommand::AddToken(expiring).into(), 10).unwrap();
    let rights = policy.rights(&with_token("eve", 8)).unwrap();
    assert!(!rights.have_expired(49) && rights.have_expired(50));
    policy.change(&AccessCommand::AddToken(token(9, "eve")).into(), 50).unwrap();
    assert_eq!(policy.tokens.keys().copied().collect::<Vec<_>>(), [1, 7, 9]);
}

#[test]
fn a_decision_is_explained() {
    let mut policy = policy();
    let need = Need::of(Verb::Write, "orders", Keys::One(b"us/1"));
    let of = |policy: &Policy, user, need| {
        let explanation = policy.explain(user, &need);
        (explanation.allowed, explanation.reasons.join("\n"))
    };
    let denied = "role 'eu' grants `read,write orders prefix:eu/`\nthe roles of user 'eve' (eu) do not add up to `write` in column family 'orders' on key 'us/1'";
    assert_eq!(of(&policy, "eve", need), (false, denied.into()));
    let allowed = "role 'eu' grants `read,write orders prefix:eu/`";
    assert_eq!(of(&policy, "eve", Need { keys: Keys::One(b"eu/1"), ..need }), (true, allowed.into()));
    assert_eq!(of(&policy, "nobody", need), (false, "there is no user 'nobody'".into()));
    changed(&mut policy, [AccessCommand::Disable(true).into()]);
    assert!(of(&policy, "nobody", need).0);
}

#[test]
fn grants_are_read_and_written_in_one_notation() {
    for text in [
        "read *",
        "read,write orders prefix:eu/",
        "read default,orders range:a\\x00..b",
        "watch orders range:a..",
        "write orders range:..b\\x2ec",
        "admin:status,admin:auth,fault *",
        "admin:family orders",
        "read orders range:\\xff..",
    ] {
        assert_eq!(text.parse::<Grant>().map(|grant| grant.to_string()), Ok(text.to_string()));
    }
    for (text, fault) in [
        ("read", "VERBS FAMILIES [KEYS] is expected"),
        ("read orders prefix:a b", "VERBS FAMILIES [KEYS] is expected"),
        ("raed orders", "`raed` is no verb; the verbs are read, write, watch, admin:status"),
        ("read orders,,x", "a column family has no name"),
        ("read a/b", "no column family can be named 'a/b'"),
        ("read orders prefix:", "the prefix is empty"),
        ("read orders keys:a", "names no keys; allowed:"),
        ("read orders range:b..a", "the range of keys is empty"),
        ("read orders prefix:\\q", "after \\ only xNN is allowed"),
        ("read orders prefix:\\x+1", "after \\ only xNN is allowed"),
        ("fault orders", "fault concerns the whole cluster"),
        ("admin:family orders prefix:a", "admin:family is granted for whole column families only"),
    ] {
        let error = text.parse::<Grant>().expect_err(text);
        assert!(error.contains(fault), "{text}: {error}");
    }
}

#[test]
fn the_bytes_of_a_policy_and_of_each_change_never_change() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut policy = Policy::default();
    changed(&mut policy, [set_role("r", &["read a prefix:k"]), add_user("u", &["r"])]);
    policy.change(&AccessCommand::Enable(TokenRecord { expires_us: 9, ..token(1, "") }).into(), 5).unwrap();
    assert_eq!(Policy::from_bytes(policy.to_bytes()), Ok(policy.clone()));
    let lines: Vec<String> = every_command().iter().map(|change| hex(&prost::Message::encode_to_vec(change))).collect();
    let expected: Vec<&str> =
        include_str!("../fixtures/access_version_1.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!([lines, vec![hex(&policy.to_bytes())]].concat(), expected);
}

fn every_command() -> Vec<AccessChange> {
    vec![
        AccessCommand::Enable(token(1, "")).into(),
        AccessCommand::Disable(true).into(),
        add_user("u", &["r", "s"]),
        AccessCommand::RemoveUser("u".into()).into(),
        set_user_roles("u", &["r"]),
        disable_user("u", true),
        AccessCommand::AddToken(TokenRecord { expires_us: 9, ..token(2, "u") }).into(),
        AccessCommand::RevokeToken(2).into(),
        set_role("r", &["read,write a,default range:k\\x00..", "admin:status *"]),
        AccessCommand::RemoveRole("r".into()).into(),
    ]
}

const ALPHABET: [u8; 4] = [0, b'a', b'b', 0xff];

/// Every key of at most two letters of the alphabet.
fn universe() -> Vec<Vec<u8>> {
    let letters = || ALPHABET.into_iter();
    let mut keys = vec![Vec::new()];
    keys.extend(letters().map(|letter| vec![letter]));
    keys.extend(letters().flat_map(|first| letters().map(move |second| vec![first, second])));
    keys
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(universe())
}

fn any_grant() -> impl Strategy<Value = Grant> {
    let families = proptest::sample::subsequence(vec![String::new(), "f".to_string()], 0..=2);
    (0u32..4, families, any_key(), proptest::option::of(any_key())).prop_map(|(verbs, families, begin, end)| Grant {
        verbs,
        all_families: families.is_empty(),
        families,
        begin: begin.into(),
        end: end.map(Bytes::from),
    })
}

fn needed(keys: &Keys, key: &[u8]) -> bool {
    match keys {
        Keys::All => true,
        Keys::One(one) => *one == key,
        Keys::Prefix(prefix) => key.starts_with(prefix),
        Keys::Range { begin, end } => (*begin..*end).contains(&key),
        Keys::Through { begin, last } => (*begin..=*last).contains(&key),
        Keys::From(begin) => *begin <= key,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// A gap in what is granted begins at a need's first key or where a grant ends, so at a key of
    /// the universe: trying all of it decides.
    #[test]
    fn a_need_is_covered_exactly_if_each_of_its_keys_is_granted(
        grants in proptest::collection::vec(any_grant(), 0..6), a in any_key(), b in any_key(), family in 0usize..3
    ) {
        let policy = Policy {
            enabled: true,
            users: BTreeMap::from([("u".into(), User { roles: vec!["r".into()], ..User::default() })]),
            roles: BTreeMap::from([("r".into(), Role { grants: grants.clone(), changed_at: 0 })]),
            ..Policy::default()
        };
        let rights = policy.rights(&principal("u")).unwrap();
        let family: Option<&str> = [None, Some(""), Some("f")][family];
        let keys = [
            Keys::All, Keys::One(&a), Keys::Prefix(&a), Keys::Range { begin: &a, end: &b },
            Keys::Through { begin: &a, last: &b }, Keys::From(&a),
        ];
        for keys in keys.into_iter().filter(|keys| universe().iter().any(|key| needed(keys, key))) {
            for verb in [Verb::Read, Verb::Write] {
                let granted = |key: &Vec<u8>| grants.iter().any(|grant| {
                    let in_family = grant.all_families || family.is_some_and(|f| grant.families.iter().any(|of| of == f));
                    let in_range = grant.begin.as_ref() <= key.as_slice() && grant.end.as_ref().is_none_or(|end| key.as_slice() < end.as_ref());
                    grant.verbs().has(verb) && in_family && in_range
                });
                // Keys beyond the universe: longer ones, up to the next of the universe.
                let expected = universe().iter().filter(|key| needed(&keys, key)).all(granted);
                let allowed = rights.allow(&Need { verb, family, keys });
                prop_assert_eq!(allowed, expected, "{:?} {:?} {:?}", verb, family, keys);
            }
        }
    }

    #[test]
    fn a_grant_survives_its_text(mut grant in any_grant(), verbs in 1u32..4) {
        grant.verbs = verbs;
        grant.end = grant.end.filter(|end| *end > grant.begin);
        prop_assert_eq!(grant.to_string().parse::<Grant>(), Ok(grant));
    }
}
