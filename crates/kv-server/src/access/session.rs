//! The identity of one connection, and what it may do under the present policy.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kv_api::KvError;
use kv_api::access::{Identity, Rights};

use super::connection::ConnectionFacts;
use super::token::{Digest, Secret};

/// A means to prove an identity, as presented. Verifying it takes the policy.
#[derive(Clone)]
pub(super) enum Credential {
    /// The user of a verified certificate.
    Certificate(String),
    /// An opaque token.
    Token { id: u64, digest: Digest },
    /// Any other token. It is kept whole, because it must be verified again when the keys change.
    Jwt(Secret),
}

/// How a request was authenticated, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    Certificate,
    Token,
    Jwt,
}

impl Means {
    /// Its name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Means::Certificate => "certificate",
            Means::Token => "token",
            Means::Jwt => "jwt",
        }
    }
}

impl From<&Identity> for Means {
    fn from(identity: &Identity) -> Self {
        match identity {
            Identity::Certificate => Means::Certificate,
            Identity::Token { .. } => Means::Token,
            Identity::Jwt { .. } => Means::Jwt,
        }
    }
}

/// The rights of a principal, and how it proved its identity.
#[derive(Debug)]
pub struct Granted {
    /// The rights.
    pub rights: Rights,
    /// How it proved who it is.
    pub means: Means,
}

/// The facts besides the credential on which rights depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    /// The revision of the policy.
    pub revision: u64,
    /// The generation of the keys of JWTs.
    pub keys: u64,
}

/// The rights that a credential gave in one epoch.
#[derive(Clone)]
pub(super) struct Resolved {
    /// The epoch.
    pub epoch: Epoch,
    /// The rights, or why there are none.
    pub granted: Result<Arc<Granted>, KvError>,
}

/// The identity of one connection.
pub struct Session {
    facts: ConnectionFacts,
    state: Mutex<State>,
    /// Whether a request of it was admitted on behalf of somebody.
    is_known: AtomicBool,
}

struct State {
    /// The credential presented last; the certificate until then.
    credential: Option<Credential>,
    resolved: Option<Resolved>,
    /// Why what it presented last was refused.
    refused: Option<KvError>,
}

impl Session {
    /// A new connection.
    pub fn new(facts: ConnectionFacts) -> Self {
        let credential = facts.certificate_user.clone().map(Credential::Certificate);
        Session {
            facts,
            state: Mutex::new(State { credential, resolved: None, refused: None }),
            is_known: AtomicBool::new(false),
        }
    }

    /// Whether anybody has used the connection so far who proved an identity.
    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    pub(super) fn is_now_known(&self) {
        // Without a write to memory that other connections may share.
        if !self.is_known() {
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    /// The facts about the connection.
    pub fn facts(&self) -> &ConnectionFacts {
        &self.facts
    }

    /// Replaces the identity of the connection.
    pub(super) fn present(&self, credential: Credential) {
        self.replace(State { credential: Some(credential), resolved: None, refused: None });
    }

    /// Takes the identity of the connection away. Later requests learn why.
    pub(super) fn refuse(&self, error: KvError) {
        self.replace(State { credential: None, resolved: None, refused: Some(error) });
    }

    fn replace(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The rights of the connection in this epoch: as remembered, or as `resolve` finds.
    pub(super) fn granted(
        &self,
        epoch: Epoch,
        resolve: impl FnOnce(&Credential) -> Resolved,
    ) -> Option<Result<Arc<Granted>, KvError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { credential, resolved, refused } = &mut *state;
        if let Some(error) = refused {
            return Some(Err(error.clone()));
        }
        match resolved {
            Some(known) if known.epoch == epoch => {}
            _ => *resolved = Some(resolve(credential.as_ref()?)),
        }
        resolved.as_ref().map(|resolved| resolved.granted.clone())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("facts", &self.facts).finish_non_exhaustive()
    }
}
