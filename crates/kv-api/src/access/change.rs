//! The changes that `synodkv auth` makes to a policy. Replicas apply them in the order of the log,
//! and must all come to the same result: a later version decides every change as this one does.

use prost::{Message, Oneof};

use super::names::name_fault;
use super::{Grant, MAX_POLICY_BYTES, Policy, ROOT, Role, TokenRecord, User, built_in_role};
use crate::KvError;

/// One change of a policy, as replicas agree on it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AccessChange {
    /// Absent: a command of a later version, which must not be passed over.
    #[prost(oneof = "AccessCommand", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub command: Option<AccessCommand>,
}

/// The change itself. A command that creates what is there already, exactly alike, succeeds, so that it
/// can be repeated after its answer was lost.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum AccessCommand {
    /// Checks requests from now on. Creates the user [`ROOT`], if it does not exist, with the role
    /// of this name and this token. A record without id names no token: then another administrator
    /// must exist.
    #[prost(message, tag = "1")]
    Enable(TokenRecord),
    /// Checks nothing any more; users, roles and tokens stay.
    #[prost(bool, tag = "2")]
    Disable(bool),
    /// Creates a user.
    #[prost(message, tag = "3")]
    AddUser(AddUser),
    /// Removes a user and its tokens.
    #[prost(string, tag = "4")]
    RemoveUser(String),
    /// Replaces the roles of a user.
    #[prost(message, tag = "5")]
    SetUserRoles(SetUserRoles),
    /// Shuts a user out, or lets it in again.
    #[prost(message, tag = "6")]
    DisableUser(DisableUser),
    /// Creates a token.
    #[prost(message, tag = "7")]
    AddToken(TokenRecord),
    /// Removes the token of this id.
    #[prost(fixed64, tag = "8")]
    RevokeToken(u64),
    /// Creates a role or replaces its grants.
    #[prost(message, tag = "9")]
    SetRole(SetRole),
    /// Removes a role that no user has.
    #[prost(string, tag = "10")]
    RemoveRole(String),
}

/// See [`AccessCommand::AddUser`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AddUser {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its roles.
    #[prost(string, repeated, tag = "2")]
    pub roles: Vec<String>,
}

/// See [`AccessCommand::SetUserRoles`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetUserRoles {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// All the roles that it has from now on.
    #[prost(string, repeated, tag = "2")]
    pub roles: Vec<String>,
}

/// See [`AccessCommand::DisableUser`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DisableUser {
    /// The user.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whether it is shut out.
    #[prost(bool, tag = "2")]
    pub disabled: bool,
}

/// See [`AccessCommand::SetRole`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetRole {
    /// The role.
    #[prost(string, tag = "1")]
    pub name: String,
    /// All that it allows from now on.
    #[prost(message, repeated, tag = "2")]
    pub grants: Vec<Grant>,
}

/// Why a change is refused. The texts are part of verdicts, of which replicas compare digests: they
/// never change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("there is no user '{0}'")]
    UnknownUser(String),
    #[error("user '{0}' exists already, with other roles")]
    UserExists(String),
    #[error("there is no role '{0}'")]
    UnknownRole(String),
    #[error("role '{0}' is built in and cannot be changed")]
    BuiltIn(String),
    #[error("user '{user}' has role '{role}': change the roles of that user first")]
    RoleInUse { role: String, user: String },
    #[error("there is no token {0:016x}")]
    UnknownToken(u64),
    #[error("token {0:016x} exists already")]
    TokenExists(u64),
    #[error("a token has an id other than 0 and a SHA-256 of 32 bytes")]
    BadToken,
    #[error("'{name}' cannot be the name of a user or role: {fault}")]
    BadName { name: String, fault: String },
    #[error("role '{role}': {fault}")]
    BadGrant { role: String, fault: String },
    #[error("authentication is enabled already")]
    Enabled,
    #[error("afterwards nobody could change users and roles: keep one user with admin:auth who is not disabled")]
    NoAdministrator,
    #[error("users, roles and tokens would take {size} bytes, more than the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    #[error("this version does not know the change")]
    Unknown,
}

impl From<AccessError> for KvError {
    fn from(error: AccessError) -> Self {
        KvError::InvalidOperation(error.to_string())
    }
}

impl From<AccessCommand> for AccessChange {
    fn from(command: AccessCommand) -> Self {
        AccessChange { command: Some(command) }
    }
}

impl AccessChange {
    /// Approximate size in the log and in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.encoded_len()
    }
}

impl Policy {
    /// Makes one change at this replicated time, or refuses it and stays as it is.
    ///
    /// # Errors
    /// Why the change is refused.
    pub fn change(&mut self, change: &AccessChange, now_us: u64) -> Result<(), AccessError> {
        let mut next = self.clone();
        next.revision += 1;
        next.execute(change.command.as_ref().ok_or(AccessError::Unknown)?, now_us)?;
        if next.enabled && !next.has_administrator() {
            return Err(AccessError::NoAdministrator);
        }
        let size = next.encoded_len();
        if size > MAX_POLICY_BYTES {
            return Err(AccessError::TooLarge { size, limit: MAX_POLICY_BYTES });
        }
        *self = next;
        Ok(())
    }

    fn execute(&mut self, command: &AccessCommand, now_us: u64) -> Result<(), AccessError> {
        match command {
            AccessCommand::Enable(token) => self.enable(token, now_us),
            AccessCommand::Disable(_) => {
                self.enabled = false;
                Ok(())
            }
            AccessCommand::AddUser(user) => self.add_user(user),
            AccessCommand::RemoveUser(name) => self.remove_user(name),
            AccessCommand::SetUserRoles(user) => {
                let roles = self.roles_named(&user.roles)?;
                self.change_user(&user.name, |user| user.roles = roles)
            }
            AccessCommand::DisableUser(user) => self.change_user(&user.name, |of| of.disabled = user.disabled),
            AccessCommand::AddToken(token) => self.add_token(token, now_us),
            AccessCommand::RevokeToken(id) => self.tokens.remove(id).map(drop).ok_or(AccessError::UnknownToken(*id)),
            AccessCommand::SetRole(role) => self.set_role(role),
            AccessCommand::RemoveRole(name) => self.remove_role(name),
        }
    }

    fn enable(&mut self, token: &TokenRecord, now_us: u64) -> Result<(), AccessError> {
        let is_repeated = self.tokens.get(&token.id).is_some_and(|known| known.sha256 == token.sha256);
        if self.enabled && !is_repeated {
            return Err(AccessError::Enabled);
        }
        self.enabled = true;
        if token.id == 0 {
            return Ok(());
        }
        let changed_at = self.revision;
        let root = self.users.entry(ROOT.to_owned()).or_insert_with(|| User { changed_at, ..User::default() });
        if !root.roles.iter().any(|role| role == ROOT) || root.disabled {
            root.roles.push(ROOT.to_owned());
            root.roles.sort_unstable();
            root.roles.dedup();
            root.disabled = false;
            root.changed_at = changed_at;
        }
        self.add_token(&TokenRecord { user: ROOT.to_owned(), ..token.clone() }, now_us)
    }

    fn add_user(&mut self, user: &AddUser) -> Result<(), AccessError> {
        check_name(&user.name)?;
        let roles = self.roles_named(&user.roles)?;
        match self.users.get(&user.name) {
            Some(known) if known.roles == roles => Ok(()),
            Some(_) => Err(AccessError::UserExists(user.name.clone())),
            None => {
                let added = User { roles, disabled: false, changed_at: self.revision };
                self.users.insert(user.name.clone(), added);
                Ok(())
            }
        }
    }

    fn remove_user(&mut self, name: &str) -> Result<(), AccessError> {
        self.users.remove(name).ok_or_else(|| AccessError::UnknownUser(name.to_owned()))?;
        self.tokens.retain(|_, token| token.user != name);
        Ok(())
    }

    fn change_user(&mut self, name: &str, change: impl FnOnce(&mut User)) -> Result<(), AccessError> {
        let revision = self.revision;
        let user = self.users.get_mut(name).ok_or_else(|| AccessError::UnknownUser(name.to_owned()))?;
        let before = user.clone();
        change(user);
        if *user != before {
            user.changed_at = revision;
        }
        Ok(())
    }

    /// The names sorted, if each is that of a role.
    fn roles_named(&self, names: &[String]) -> Result<Vec<String>, AccessError> {
        if let Some(unknown) = names.iter().find(|name| !self.has_role(name)) {
            return Err(AccessError::UnknownRole(unknown.clone()));
        }
        let mut roles = names.to_vec();
        roles.sort_unstable();
        roles.dedup();
        Ok(roles)
    }

    fn add_token(&mut self, token: &TokenRecord, now_us: u64) -> Result<(), AccessError> {
        if token.id == 0 || token.sha256.len() != 32 {
            return Err(AccessError::BadToken);
        }
        if !self.users.contains_key(&token.user) {
            return Err(AccessError::UnknownUser(token.user.clone()));
        }
        if let Some(known) = self.tokens.get(&token.id) {
            let repeated = TokenRecord { created_us: known.created_us, ..token.clone() };
            return if repeated == *known { Ok(()) } else { Err(AccessError::TokenExists(token.id)) };
        }
        self.tokens.retain(|_, token| !token.has_expired(now_us));
        self.tokens.insert(token.id, TokenRecord { created_us: now_us, ..token.clone() });
        Ok(())
    }

    fn set_role(&mut self, role: &SetRole) -> Result<(), AccessError> {
        check_name(&role.name)?;
        if built_in_role(&role.name).is_some() {
            return Err(AccessError::BuiltIn(role.name.clone()));
        }
        if let Some(fault) = role.grants.iter().find_map(Grant::fault) {
            return Err(AccessError::BadGrant { role: role.name.clone(), fault });
        }
        let known = self.roles.entry(role.name.clone()).or_default();
        if known.grants != role.grants || known.changed_at == 0 {
            *known = Role { grants: role.grants.clone(), changed_at: self.revision };
        }
        Ok(())
    }

    fn remove_role(&mut self, name: &str) -> Result<(), AccessError> {
        if built_in_role(name).is_some() {
            return Err(AccessError::BuiltIn(name.to_owned()));
        }
        if let Some((user, _)) = self.users.iter().find(|(_, user)| user.roles.iter().any(|role| role == name)) {
            return Err(AccessError::RoleInUse { role: name.to_owned(), user: user.clone() });
        }
        self.roles.remove(name).map(drop).ok_or_else(|| AccessError::UnknownRole(name.to_owned()))
    }
}

fn check_name(name: &str) -> Result<(), AccessError> {
    match name_fault(name) {
        Some(fault) => Err(AccessError::BadName { name: name.to_owned(), fault }),
        None => Ok(()),
    }
}
