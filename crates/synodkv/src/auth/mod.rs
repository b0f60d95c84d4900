//! `auth`: users, roles and tokens.

mod args;
mod show;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use kv_api::access::Grant;
use kv_client::Token;
use kv_server::access::{digest_of, new_token};
use serde_json::{Value, json};

pub use args::AuthArgs;
use args::{AuthAction, AuthTarget, CheckArgs, EnableArgs, RoleAction, TokenAction, UserAction};

use crate::access;
use crate::admin::{AdminClient, encoded};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::text::{Notation, to_hex};

pub async fn run(args: AuthArgs) -> Result<ExitCode, Failure> {
    let client = AdminClient::new()?;
    match args.action {
        AuthAction::Enable(args) => enable(&client, args).await,
        AuthAction::Disable { i_understand, target } => disable(&client, i_understand, &target).await,
        AuthAction::Show(target) => show(&client, &target).await,
        AuthAction::Check(args) => check(&client, args).await,
        AuthAction::User { action } => user(&client, action).await,
        AuthAction::Role { action } => role(&client, action).await,
        AuthAction::Token { action } => token(&client, action).await,
    }
}

/// Makes the change, and says that it is done.
async fn change(
    client: &AdminClient,
    target: &AuthTarget,
    method: Method,
    path: String,
    query: &[(&str, String)],
    done: &str,
) -> Result<ExitCode, Failure> {
    let document: Value = client.change(method, &target.admin, &path, query).await?;
    output::done(target.format, &document, done)
}

/// A name as part of a path. The server decides whether it is a good one.
fn path_of(kind: &str, name: &str, rest: &str) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::Usage("the name is empty".into()));
    }
    Ok(format!("/auth/{kind}/{}{rest}", encoded(name)))
}

fn fresh_token() -> Result<(u64, Token), Failure> {
    let (id, secret) = new_token().map_err(Failure::Unsure)?;
    Ok((id, Token::new(secret.reveal())))
}

/// The first token: that in the file, of an attempt whose answer was lost, or a new one.
fn first_token(file: &Path) -> Result<(u64, Token), Failure> {
    if !file.exists() {
        let (id, token) = fresh_token()?;
        write_token(file, &token)?;
        return Ok((id, token));
    }
    let token = access::read_token(file)?;
    match kv_server::access::Secret::new(token.reveal()).token_id() {
        Some(id) => Ok((id, token)),
        None => Err(Failure::Usage(format!("{} exists and holds no token of SynodKV", file.display()))),
    }
}

/// Only the owner may read the file.
fn write_token(file: &Path, token: &Token) -> Result<(), Failure> {
    let fault = |error: std::io::Error| Failure::Usage(format!("{}: {error}", file.display()));
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(fault)?;
    writeln!(out, "{}", token.reveal()).and_then(|()| out.sync_all()).map_err(fault)
}

async fn enable(client: &AdminClient, args: EnableArgs) -> Result<ExitCode, Failure> {
    let EnableArgs { root_token_file, allow_plaintext, target } = args;
    let addresses = target.admin.addresses()?;
    let is_plain = !allow_plaintext && access::tls()?.is_none();
    if is_plain && let Some(address) = addresses.iter().find(|address| !is_local(address)) {
        return Err(Failure::Usage(format!(
            "tokens would travel to {address} readable for everybody in between: use TLS (--ca), or give --allow-plaintext"
        )));
    }
    let (id, token) = first_token(&root_token_file)?;
    let query = [("id", format!("{id:016x}")), ("sha256", to_hex(&digest_of(token.reveal())))];
    let file = root_token_file.display();
    let done = format!("authentication is enabled; {file} holds the token of root: export SYNODKV_TOKEN_FILE={file}");
    change(client, &target, Method::POST, "/auth/enable".into(), &query, &done).await
}

/// Whether an address is on this machine, as far as its text says so.
fn is_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn disable(client: &AdminClient, i_understand: bool, target: &AuthTarget) -> Result<ExitCode, Failure> {
    if !i_understand {
        return Err(Failure::Usage(
            "afterwards everybody who reaches a server may do everything: give --i-understand".into(),
        ));
    }
    let done = "authentication is disabled: everybody may do everything; users, roles and tokens are kept";
    change(client, target, Method::POST, "/auth/disable".into(), &[], done).await
}

async fn policy(client: &AdminClient, target: &AuthTarget) -> Result<(Value, show::Policy), Failure> {
    let (_, document): (String, Value) = client.first(&target.admin, "/auth").await?;
    let policy = serde_json::from_value(document.clone()).map_err(Failure::of_answer)?;
    Ok((document, policy))
}

async fn show(client: &AdminClient, target: &AuthTarget) -> Result<ExitCode, Failure> {
    let (document, policy) = policy(client, target).await?;
    match target.format {
        Format::Json => output::write_json(&document)?,
        Format::Text => output::write_line(&show::everything(&policy))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(client: &AdminClient, args: CheckArgs) -> Result<ExitCode, Failure> {
    let CheckArgs { user, verb, family, key, bytes, target } = args;
    let mut query = vec![("user", user), ("verb", verb)];
    query.extend(family.map(|family| ("family", family)));
    if let Some(key) = key {
        let notation = if bytes.hex { Notation::Hex } else { Notation::Escaped };
        let key = notation.argument("key", &key)?;
        query.push(("key", to_hex(&key)));
    }
    let (_, document): (String, Value) = client.first_with(&target.admin, "/auth/check", &query).await?;
    let decision: show::Decision = serde_json::from_value(document.clone()).map_err(Failure::of_answer)?;
    match target.format {
        Format::Json => output::write_json(&document)?,
        Format::Text => output::write_line(&show::decision(&decision))?,
    }
    Ok(if decision.allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn user(client: &AdminClient, action: UserAction) -> Result<ExitCode, Failure> {
    let roles_of = |roles: Vec<String>| roles.into_iter().map(|role| ("role", role)).collect::<Vec<_>>();
    match action {
        UserAction::Add { name, role, target } => {
            let path = path_of("users", &name, "")?;
            change(client, &target, Method::POST, path, &roles_of(role), &format!("user {name} exists")).await
        }
        UserAction::Remove { name, target } => {
            let done = format!("user {name} is gone, with its tokens");
            change(client, &target, Method::DELETE, path_of("users", &name, "")?, &[], &done).await
        }
        UserAction::Roles { name, role, target } => {
            let path = path_of("users", &name, "/roles")?;
            change(client, &target, Method::POST, path, &roles_of(role), &format!("user {name} has these roles")).await
        }
        UserAction::Disable { name, target } => {
            let (path, query) = (path_of("users", &name, "/disabled")?, [("value", "1".to_string())]);
            change(client, &target, Method::POST, path, &query, &format!("user {name} is shut out")).await
        }
        UserAction::Enable { name, target } => {
            let (path, query) = (path_of("users", &name, "/disabled")?, [("value", "0".to_string())]);
            change(client, &target, Method::POST, path, &query, &format!("user {name} is let in")).await
        }
    }
}

async fn role(client: &AdminClient, action: RoleAction) -> Result<ExitCode, Failure> {
    match action {
        RoleAction::Set { name, grant, target } => {
            // A mistake is found here, before anything is sent.
            for text in &grant {
                text.parse::<Grant>().map_err(Failure::Usage)?;
            }
            let grants: Vec<_> = grant.into_iter().map(|grant| ("grant", grant)).collect();
            let path = path_of("roles", &name, "")?;
            change(client, &target, Method::POST, path, &grants, &format!("role {name} has these grants")).await
        }
        RoleAction::Remove { name, target } => {
            let done = format!("role {name} is gone");
            change(client, &target, Method::DELETE, path_of("roles", &name, "")?, &[], &done).await
        }
    }
}

async fn token(client: &AdminClient, action: TokenAction) -> Result<ExitCode, Failure> {
    match action {
        TokenAction::Create { user, expires, target } => {
            let (id, token) = fresh_token()?;
            let mut query = vec![("user", user), ("sha256", to_hex(&digest_of(token.reveal())))];
            query.extend(expires.map(|time| ("expires_us", in_microseconds(time))));
            let path = format!("/auth/tokens/{id:016x}");
            let _: Value = client.change(Method::POST, &target.admin, &path, &query).await?;
            let document = json!({ "id": format!("{id:016x}"), "token": token.reveal() });
            output::done(target.format, &document, token.reveal())
        }
        TokenAction::List(target) => {
            let (document, policy) = policy(client, &target).await?;
            match target.format {
                Format::Json => output::write_json(&document["tokens"])?,
                Format::Text => output::write_line(&show::tokens(&policy.tokens))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        TokenAction::Revoke { id, target } => {
            let done = format!("token {id} is revoked");
            change(client, &target, Method::DELETE, path_of("tokens", &id, "")?, &[], &done).await
        }
    }
}

/// This long from now, in microseconds since 1970.
fn in_microseconds(time: Duration) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.saturating_add(time).as_micros().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_is_written_once_and_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("root.token");
        let (id, token) = first_token(&file).expect("a new token");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(first_token(&file).expect("the same token"), (id, token));
        std::fs::write(&file, "something else").expect("a file");
        assert!(matches!(first_token(&file), Err(Failure::Usage(_))));
    }

    #[test]
    fn only_this_machine_is_local() {
        for address in ["127.0.0.1:9190", "localhost:1", "[::1]:9190", "127.9.9.9:1"] {
            assert!(is_local(address), "{address}");
        }
        for address in ["10.0.0.1:9190", "localhost.example:1", "0.0.0.0:1", "db:9190"] {
            assert!(!is_local(address), "{address}");
        }
    }
}
