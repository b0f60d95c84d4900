//! On whose behalf a request is made.

use std::sync::Arc;

use kv_api::KvError;
use kv_api::access::{Need, Verbs, WriteAuthority};

use super::now_us;
use super::session::{Granted, Session};
use super::source::PolicySource;
use super::table::Rule;

/// The one on whose behalf a request is made. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller {
    who: Who,
    /// For the audit log and slow requests.
    session: Option<Arc<Session>>,
    method: &'static str,
}

#[derive(Clone, Debug)]
enum Who {
    Server,
    Unchecked,
    Checked(Arc<Granted>),
}

impl Caller {
    /// The server itself, for its own work.
    pub fn server() -> Self {
        Caller { who: Who::Server, session: None, method: "internal" }
    }

    /// A client that nobody checks, because authentication is not enabled.
    pub(super) fn unchecked(method: &'static str, session: Arc<Session>) -> Self {
        Caller { who: Who::Unchecked, session: Some(session), method }
    }

    /// A client with these rights.
    pub(super) fn checked(granted: Arc<Granted>, method: &'static str, session: Arc<Session>) -> Self {
        Caller { who: Who::Checked(granted), session: Some(session), method }
    }

    /// Refuses what the caller may not do.
    ///
    /// # Errors
    /// [`KvError::Forbidden`], naming the verb and the keys.
    pub fn check(&self, need: &Need<'_>) -> Result<(), KvError> {
        match &self.who {
            Who::Server | Who::Unchecked => Ok(()),
            Who::Checked(granted) => granted.rights.check(need),
        }
    }

    /// Refuses a call whose rule does not admit the caller. An operation is checked by its needs,
    /// later.
    pub(super) fn check_rule(&self, rule: Rule) -> Result<(), KvError> {
        let Who::Checked(granted) = &self.who else { return Ok(()) };
        match rule {
            Rule::Open | Rule::Identified | Rule::Operation => Ok(()),
            Rule::Cluster(verb) => granted.rights.check(&Need::cluster(verb)),
            Rule::Somewhere(verbs) if granted.rights.somewhere().and(verbs) == Verbs::NONE => {
                let user = granted.rights.user();
                Err(KvError::Forbidden(format!("user '{user}' has none of `{verbs}` anywhere")))
            }
            Rule::Somewhere(_) => Ok(()),
        }
    }

    /// Refuses the result of a read if the rights of the caller changed while the read was under way. A linearizable
    /// read has waited until every change that was acknowledged before it is applied here. So no read that
    /// began after a revocation was acknowledged succeeds, whichever server takes it.
    ///
    /// # Errors
    /// [`KvError::Forbidden`].
    pub fn check_still(&self, source: &dyn PolicySource) -> Result<(), KvError> {
        match &self.who {
            Who::Checked(granted) if granted.rights.revision() != source.enabled_revision() => {
                source.policy().upholds(Some(granted.rights.authority()))
            }
            Who::Server | Who::Unchecked | Who::Checked(_) => Ok(()),
        }
    }

    /// The authority that a write of this caller carries to the replicas; `None` while nothing is checked.
    pub fn authority(&self) -> Option<WriteAuthority> {
        match &self.who {
            Who::Server => Some(WriteAuthority::server()),
            Who::Unchecked => None,
            Who::Checked(granted) => Some(granted.rights.authority().clone()),
        }
    }

    /// Whether the caller may see the names of all column families.
    pub fn sees_all_families(&self) -> bool {
        match &self.who {
            Who::Server | Who::Unchecked => true,
            Who::Checked(granted) => granted.rights.somewhere_in_all_families(),
        }
    }

    /// The proven rights of the caller, if anything was asked.
    pub fn granted(&self) -> Option<&Granted> {
        match &self.who {
            Who::Checked(granted) => Some(granted),
            Who::Server | Who::Unchecked => None,
        }
    }

    /// Whether a token has ended since it was accepted.
    pub fn have_rights_expired(&self) -> bool {
        self.granted().is_some_and(|granted| granted.rights.have_expired(now_us()))
    }

    /// The connection of the request.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// The name of the method or route.
    pub fn method(&self) -> &'static str {
        self.method
    }
}
