//! The web console: its files, which hold no data, and the JSON that only it needs.
//!
//! | path | answer |
//! |---|---|
//! | `/`, `/console`, `/console/` | redirections to the first screen |
//! | `/console/NAME` | a file of the console; a NAME without a dot is a screen, which the page itself shows |
//! | `/console/api/session` | JSON: the user, their rights, the abilities of this server |
//! | `/console/api/series` | JSON: the recent past of some figures; see [`series`] |
//! | `/console/api/config` | JSON: every setting, its value and its origin; see [`settings`] |
//! | `/console/api/keys`, `/console/api/key` | JSON: keys below a prefix, one value; see [`keys`] |
//! | `/console/api/history` | JSON: the past of one key; see [`keys::history`] |
//! | POST `/console/api/key` | sets or deletes one key, if that is allowed; see [`keys::edit`] |
//!
//! Anybody gets the files. Everything that shows the cluster, here and at the other paths that the
//! console reads, passes the guard of the admin interface under the identity of the caller, who
//! gives a token in a header. The console has no rights of its own.

mod figures;
mod files;
pub(super) mod keys;
pub(crate) mod origin;
mod sampler;
pub(crate) mod series;
pub(super) mod settings;

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use kv_api::access::{Need, Verb};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(super) use files::pages;

use self::series::SharedSeries;
use super::AdminInterface;
use crate::access::Caller;
use crate::config::Config;
use crate::metrics::ServerMetrics;

/// How many requests for keys and values are answered at a time; more of them wait.
const KEY_REQUESTS_AT_A_TIME: usize = 4;

/// The state of the console in this server.
pub struct Console {
    settings: Vec<settings::Setting>,
    /// `admin.console_writes`.
    writes: bool,
    /// `admin.console_edits`.
    edits: bool,
    series: Arc<SharedSeries>,
    key_requests: Semaphore,
}

impl Console {
    /// The console of a server with this configuration.
    pub fn new(config: &Config) -> Console {
        Console {
            settings: settings::list(config),
            writes: config.admin.console_writes,
            edits: config.admin.console_edits,
            series: Arc::default(),
            key_requests: Semaphore::new(KEY_REQUESTS_AT_A_TIME),
        }
    }

    /// Whether it may ask for changes.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// Whether it may write rows.
    pub(super) fn edits(&self) -> bool {
        self.edits
    }

    /// Starts the one task that fills the series. It ends with `stop`.
    pub(super) fn sample(
        &self,
        metrics: Arc<ServerMetrics>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        sampler::run(metrics, self.series.clone(), stop)
    }
}

/// The user behind a request, and the screens and actions that this server offers to them.
pub(super) async fn session(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
) -> Json<Value> {
    let may = |verb: Verb| caller.check(&Need::cluster(verb)).is_ok();
    let families = caller.sees_all_families().then(|| interface.core.column_families());
    Json(json!({
        "user": caller.granted().map(|granted| granted.rights.user()),
        "may_see_status": may(Verb::AdminStatus),
        "may_change_members": may(Verb::AdminMember),
        "writes": interface.console.writes(),
        "edits": interface.console.edits(),
        "version": env!("CARGO_PKG_VERSION"),
        "column_families": families,
        "max_key_bytes": interface.core.limits().max_key_bytes,
    }))
}

pub(super) async fn series(
    State(interface): State<Arc<AdminInterface>>,
    query: axum::extract::Query<std::collections::HashMap<String, String>>,
) -> Result<Json<series::Page>, super::Refusal> {
    let wanted = series::Wanted::parse(query.0)?;
    Ok(Json(interface.console.series.page(&wanted)))
}

pub(super) async fn config(State(interface): State<Arc<AdminInterface>>) -> Json<Value> {
    Json(json!({ "settings": interface.console.settings }))
}
