//! The table of permissions for calls: a row for each Thrift method and each HTTP route. Nothing
//! lacks a row, because the compiler wants one for each method, and routes are made from their
//! table.

use kv_api::access::{Verb, Verbs};
use kv_api::thrift::{Method, MethodKind};

/// The parts of the audit log, each with a setting of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// A rule about who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anybody.
    Open,
    /// Anybody with an identity: the call shows and changes nothing.
    Identified,
    /// Everybody who may do what the operation does, which is decided where it is passed on.
    Operation,
    /// Everybody with one of these verbs somewhere.
    Somewhere(Verbs),
    /// Everybody with this verb on everything.
    Cluster(Verb),
}

/// Any part in the life of a cluster: enough to see versions and who is there.
fn takes_part() -> Rule {
    Rule::Somewhere(Verbs::of(&[Verb::Read, Verb::Write, Verb::Watch, Verb::AdminStatus]))
}

/// Any right that some screen of the console needs.
fn sees_the_console() -> Rule {
    Rule::Somewhere(Verbs::of(&[Verb::Read, Verb::Write, Verb::Watch, Verb::AdminStatus, Verb::AdminMember]))
}

/// The rule for a Thrift method.
pub fn rule_of_method(method: Method) -> Rule {
    match method {
        Method::Ping | Method::Authenticate => Rule::Open,
        Method::Get
        | Method::GetRange
        | Method::SnapshotRead
        | Method::SnapshotGet
        | Method::SnapshotGetRange
        | Method::SetKey
        | Method::DeleteKey
        | Method::AtomicCommit
        | Method::SetVersionstampedKey
        | Method::SetVersionstampedValue
        | Method::PollChanges
        | Method::WatchKeys => Rule::Operation,
        Method::AddReadConflict
        | Method::AddReadConflictRange
        | Method::SetReadVersion
        | Method::GetCommittedVersion => Rule::Identified,
        // Clients find the other servers, and the limits, through them.
        Method::GetReadVersion | Method::GetClusterHealth | Method::GetNodeInfo => takes_part(),
        Method::PinSnapshot | Method::UnpinSnapshot => Rule::Somewhere(Verbs::of(&[Verb::Read])),
        Method::GetDatabaseStats => Rule::Cluster(Verb::AdminStatus),
        Method::SetFaultInjection => Rule::Cluster(Verb::Fault),
    }
}

/// The part of the audit log to which a call belongs; `None` for one whose operation is recorded
/// where it is passed on, and for calls that are not recorded.
pub fn recorded_as(method: Method) -> Option<Kind> {
    match method {
        Method::Ping
        | Method::Get
        | Method::GetRange
        | Method::GetReadVersion
        | Method::SnapshotRead
        | Method::SnapshotGet
        | Method::SnapshotGetRange
        | Method::SetKey
        | Method::DeleteKey
        | Method::AtomicCommit
        | Method::SetVersionstampedKey
        | Method::SetVersionstampedValue
        | Method::PollChanges
        | Method::WatchKeys
        | Method::AddReadConflict
        | Method::AddReadConflictRange
        | Method::SetReadVersion
        | Method::GetCommittedVersion => None,
        Method::GetClusterHealth
        | Method::GetNodeInfo
        | Method::GetDatabaseStats
        | Method::PinSnapshot
        | Method::UnpinSnapshot => Some(Kind::Read),
        Method::Authenticate | Method::SetFaultInjection => Some(Kind::Write),
    }
}

/// The part of the audit log to which the refusal of a call belongs.
pub fn kind_of(method: Method) -> Kind {
    recorded_as(method).unwrap_or(match method.kind() {
        MethodKind::Write => Kind::Write,
        MethodKind::Read | MethodKind::Other => Kind::Read,
    })
}

/// A route of the admin interface: one path with one HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Live,
    Ready,
    Status,
    Metrics,
    Slow,
    Threads,
    Top,
    RowsHash,
    Changes,
    ListFamilies,
    CreateFamily,
    DropFamily,
    Failover,
    FinalizeUpgrade,
    ShowMembers,
    ChangeMembers,
    ShowAccess,
    CheckAccess,
    BackUpAccess,
    EnableAccess,
    DisableAccess,
    AddUser,
    RemoveUser,
    SetUserRoles,
    DisableUser,
    AddToken,
    RevokeToken,
    SetRole,
    RemoveRole,
    ConsoleSession,
    ConsoleSeries,
    ConsoleConfig,
    ConsoleKeys,
    ConsoleKey,
    ConsoleHistory,
    ConsoleEdit,
}

/// The HTTP method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    Get,
    Post,
    Delete,
}

impl HttpMethod {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Post => "POST",
            HttpMethod::Delete => "DELETE",
        }
    }
}

impl Route {
    /// All routes.
    pub const ALL: [Route; 36] = [
        Route::Live,
        Route::Ready,
        Route::Status,
        Route::Metrics,
        Route::Slow,
        Route::Threads,
        Route::Top,
        Route::RowsHash,
        Route::Changes,
        Route::ListFamilies,
        Route::CreateFamily,
        Route::DropFamily,
        Route::Failover,
        Route::FinalizeUpgrade,
        Route::ShowMembers,
        Route::ChangeMembers,
        Route::ShowAccess,
        Route::CheckAccess,
        Route::BackUpAccess,
        Route::EnableAccess,
        Route::DisableAccess,
        Route::AddUser,
        Route::RemoveUser,
        Route::SetUserRoles,
        Route::DisableUser,
        Route::AddToken,
        Route::RevokeToken,
        Route::SetRole,
        Route::RemoveRole,
        Route::ConsoleSession,
        Route::ConsoleSeries,
        Route::ConsoleConfig,
        Route::ConsoleKeys,
        Route::ConsoleKey,
        Route::ConsoleHistory,
        Route::ConsoleEdit,
    ];

    /// Its HTTP method and its path; a part in braces stands for any text.
    pub fn place(self) -> (HttpMethod, &'static str) {
        match self {
            Route::Live => (HttpMethod::Get, "/health/live"),
            Route::Ready => (HttpMethod::Get, "/health/ready"),
            Route::Status => (HttpMethod::Get, "/status"),
            Route::Metrics => (HttpMethod::Get, "/metrics"),
            Route::Slow => (HttpMethod::Get, "/slow"),
            Route::Threads => (HttpMethod::Get, "/threads"),
            Route::Top => (HttpMethod::Get, "/top"),
            Route::RowsHash => (HttpMethod::Get, "/rows/hash"),
            Route::Changes => (HttpMethod::Get, "/changes"),
            Route::ListFamilies => (HttpMethod::Get, "/column-families"),
            Route::CreateFamily => (HttpMethod::Post, "/column-families/{name}"),
            Route::DropFamily => (HttpMethod::Delete, "/column-families/{name}"),
            Route::Failover => (HttpMethod::Post, "/failover"),
            Route::FinalizeUpgrade => (HttpMethod::Post, "/upgrade/finalize"),
            Route::ShowMembers => (HttpMethod::Get, "/members"),
            Route::ChangeMembers => (HttpMethod::Post, "/members"),
            Route::ShowAccess => (HttpMethod::Get, "/auth"),
            Route::CheckAccess => (HttpMethod::Get, "/auth/check"),
            Route::BackUpAccess => (HttpMethod::Get, "/auth/backup"),
            Route::EnableAccess => (HttpMethod::Post, "/auth/enable"),
            Route::DisableAccess => (HttpMethod::Post, "/auth/disable"),
            Route::AddUser => (HttpMethod::Post, "/auth/users/{name}"),
            Route::RemoveUser => (HttpMethod::Delete, "/auth/users/{name}"),
            Route::SetUserRoles => (HttpMethod::Post, "/auth/users/{name}/roles"),
            Route::DisableUser => (HttpMethod::Post, "/auth/users/{name}/disabled"),
            Route::AddToken => (HttpMethod::Post, "/auth/tokens/{id}"),
            Route::RevokeToken => (HttpMethod::Delete, "/auth/tokens/{id}"),
            Route::SetRole => (HttpMethod::Post, "/auth/roles/{name}"),
            Route::RemoveRole => (HttpMethod::Delete, "/auth/roles/{name}"),
            Route::ConsoleSession => (HttpMethod::Get, "/console/api/session"),
            Route::ConsoleSeries => (HttpMethod::Get, "/console/api/series"),
            Route::ConsoleConfig => (HttpMethod::Get, "/console/api/config"),
            Route::ConsoleKeys => (HttpMethod::Get, "/console/api/keys"),
            Route::ConsoleKey => (HttpMethod::Get, "/console/api/key"),
            Route::ConsoleHistory => (HttpMethod::Get, "/console/api/history"),
            Route::ConsoleEdit => (HttpMethod::Post, "/console/api/key"),
        }
    }

    /// Its name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Route::Live => "GET /health/live",
            Route::Ready => "GET /health/ready",
            Route::Status => "GET /status",
            Route::Metrics => "GET /metrics",
            Route::Slow => "GET /slow",
            Route::Threads => "GET /threads",
            Route::Top => "GET /top",
            Route::RowsHash => "GET /rows/hash",
            Route::Changes => "GET /changes",
            Route::ListFamilies => "GET /column-families",
            Route::CreateFamily => "POST /column-families",
            Route::DropFamily => "DELETE /column-families",
            Route::Failover => "POST /failover",
            Route::FinalizeUpgrade => "POST /upgrade/finalize",
            Route::ShowMembers => "GET /members",
            Route::ChangeMembers => "POST /members",
            Route::ShowAccess => "GET /auth",
            Route::CheckAccess => "GET /auth/check",
            Route::BackUpAccess => "GET /auth/backup",
            Route::EnableAccess => "POST /auth/enable",
            Route::DisableAccess => "POST /auth/disable",
            Route::AddUser => "POST /auth/users",
            Route::RemoveUser => "DELETE /auth/users",
            Route::SetUserRoles => "POST /auth/users/roles",
            Route::DisableUser => "POST /auth/users/disabled",
            Route::AddToken => "POST /auth/tokens",
            Route::RevokeToken => "DELETE /auth/tokens",
            Route::SetRole => "POST /auth/roles",
            Route::RemoveRole => "DELETE /auth/roles",
            Route::ConsoleSession => "GET /console/api/session",
            Route::ConsoleSeries => "GET /console/api/series",
            Route::ConsoleConfig => "GET /console/api/config",
            Route::ConsoleKeys => "GET /console/api/keys",
            Route::ConsoleKey => "GET /console/api/key",
            Route::ConsoleHistory => "GET /console/api/history",
            Route::ConsoleEdit => "POST /console/api/key",
        }
    }

    /// The rule about who may use it.
    pub fn rule(self) -> Rule {
        match self {
            Route::Live | Route::Ready => Rule::Open,
            Route::Status | Route::Metrics | Route::Threads | Route::ListFamilies | Route::ShowMembers => {
                Rule::Cluster(Verb::AdminStatus)
            }
            Route::RowsHash | Route::Changes | Route::CreateFamily | Route::DropFamily => Rule::Operation,
            // They show keys, which those who only watch the servers need not know.
            Route::Slow | Route::Top => Rule::Cluster(Verb::AdminMember),
            Route::ConsoleSeries | Route::ConsoleConfig => Rule::Cluster(Verb::AdminStatus),
            Route::ConsoleSession => sees_the_console(),
            Route::ConsoleKeys | Route::ConsoleKey | Route::ConsoleHistory => Rule::Somewhere(Verbs::of(&[Verb::Read])),
            Route::ConsoleEdit => Rule::Somewhere(Verbs::of(&[Verb::Write])),
            Route::Failover | Route::FinalizeUpgrade | Route::ChangeMembers => Rule::Cluster(Verb::AdminMember),
            // What tokens hash to, for those who keep it.
            Route::BackUpAccess => Rule::Cluster(Verb::AdminBackup),
            Route::ShowAccess
            | Route::CheckAccess
            | Route::EnableAccess
            | Route::DisableAccess
            | Route::AddUser
            | Route::RemoveUser
            | Route::SetUserRoles
            | Route::DisableUser
            | Route::AddToken
            | Route::RevokeToken
            | Route::SetRole
            | Route::RemoveRole => Rule::Cluster(Verb::AdminAuth),
        }
    }

    /// As [`recorded_as`].
    pub fn recorded_as(self) -> Option<Kind> {
        match self {
            // Each poll of a stream of changes is recorded by itself.
            Route::Live | Route::Ready | Route::Changes => None,
            // Open pages ask for these again and again.
            Route::ConsoleSession | Route::ConsoleSeries => None,
            // The reads and writes that they make are recorded.
            Route::ConsoleKeys | Route::ConsoleKey | Route::ConsoleHistory | Route::ConsoleEdit => None,
            Route::ConsoleConfig => Some(Kind::Read),
            Route::Status
            | Route::Metrics
            | Route::Slow
            | Route::Threads
            | Route::Top
            | Route::RowsHash
            | Route::ListFamilies
            | Route::ShowMembers
            | Route::ShowAccess
            | Route::CheckAccess => Some(Kind::Read),
            // It takes hashes of tokens out of the cluster: rare, and worth a line.
            Route::BackUpAccess => Some(Kind::Write),
            Route::Failover | Route::FinalizeUpgrade | Route::ChangeMembers => Some(Kind::Write),
            Route::CreateFamily
            | Route::DropFamily
            | Route::EnableAccess
            | Route::DisableAccess
            | Route::AddUser
            | Route::RemoveUser
            | Route::SetUserRoles
            | Route::DisableUser
            | Route::AddToken
            | Route::RevokeToken
            | Route::SetRole
            | Route::RemoveRole => None,
        }
    }

    /// Whether it changes something, so that no web page may ask for it.
    pub fn changes(self) -> bool {
        self.place().0 != HttpMethod::Get
    }

    /// Whether only the web console needs it. A page of another site must not get its answer.
    pub fn is_of_console(self) -> bool {
        self.place().1.starts_with("/console/")
    }
}
