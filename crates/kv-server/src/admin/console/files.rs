//! The files of the console, which are part of the program.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde_json::json;

const FIRST_SCREEN: &str = "/console/overview";

/// A page loads nothing but files of this server, and runs nothing that stands in the page itself.
/// No other page may show it in a frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      object-src 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    // Another version of the server may answer at this address next.
    (header::CACHE_CONTROL, "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file: name, type, text.
type File = (&'static str, &'static str, &'static str);

const INDEX: File = ("index.html", HTML, include_str!("web/index.html"));

const FILES: &[File] = &[
    INDEX,
    ("console.css", CSS, include_str!("web/console.css")),
    ("screens.css", CSS, include_str!("web/screens.css")),
    ("icon.svg", SVG, include_str!("web/icon.svg")),
    ("main.js", JS, include_str!("web/main.js")),
    ("api.js", JS, include_str!("web/api.js")),
    ("dom.js", JS, include_str!("web/dom.js")),
    ("format.js", JS, include_str!("web/format.js")),
    ("chart.js", JS, include_str!("web/chart.js")),
    ("overview.js", JS, include_str!("web/overview.js")),
    ("members.js", JS, include_str!("web/members.js")),
    ("keys.js", JS, include_str!("web/keys.js")),
    ("valueview.js", JS, include_str!("web/valueview.js")),
    ("history.js", JS, include_str!("web/history.js")),
    ("edit.js", JS, include_str!("web/edit.js")),
    ("values.js", JS, include_str!("web/values.js")),
    ("stream.js", JS, include_str!("web/stream.js")),
    ("changes.js", JS, include_str!("web/changes.js")),
    ("load.js", JS, include_str!("web/load.js")),
    ("backups.js", JS, include_str!("web/backups.js")),
    ("config.js", JS, include_str!("web/config.js")),
    ("metrics.js", JS, include_str!("web/metrics.js")),
];

/// The paths of the files. They need no guard, because no file says anything about a cluster.
pub(in crate::admin) fn pages<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let home = || async { Redirect::temporary(FIRST_SCREEN) };
    Router::new()
        .route("/", get(home))
        .route("/console", get(home))
        .route("/console/", get(home))
        .route("/console/{name}", get(file))
}

async fn file(Path(name): Path<String>) -> Response {
    let found = FILES.iter().find(|(known, ..)| *known == name);
    // The page itself knows the screens, and says which ones there are.
    let screen = (!name.contains('.')).then_some(&INDEX);
    match found.or(screen) {
        Some((_, kind, text)) => (HEADERS, [(header::CONTENT_TYPE, *kind)], *text).into_response(),
        None => {
            let error = format!("the console has no file `{name}`; its first screen is {FIRST_SCREEN}");
            (StatusCode::NOT_FOUND, axum::Json(json!({ "error": error }))).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_only_files_that_exist_and_nothing_of_other_servers() {
        for (name, _, text) in FILES {
            for part in text.split(['"', '\'']).filter(|part| part.starts_with("./") || part.starts_with("/console/")) {
                let wanted = part.rsplit('/').next().expect("a part");
                let is_file = wanted.contains('.');
                assert!(!is_file || FILES.iter().any(|(known, ..)| *known == wanted), "{name} names {part}");
            }
            let elsewhere = text.replace("http://www.w3.org/", "");
            for scheme in ["src=\"http", "from \"http", "url(http", "import(\"http"] {
                assert!(!elsewhere.contains(scheme), "{name} loads from elsewhere");
            }
        }
    }

    #[test]
    fn the_page_has_no_script_or_style_of_its_own_that_its_policy_would_stop() {
        let (_, _, page) = INDEX;
        for part in ["<style", " style=", " onclick", " onload", "javascript:"] {
            assert!(!page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=").count());
        assert!(!POLICY.contains("unsafe"), "{POLICY}");
    }
}
