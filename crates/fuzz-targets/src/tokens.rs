//! Text that a client presents as a token, or an operator as a grant.
//!
//! Checked besides not failing: nothing but the two genuine tokens is accepted, however near it
//! comes, and a grant that is understood survives its own text.

use std::sync::{Arc, LazyLock};

use kv_api::KvError;
use kv_api::access::{AccessCommand, Grant, Policy, TokenRecord};
use kv_server::access::{
    ConnectionFacts, Gate, JwtKeys, JwtSettings, PolicySource, Rule, Session, digest_of, token_text,
};

/// A public key. The private one was thrown away.
const RSA_N: &str = "p-B4IjpDG8tSDA63NM3s5jDXLh8tp6Cpc2LqVn6vQ0jK6P-HKmQG4gyBrHRQI2Xz1L5TkmLsHVaD6F616BR8vpKGSfqbquWjN2V_T_dkOD2rX0TMy_HEQPDpH4Doz65mglq52TphcN3LaU6oBug-kt-_dP7Mo1y3mvvmcMJ3eA19qgkXgfRRlil-7O6qVHUNx_dKC-qsNSsb4uslAin5ImSbkUzvgv8nLANpKoc-HmAMMSubPphXqrBGQYV1a2NRMCvLvkClMCZqYuFO9cPEMsyBTNclxQJEqTvJKpiGaLom9dSkDeU1HX9xR2DFKweuK-PCYBmL7pxCfoFoDGeAYw";
/// Valid until the year 2100.
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYSJ9.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIiLCAiYXVkIjogInN5bm9ka3YiLCAic3ViIjogImV2ZSIsICJleHAiOiA0MTAyNDQ0ODAwLCAic3lub2Rrdl9yb2xlcyI6IFsicmVhZGVyIl19.hthkSPJPxWcDKgqLS6s0jiMtkLvhfZY7QNq03zv61kigkiJJAehmWTWO3kbLV87YJBdqBCNnUNLXD2zYi7SIiI8HyEKmGtNLXsT7SW7rVrXczJ7zqIjN5kAVr8ebKQRUa4V_hNQVrK-yuHxTTcLe7nLXpNgoRxwjaPxs7OhA1bgKejOKGAvSrRH-2OOIm2sDUt84btVuw3Om07lP_Ocm9myNozaXcWrzupg0NaxGbZ19E8BPaSBXymmos7W8cVo_tJhG5b1FmGlCRdFK6AieYavrcdp4PK2OmQ1mTwqgVGyP8-0O7tVg9NIXSLVAWxyN7J4uDxCO_T-lqsvMFB_NvA";

struct Fixed(Arc<Policy>);

impl PolicySource for Fixed {
    fn enabled_revision(&self) -> u64 {
        self.0.revision
    }

    fn policy(&self) -> Arc<Policy> {
        self.0.clone()
    }

    fn check_fresh(&self) -> Result<(), KvError> {
        Ok(())
    }
}

fn opaque() -> String {
    token_text(1, &[7; 32])
}

static GATE: LazyLock<Gate> = LazyLock::new(|| {
    let mut policy = Policy::default();
    let token = TokenRecord { id: 1, sha256: digest_of(&opaque()).to_vec().into(), ..TokenRecord::default() };
    policy.change(&AccessCommand::Enable(token).into(), 1).expect("the first change");
    let keys = format!(r#"{{"keys": [{{"kty": "RSA", "kid": "rsa", "n": "{RSA_N}", "e": "AQAB"}}]}}"#);
    let settings = JwtSettings { keys: "".into(), issuer: "https://issuer".into(), audience: "synodkv".into() };
    let keys = JwtKeys::of_text(settings, keys.as_bytes()).expect("good keys");
    Gate::new(Arc::new(Fixed(Arc::new(policy))), Some(keys), false)
});

pub fn authenticate(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_genuine = text == opaque() || text == RSA_TOKEN;
    let session = Arc::new(Session::new(ConnectionFacts::plain(([127, 0, 0, 1], 1).into(), None)));
    let authenticated = GATE.authenticate(&session, &text);
    assert_eq!(authenticated.is_ok(), is_genuine, "{text}");
    let admitted = GATE.admit(&session, None, "fuzz", Rule::Identified);
    assert_eq!(admitted.is_ok(), is_genuine, "{text}");
    let of_request = GATE.admit(&session, Some(&text), "fuzz", Rule::Identified);
    assert_eq!(of_request.is_ok(), is_genuine, "{text}");
    if let Err(error) = authenticated {
        assert!(matches!(error, KvError::Unauthenticated(_)), "{error}");
    }
    if let Ok(grant) = text.parse::<Grant>() {
        let again = grant.to_string();
        assert_eq!(again.parse::<Grant>().as_ref(), Ok(&grant), "{again}");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let grants = ["read,write default,orders prefix:eu/", "admin:status *", "read a range:\\x00..b"];
    let none = RSA_TOKEN.split_once('.').map(|(_, rest)| format!("eyJhbGciOiJub25lIn0.{rest}")).unwrap_or_default();
    let tokens = [opaque(), RSA_TOKEN.to_string(), none];
    grants.into_iter().map(str::to_string).chain(tokens).map(String::into_bytes).collect()
}
