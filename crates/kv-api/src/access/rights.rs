//! From a principal to what it may do, and the authority that a write carries to the replicas.

use prost::Message;

use super::grant::covered;
use super::{Grant, Need, Policy, Verbs};
use crate::KvError;

/// Somebody whose identity has been proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name of the user.
    pub name: String,
    /// The proof.
    pub identity: Identity,
}

/// The proof of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A client certificate.
    Certificate,
    /// The token of this id.
    Token {
        /// See [`super::TokenRecord::id`].
        id: u64,
    },
    /// A signed JWT. With roles of its own, its subject need not be a user of the policy.
    Jwt {
        /// The roles that it claims; none: those of the user.
        roles: Vec<String>,
        /// When it ends, in microseconds since 1970.
        expires_us: u64,
    },
}

/// Why a principal has no rights at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no user '{0}'")]
    UnknownUser(String),
    #[error("user '{0}' is disabled")]
    Disabled(String),
    #[error("the token is not valid")]
    InvalidToken,
}

impl From<Refusal> for KvError {
    fn from(refusal: Refusal) -> Self {
        KvError::Unauthenticated(refusal.to_string())
    }
}

/// The rights of one principal under one revision of the policy. Its decisions allocate nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Verbs that are granted on everything.
    everywhere: Verbs,
    /// Verbs that are granted on something.
    somewhere: Verbs,
    grants: Vec<Grant>,
    /// When they end, in microseconds since 1970; 0: never.
    expires_us: u64,
    authority: WriteAuthority,
}

/// On whose behalf a write was accepted, and by which revision of the policy. Each replica checks
/// it once more when it applies the write, because the policy may have changed on the way.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WriteAuthority {
    /// The name of the user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The policy's revision by which the write was allowed.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// The token that identified the user; 0 if it was not a token.
    #[prost(fixed64, tag = "3")]
    pub token: u64,
    /// The roles that a JWT claimed and that existed. None: the user's own roles.
    #[prost(string, repeated, tag = "4")]
    pub roles: Vec<String>,
}

/// A decision with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub allowed: bool,
    /// Why, in sentences.
    pub reasons: Vec<String>,
}

impl WriteAuthority {
    /// The authority of the server's own writes, which no policy restricts. No user has the empty
    /// name.
    pub fn server() -> Self {
        WriteAuthority::default()
    }

    fn is_of_server(&self) -> bool {
        self.user.is_empty()
    }
}

impl Policy {
    /// Decides whether a user may do this, and says why.
    pub fn explain(&self, user: &str, need: &Need) -> Explanation {
        if !self.enabled {
            let reason = "authentication is not enabled, so nothing is checked".to_string();
            return Explanation { allowed: true, reasons: vec![reason] };
        }
        let principal = Principal { name: user.to_owned(), identity: Identity::Certificate };
        let rights = match self.rights(&principal) {
            Ok(rights) => rights,
            Err(refusal) => return Explanation { allowed: false, reasons: vec![refusal.to_string()] },
        };
        let roles = self.users.get(user).map_or(&[][..], |user| &user.roles);
        let concerned = |role: &String| {
            let grants = self.grants_of(role).unwrap_or_default().iter();
            let grants =
                grants.filter(|grant| grant.concerns(need)).map(|grant| format!("role '{role}' grants `{grant}`"));
            grants.collect::<Vec<String>>()
        };
        let mut reasons: Vec<String> = roles.iter().flat_map(concerned).collect();
        let allowed = rights.allow(need);
        if !allowed {
            let roles = if roles.is_empty() { "none".to_string() } else { roles.join(", ") };
            reasons.push(format!("the roles of user '{user}' ({roles}) do not add up to {need}"));
        }
        Explanation { allowed, reasons }
    }

    /// The rights of this principal.
    ///
    /// # Errors
    /// It is unknown or shut out.
    pub fn rights(&self, principal: &Principal) -> Result<Rights, Refusal> {
        // The empty name is that of the server itself.
        if principal.name.is_empty() {
            return Err(Refusal::UnknownUser(String::new()));
        }
        let (token, claimed, expires_us) = match &principal.identity {
            Identity::Certificate => (0, &[][..], 0),
            Identity::Token { id } => {
                let record = self.tokens.get(id).filter(|record| record.user == principal.name);
                (*id, &[][..], record.ok_or(Refusal::InvalidToken)?.expires_us)
            }
            Identity::Jwt { roles, expires_us } => (0, roles.as_slice(), *expires_us),
        };
        let roles = self.effective_roles(&principal.name, claimed)?;
        let of_role = |role: &String| self.grants_of(role).unwrap_or_default().iter().cloned();
        let grants: Vec<Grant> = roles.iter().flat_map(of_role).collect();
        let everywhere = grants.iter().filter(|grant| grant.is_everywhere());
        let everywhere = everywhere.fold(Verbs::NONE, |verbs, grant| verbs.or(grant.verbs()));
        let claimed = claimed.iter().filter(|role| self.has_role(role)).cloned().collect();
        let somewhere = grants.iter().fold(Verbs::NONE, |verbs, grant| verbs.or(grant.verbs()));
        let authority = WriteAuthority { user: principal.name.clone(), revision: self.revision, token, roles: claimed };
        Ok(Rights { everywhere, somewhere, grants, expires_us, authority })
    }

    fn effective_roles<'a>(&'a self, user: &str, claimed: &'a [String]) -> Result<&'a [String], Refusal> {
        match self.users.get(user) {
            Some(known) if known.disabled => Err(Refusal::Disabled(user.to_owned())),
            Some(known) if claimed.is_empty() => Ok(&known.roles),
            None if claimed.is_empty() => Err(Refusal::UnknownUser(user.to_owned())),
            Some(_) | None => Ok(claimed),
        }
    }

    /// Whether the authority of a write still holds when it is applied. `None`: the write was
    /// accepted while nothing was checked.
    ///
    /// # Errors
    /// The write must not happen. The texts are part of verdicts and never change.
    pub fn upholds(&self, authority: Option<&WriteAuthority>) -> Result<(), KvError> {
        if !self.enabled {
            return Ok(());
        }
        let Some(authority) = authority else {
            return Err(KvError::Unauthenticated("authentication was enabled while the request was under way".into()));
        };
        if authority.is_of_server() {
            return Ok(());
        }
        let user = self.users.get(&authority.user);
        let is_current = |changed_at: u64| changed_at <= authority.revision;
        let user_holds = match user {
            Some(user) => !user.disabled && is_current(user.changed_at),
            None => !authority.roles.is_empty(),
        };
        let token_holds =
            authority.token == 0 || self.tokens.get(&authority.token).is_some_and(|token| token.user == authority.user);
        let own = user.map_or(&[][..], |user| &user.roles);
        let roles = if authority.roles.is_empty() { own } else { &authority.roles };
        let role_holds = |role: &String| {
            super::built_in_role(role).is_some() || self.roles.get(role).is_some_and(|role| is_current(role.changed_at))
        };
        if user_holds && token_holds && roles.iter().all(role_holds) {
            return Ok(());
        }
        let text = format!("the rights of user '{}' changed while the request was under way", authority.user);
        Err(KvError::Forbidden(text))
    }
}

impl Rights {
    /// Whether they include this need.
    pub fn allow(&self, need: &Need) -> bool {
        self.everywhere.has(need.verb) || covered(self.grants.iter(), need)
    }

    /// [`Self::allow`] as a result.
    ///
    /// # Errors
    /// `FORBIDDEN`, with the verb and the keys that were asked for.
    pub fn check(&self, need: &Need) -> Result<(), KvError> {
        if self.allow(need) {
            return Ok(());
        }
        Err(KvError::Forbidden(format!("user '{}' has no {need}", self.authority.user)))
    }

    /// The verbs that are granted on something.
    pub fn somewhere(&self) -> Verbs {
        self.somewhere
    }

    /// Whether anything is granted in every column family, so that their names are no secret.
    pub fn somewhere_in_all_families(&self) -> bool {
        self.grants.iter().any(|grant| grant.all_families)
    }

    /// The name of the user.
    pub fn user(&self) -> &str {
        &self.authority.user
    }

    /// The policy's revision that they come from.
    pub fn revision(&self) -> u64 {
        self.authority.revision
    }

    /// Whether they end at some time.
    pub fn expire(&self) -> bool {
        self.expires_us != 0
    }

    /// Whether they have ended at this time, in microseconds since 1970.
    pub fn have_expired(&self, now_us: u64) -> bool {
        self.expires_us != 0 && self.expires_us <= now_us
    }

    /// The authority of a write that they allow.
    pub fn authority(&self) -> &WriteAuthority {
        &self.authority
    }
}
