//! Users, roles and tokens for people.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::output::table;

#[derive(Debug, Deserialize)]
pub struct Policy {
    pub enabled: bool,
    pub users: Vec<User>,
    pub roles: Vec<Role>,
    pub tokens: Vec<TokenLine>,
}

#[derive(Debug, Deserialize)]
pub struct User {
    pub name: String,
    pub roles: Vec<String>,
    pub disabled: bool,
}

#[derive(Debug, Deserialize)]
pub struct Role {
    pub name: String,
    pub grants: Vec<String>,
    pub built_in: bool,
}

#[derive(Debug, Deserialize)]
pub struct TokenLine {
    pub id: String,
    pub user: String,
    pub expires_us: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Decision {
    pub allowed: bool,
    pub reasons: Vec<String>,
}

pub fn everything(policy: &Policy) -> String {
    let state = if policy.enabled { "enabled" } else { "not enabled: everybody may do everything" };
    let mut users = vec![vec!["user".to_string(), "roles".to_string()]];
    users.extend(policy.users.iter().map(|user| {
        let roles = if user.roles.is_empty() { "none".to_string() } else { user.roles.join(", ") };
        let disabled = if user.disabled { " (disabled)" } else { "" };
        vec![user.name.clone(), format!("{roles}{disabled}")]
    }));
    let mut roles = vec![vec!["role".to_string(), "grants".to_string()]];
    for role in &policy.roles {
        let name = format!("{}{}", role.name, if role.built_in { " (built in)" } else { "" });
        roles.push(vec![name, role.grants.first().cloned().unwrap_or_else(|| "none".to_string())]);
        roles.extend(role.grants.iter().skip(1).map(|grant| vec![String::new(), grant.clone()]));
    }
    let parts = [format!("authentication is {state}"), table(&users), table(&roles), tokens(&policy.tokens)];
    parts.join("\n\n")
}

pub fn tokens(tokens: &[TokenLine]) -> String {
    let mut rows = vec![vec!["token".to_string(), "user".to_string(), "expires".to_string()]];
    rows.extend(tokens.iter().map(|token| vec![token.id.clone(), token.user.clone(), expiry(token.expires_us)]));
    table(&rows)
}

fn expiry(time_us: Option<u64>) -> String {
    let Some(time_us) = time_us else { return "never".to_string() };
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    match u128::from(time_us).checked_sub(now_us) {
        None | Some(0) => "expired".to_string(),
        Some(left) => match left / 3_600_000_000 {
            0 => format!("in {} min", left / 60_000_000),
            hours @ 1..=47 => format!("in {hours} h"),
            hours => format!("in {} d", hours / 24),
        },
    }
}

pub fn decision(decision: &Decision) -> String {
    let verdict = if decision.allowed { "allowed" } else { "denied" };
    std::iter::once(verdict).chain(decision.reasons.iter().map(String::as_str)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_shown_and_no_hash() {
        let policy: Policy = serde_json::from_value(serde_json::json!({
            "enabled": true,
            "revision": 7,
            "users": [{ "name": "anna", "roles": ["shop", "metrics"], "disabled": true }],
            "roles": [{ "name": "shop", "grants": ["read orders", "write orders"], "built_in": false }],
            "tokens": [{ "id": "0123456789abcdef", "user": "anna", "created_us": 5, "expires_us": null }],
        }))
        .expect("a policy");
        let text = everything(&policy);
        for line in
            ["authentication is enabled", "anna  shop, metrics (disabled)", "shop  read orders", "      write orders"]
        {
            assert!(text.lines().any(|of| of == line), "{line}: {text}");
        }
        assert!(text.ends_with("0123456789abcdef  anna  never"), "{text}");
    }

    #[test]
    fn an_expiry_is_the_time_that_is_left() {
        assert_eq!(expiry(Some(1)), "expired");
        let in_hours = |hours: u64| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
            expiry(Some(now + hours * 3_600_000_000 + 60_000_000))
        };
        assert_eq!(in_hours(3), "in 3 h");
        assert_eq!(in_hours(90 * 24), "in 90 d");
    }
}
