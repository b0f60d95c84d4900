//! Which web pages may ask for what.
//!
//! Only a browser sends an `Origin`, and opening a page of somebody else must not let that page
//! change the cluster, or read its rows. The browser keeps other pages from reading answers, with
//! one exception: a page of a name whose owner lets that name stand for the address of this server
//! (DNS rebinding). To the browser that page and this server are one site. So a request that names
//! the server by a name, and not by an address, must bring a token: such a page has none.

use axum::http::{HeaderMap, Uri, header};

/// Whether the request comes from a page of this server: the console.
pub(crate) fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    let Some(origin) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
        return false;
    };
    origin.eq_ignore_ascii_case(host) && is_addressed_safely(headers)
}

/// Whether no page of another site can have made this request look like one of its own.
pub(crate) fn is_addressed_safely(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::AUTHORIZATION) {
        return true;
    }
    // Programs may leave the header out in HTTP/1.0; browsers never do.
    let Some(host) = headers.get(header::HOST) else { return true };
    let host = host.to_str().ok().and_then(|host| host.parse::<Uri>().ok()?.host().map(str::to_owned));
    host.is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn only_a_page_of_this_server_is_its_own() {
        for (origin, host, is_own) in [
            ("http://127.0.0.1:9190", "127.0.0.1:9190", true),
            ("https://127.0.0.1:9190", "127.0.0.1:9190", true),
            ("http://localhost:9190", "LOCALHOST:9190", true),
            ("http://[::1]:9190", "[::1]:9190", true),
            ("http://127.0.0.1:9191", "127.0.0.1:9190", false),
            ("http://evil.example", "127.0.0.1:9190", false),
            ("http://evil.example:9190", "evil.example:9190", false),
            ("http://localhost.evil.example:9190", "localhost.evil.example:9190", false),
            ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", false),
            ("null", "127.0.0.1:9190", false),
        ] {
            assert_eq!(is_own_page(&headers(&[("origin", origin), ("host", host)])), is_own, "{origin} {host}");
        }
        assert!(!is_own_page(&headers(&[("host", "127.0.0.1:9190")])), "no page at all");
    }

    #[test]
    fn a_name_needs_a_token() {
        let name = [("origin", "http://kv.example:9190"), ("host", "kv.example:9190"), ("authorization", "Bearer x")];
        assert!(is_own_page(&headers(&name)));
        assert!(!is_addressed_safely(&headers(&name[..2])));
        assert!(is_addressed_safely(&headers(&[])));
        assert!(!is_addressed_safely(&headers(&[("host", "a b")])));
    }
}
