//! The one gate to the data, which finds out who asks and decides what they may do.
//!
//! Every Thrift call and every HTTP request passes [`Gate::admit`], which knows its rule from
//! [`table`] and turns the connection's identity into a [`Caller`]. The service core then checks
//! each operation, by [`needs`], in the one function that passes operations on to the router. So
//! nothing reaches the data by a second path.
//!
//! Everything that is not granted is denied. While the policy is not enabled, a request costs one atomic load
//! here. While it is, rights are worked out once for each connection and revision of the policy,
//! and a decision allocates nothing.
//!
//! The gate decides by the policy that this server has applied. A write also carries its authority
//! in the log, and every replica checks that again when it applies the write, because the policy
//! may have changed on the way.

mod audit;
mod caller;
mod connection;
mod jwt;
mod needs;
mod session;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use audit::{AuditKeys, AuditLog, AuditScope, AuditSettings, OnOverflow, Recording, reopen_audit_logs};
pub use caller::Caller;
pub use connection::ConnectionFacts;
pub use jwt::{JwtKeys, JwtSettings};
use kv_api::KvError;
use kv_api::access::{Identity, Policy, Principal, Verb};
pub use needs::check_needs;
use session::{Credential, Epoch, Resolved};
pub use session::{Granted, Means, Session};
pub use source::{NoPolicy, PolicySource};
pub use table::{HttpMethod, Kind, Route, Rule, kind_of, recorded_as, rule_of_method};
pub use token::{Digest, Secret, digest_of, digest_of_bytes, fingerprint, new_token, token_text};

/// Longest token, in bytes: a JWT with many roles.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// How many tokens of single requests are remembered with their rights.
const REMEMBERED_TOKENS: usize = 1_000;

const HOW_TO: &str = "call `authenticate` with a token, send one with the request, or use a client certificate \
                      (HTTP: Authorization: Bearer; synodkv: --token-file)";

/// Decides which requests are served.
pub struct Gate {
    source: Arc<dyn PolicySource>,
    jwt: Option<JwtKeys>,
    /// Whether nothing is served to the network before the policy is enabled.
    closed_until_enabled: bool,
    audit: Option<Arc<AuditLog>>,
    /// Tokens of single requests that were found genuine.
    remembered: Mutex<HashMap<Digest, Resolved>>,
}

impl Gate {
    /// A gate with this policy. With `closed_until_enabled`, only operators on this machine are
    /// admitted as long as the policy is not enabled, and only to enable it.
    pub fn new(source: Arc<dyn PolicySource>, jwt: Option<JwtKeys>, closed_until_enabled: bool) -> Self {
        Gate { source, jwt, closed_until_enabled, audit: None, remembered: Mutex::default() }
    }

    /// The same gate with an audit log.
    pub fn with_audit(self, audit: Option<Arc<AuditLog>>) -> Self {
        Gate { audit, ..self }
    }

    /// The audit log, if there is one.
    pub fn audit(&self) -> Option<&Arc<AuditLog>> {
        self.audit.as_ref()
    }

    /// A gate that is always open: for callers without a policy.
    pub fn open() -> Self {
        Gate::new(Arc::new(NoPolicy), None, false)
    }

    /// The applied policy.
    pub fn source(&self) -> &Arc<dyn PolicySource> {
        &self.source
    }

    /// Finds out on whose behalf a call is made, and refuses it if its rule does not admit them.
    /// `token` is that of this one request.
    ///
    /// # Errors
    /// [`KvError::Unauthenticated`], [`KvError::Forbidden`], or [`KvError::NoPrimary`] if the policy
    /// may be out of date.
    pub fn admit(
        &self,
        session: &Arc<Session>,
        token: Option<&str>,
        method: &'static str,
        rule: Rule,
    ) -> Result<Caller, KvError> {
        let revision = self.source.enabled_revision();
        if revision == 0 {
            return self.admit_unchecked(session, method, rule);
        }
        if rule == Rule::Open {
            return Ok(Caller::unchecked(method, session.clone()));
        }
        self.source.check_fresh()?;
        let epoch = self.epoch(revision);
        let granted = match token {
            Some(token) => self.granted_by(token, epoch)?,
            None => match session.granted(epoch, |credential| self.resolve(credential, epoch)) {
                Some(granted) => granted?,
                None => return Err(KvError::Unauthenticated(HOW_TO.into())),
            },
        };
        if granted.rights.expire() && granted.rights.have_expired(now_us()) {
            return Err(expired());
        }
        let caller = Caller::checked(granted, method, session.clone());
        session.is_now_known();
        caller.check_rule(rule)?;
        Ok(caller)
    }

    /// Whether the client of this connection has shown who it is, by a certificate or a token, or need not.
    pub fn knows(&self, session: &Session) -> bool {
        match self.source.enabled_revision() {
            0 => !self.closed_until_enabled || session.is_known(),
            revision => session.is_known() || self.identifies(session, revision),
        }
    }

    /// Whether what the connection has shown identifies a user, even before its first request.
    fn identifies(&self, session: &Session, revision: u64) -> bool {
        let epoch = self.epoch(revision);
        let granted = session.granted(epoch, |credential| self.resolve(credential, epoch));
        let is_user = matches!(granted, Some(Ok(granted)) if !granted.rights.have_expired(now_us()));
        if is_user {
            session.is_now_known();
        }
        is_user
    }

    fn admit_unchecked(&self, session: &Arc<Session>, method: &'static str, rule: Rule) -> Result<Caller, KvError> {
        let enables = rule == Rule::Cluster(Verb::AdminAuth) && session.facts().is_local;
        if self.closed_until_enabled && rule != Rule::Open && !enables {
            return Err(KvError::Unauthenticated(
                "this server listens beyond its own machine and serves nobody until authentication is enabled: run \
                 `synodkv auth enable` on its machine (server.allow_insecure = true serves everybody instead)"
                    .into(),
            ));
        }
        Ok(Caller::unchecked(method, session.clone()))
    }

    /// Binds the connection to the holder of this token, and returns the user; `None` while the
    /// policy is not enabled. After a failure the connection has no identity, until the applied policy has
    /// changed: the token may have been made at another server a moment ago.
    ///
    /// # Errors
    /// [`KvError::Unauthenticated`].
    pub fn authenticate(&self, session: &Session, token: &str) -> Result<Option<String>, KvError> {
        let credential = match self.credential(token) {
            Ok(credential) => credential,
            Err(error) => {
                session.refuse(error.clone());
                return Err(error);
            }
        };
        session.present(credential.clone());
        let revision = self.source.enabled_revision();
        if revision == 0 {
            return Ok(None);
        }
        let granted = self.resolve(&credential, self.epoch(revision)).granted?;
        if granted.rights.have_expired(now_us()) {
            return Err(expired());
        }
        session.is_now_known();
        Ok(Some(granted.rights.user().to_owned()))
    }

    /// The facts besides the credential on which rights depend.
    fn epoch(&self, revision: u64) -> Epoch {
        Epoch { revision, keys: self.jwt.as_ref().map_or(0, |keys| keys.generation(now_us())) }
    }

    /// The rights of the holder of the token of one request.
    fn granted_by(&self, token: &str, epoch: Epoch) -> Result<Arc<Granted>, KvError> {
        let digest = digest_of(token);
        let remembered = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolved) = remembered().get(&digest).filter(|resolved| resolved.epoch == epoch) {
            return resolved.granted.clone();
        }
        let resolved = self.resolve(&self.credential(token)?, epoch);
        // Only genuine tokens take room, so that others cannot displace them.
        if resolved.granted.is_ok() {
            let mut remembered = remembered();
            if remembered.len() >= REMEMBERED_TOKENS {
                remembered.clear();
            }
            remembered.insert(digest, resolved.clone());
        }
        resolved.granted
    }

    /// The kind of a token, not yet verified.
    fn credential(&self, token: &str) -> Result<Credential, KvError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(KvError::Unauthenticated(format!("a token has at most {MAX_TOKEN_BYTES} bytes")));
        }
        let secret = Secret::new(token);
        match secret.token_id() {
            Some(id) => Ok(Credential::Token { id, digest: secret.digest() }),
            None if self.jwt.is_some() => Ok(Credential::Jwt(secret)),
            None => Err(invalid_token()),
        }
    }

    /// The worth of a credential under the applied policy.
    fn resolve(&self, credential: &Credential, epoch: Epoch) -> Resolved {
        let policy = self.source.policy();
        let granted = self.principal(credential, &policy).and_then(|principal| {
            let means = Means::from(&principal.identity);
            Ok(Arc::new(Granted { rights: policy.rights(&principal)?, means }))
        });
        // The policy may be newer than the revision that the caller saw, never older.
        Resolved { epoch: Epoch { revision: policy.revision, ..epoch }, granted }
    }

    /// The principal whose credential this is, if it is genuine.
    fn principal(&self, credential: &Credential, policy: &Policy) -> Result<Principal, KvError> {
        match credential {
            Credential::Certificate(user) => Ok(Principal { name: user.clone(), identity: Identity::Certificate }),
            Credential::Token { id, digest } => {
                let record = policy.tokens.get(id).filter(|record| token::is_token(record, digest));
                let name = record.ok_or_else(invalid_token)?.user.clone();
                Ok(Principal { name, identity: Identity::Token { id: *id } })
            }
            Credential::Jwt(secret) => {
                let keys = self.jwt.as_ref().ok_or_else(invalid_token)?;
                let unauthenticated = |fault: jwt::JwtFault| KvError::Unauthenticated(fault.to_string());
                let jwt::Claims { subject, roles, expires_us } =
                    keys.verify(secret, now_us()).map_err(unauthenticated)?;
                Ok(Principal { name: subject, identity: Identity::Jwt { roles, expires_us } })
            }
        }
    }
}

fn expired() -> KvError {
    KvError::Unauthenticated("the token has expired".into())
}

fn invalid_token() -> KvError {
    KvError::Unauthenticated("the token is not valid".into())
}

/// The time, in microseconds since 1970.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
