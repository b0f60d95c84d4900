//! Users, roles and tokens: changes of them, and on whose behalf clients write.
//!
//! A server accepts a write by the policy that it has applied, and the write carries that. By the
//! time it is executed the policy may be another one; then every replica must refuse it, and the
//! [`super::oracle`] says where. Whether a server should have accepted it is no question here.

use bytes::Bytes;
use kv_api::access::{
    AccessChange, AccessCommand, AddUser, DisableUser, Grant, Policy, SetRole, SetUserRoles, TokenRecord, Verb, Verbs,
    WriteAuthority,
};

use super::random::Random;

/// The number of users, of roles and of tokens: few, so that changes meet.
const NAMES: u64 = 3;

fn user(random: &mut Random) -> String {
    format!("user-{}", random.below(NAMES))
}

fn role(random: &mut Random) -> String {
    match random.below(NAMES + 1) {
        NAMES => "writer".into(),
        number => format!("role-{number}"),
    }
}

fn roles(random: &mut Random) -> Vec<String> {
    (0..random.below(3)).map(|_| role(random)).collect()
}

fn token(random: &mut Random) -> TokenRecord {
    let id = random.below(NAMES) + 1;
    let expires_us = random.pick(&[0, 0, 1_000_000]);
    TokenRecord { id, sha256: Bytes::from(vec![id as u8; 32]), user: user(random), expires_us, created_us: 0 }
}

/// Any change; many are refused.
pub fn any_change(random: &mut Random) -> AccessChange {
    let command = match random.below(14) {
        0..=2 => AccessCommand::Enable(token(random)),
        3 => AccessCommand::Disable(true),
        4 | 5 => AccessCommand::AddUser(AddUser { name: user(random), roles: roles(random) }),
        6 => AccessCommand::RemoveUser(user(random)),
        7 => AccessCommand::SetUserRoles(SetUserRoles { name: user(random), roles: roles(random) }),
        8 | 9 => AccessCommand::DisableUser(DisableUser { name: user(random), disabled: random.one_in(2) }),
        10 => AccessCommand::AddToken(token(random)),
        11 => AccessCommand::RevokeToken(random.below(NAMES) + 1),
        12 => {
            let grants = vec![Grant::everything(Verbs::of(&[Verb::Write]))];
            AccessCommand::SetRole(SetRole { name: role(random), grants })
        }
        _ => AccessCommand::RemoveRole(role(random)),
    };
    command.into()
}

/// On whose behalf a server with this policy may accept a write.
pub fn any_authority(policy: &Policy, random: &mut Random) -> WriteAuthority {
    let users: Vec<&String> = policy.users.keys().collect();
    if users.is_empty() || random.one_in(4) {
        return WriteAuthority::server();
    }
    let user = users[random.below(users.len() as u64) as usize].clone();
    let tokens: Vec<u64> = policy.tokens.values().filter(|token| token.user == user).map(|token| token.id).collect();
    let token = match tokens.is_empty() || random.one_in(2) {
        true => 0,
        false => tokens[random.below(tokens.len() as u64) as usize],
    };
    let claimed = roles(random);
    let roles =
        if random.one_in(3) { claimed.into_iter().filter(|r| policy.has_role(r)).collect() } else { Vec::new() };
    WriteAuthority { user, revision: policy.revision, token, roles }
}
