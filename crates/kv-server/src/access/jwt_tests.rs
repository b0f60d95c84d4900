//! Good JWTs and every kind of bad one. The private key of the RSA samples was thrown away.

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const RSA_N: &str = "p-B4IjpDG8tSDA63NM3s5jDXLh8tp6Cpc2LqVn6vQ0jK6P-HKmQG4gyBrHRQI2Xz1L5TkmLsHVaD6F616BR8vpKGSfqbquWjN2V_T_dkOD2rX0TMy_HEQPDpH4Doz65mglq52TphcN3LaU6oBug-kt-_dP7Mo1y3mvvmcMJ3eA19qgkXgfRRlil-7O6qVHUNx_dKC-qsNSsb4uslAin5ImSbkUzvgv8nLANpKoc-HmAMMSubPphXqrBGQYV1a2NRMCvLvkClMCZqYuFO9cPEMsyBTNclxQJEqTvJKpiGaLom9dSkDeU1HX9xR2DFKweuK-PCYBmL7pxCfoFoDGeAYw";
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYSJ9.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIiLCAiYXVkIjogInN5bm9ka3YiLCAic3ViIjogImV2ZSIsICJleHAiOiA0MTAyNDQ0ODAwLCAic3lub2Rrdl9yb2xlcyI6IFsicmVhZGVyIl19.hthkSPJPxWcDKgqLS6s0jiMtkLvhfZY7QNq03zv61kigkiJJAehmWTWO3kbLV87YJBdqBCNnUNLXD2zYi7SIiI8HyEKmGtNLXsT7SW7rVrXczJ7zqIjN5kAVr8ebKQRUa4V_hNQVrK-yuHxTTcLe7nLXpNgoRxwjaPxs7OhA1bgKejOKGAvSrRH-2OOIm2sDUt84btVuw3Om07lP_Ocm9myNozaXcWrzupg0NaxGbZ19E8BPaSBXymmos7W8cVo_tJhG5b1FmGlCRdFK6AieYavrcdp4PK2OmQ1mTwqgVGyP8-0O7tVg9NIXSLVAWxyN7J4uDxCO_T-lqsvMFB_NvA";

const NOW_US: u64 = 1_700_000_000_000_000;
const NOW: u64 = NOW_US / 1_000_000;

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

struct Issuer {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        Issuer {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("a key"),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).expect("a key"),
        }
    }

    /// The public keys, as a file has them.
    fn set(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": encoded(self.ed.public_key()) },
            { "kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) },
            { "kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB" },
            { "kty": "RSA", "kid": "for encryption", "use": "enc", "n": RSA_N, "e": "AQAB" },
            { "kty": "oct", "kid": "symmetric", "alg": "HS256", "k": encoded(b"a shared secret") },
        ] })
    }

    fn keys(&self) -> Vec<Key> {
        let set: KeySet = serde_json::from_value(self.set()).expect("a set");
        set.keys.iter().filter_map(Key::of).collect()
    }

    fn token(&self, header: Value, claims: Value) -> String {
        let message = message(&header, &claims);
        let signature = match header["alg"].as_str() {
            Some("ES256") => {
                self.ec.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature").as_ref().to_vec()
            }
            _ => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encoded(signature))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()))
}

fn settings() -> JwtSettings {
    JwtSettings { keys: "keys.json".into(), issuer: "https://issuer".into(), audience: "synodkv".into() }
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "synodkv", "sub": "eve", "exp": NOW + 60, "synodkv_roles": ["reader"] })
}

/// The claims with one of them replaced, or removed if it is null.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn check(issuer: &Issuer, token: &str) -> Result<Claims, JwtFault> {
    verify(token, &issuer.keys(), &settings(), NOW_US)
}

#[test]
fn each_accepted_algorithm_verifies() {
    let issuer = Issuer::new();
    let expires_us = (NOW + 60) * 1_000_000 + LEEWAY_US;
    let expected = Claims { subject: "eve".into(), roles: vec!["reader".into()], expires_us };
    for header in [
        json!({ "alg": "EdDSA" }),
        json!({ "alg": "EdDSA", "kid": "ed", "typ": "JWT" }),
        json!({ "alg": "ES256" }),
        json!({ "alg": "ES256", "kid": "ec" }),
    ] {
        assert_eq!(check(&issuer, &issuer.token(header, claims())), Ok(expected.clone()));
    }
    assert_eq!(check(&issuer, RSA_TOKEN).map(|claims| claims.subject), Ok("eve".into()));
    let several = issuer.token(json!({ "alg": "EdDSA" }), with("aud", json!(["other", "synodkv"])));
    assert_eq!(check(&issuer, &several), Ok(expected));
}

#[test]
fn a_token_without_a_signature_or_with_one_of_another_kind_fits_no_key() {
    let issuer = Issuer::new();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "RS512", "PS256", "ES384"] {
        let header = json!({ "alg": alg });
        assert_eq!(check(&issuer, &issuer.token(header.clone(), claims())), Err(JwtFault::NoKey), "{alg}");
        assert_eq!(check(&issuer, &format!("{}.", message(&header, &claims()))), Err(JwtFault::NoKey), "{alg}");
    }
    // The public key is no secret: whoever takes it for one accepts forged tokens.
    let public = [issuer.ed.public_key().as_ref().to_vec(), issuer.ec.public_key().as_ref().to_vec(), RSA_N.into()];
    for (secret, kid) in public.iter().zip(["ed", "ec", "rsa"]) {
        for alg in ["HS256", "EdDSA", "ES256", "RS256"] {
            let message = message(&json!({ "alg": alg, "kid": kid }), &claims());
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
            let refused = check(&issuer, &format!("{message}.{}", encoded(tag)));
            assert!(matches!(refused, Err(JwtFault::NoKey | JwtFault::Signature)), "{alg} {kid}: {refused:?}");
        }
    }
    let of_encryption = json!({ "alg": "RS256", "kid": "for encryption" });
    assert_eq!(check(&issuer, &issuer.token(of_encryption, claims())), Err(JwtFault::NoKey));
}

#[test]
fn a_signature_by_another_key_or_of_another_text_is_refused() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let header = || json!({ "alg": "EdDSA", "kid": "ed" });
    assert_eq!(check(&issuer, &other.token(header(), claims())), Err(JwtFault::Signature));
    let unknown = json!({ "alg": "EdDSA", "kid": "another" });
    assert_eq!(check(&issuer, &issuer.token(unknown, claims())), Err(JwtFault::NoKey));
    let token = issuer.token(header(), claims());
    let (_, signature) = token.rsplit_once('.').expect("a signature");
    let stronger = message(&header(), &with("synodkv_roles", json!(["root"])));
    assert_eq!(check(&issuer, &format!("{stronger}.{signature}")), Err(JwtFault::Signature));
    let forged = RSA_TOKEN.replace("hthkSPJP", "hthkSPJQ");
    assert_ne!(forged, RSA_TOKEN);
    assert_eq!(check(&issuer, &forged), Err(JwtFault::Signature));
}

#[test]
fn each_claim_is_checked() {
    let issuer = Issuer::new();
    let leeway = LEEWAY_US / 1_000_000;
    for (name, value, expected) in [
        ("exp", json!(NOW - leeway), Err(JwtFault::Expired)),
        ("exp", json!(NOW - leeway + 1), Ok(())),
        ("exp", json!(0), Err(JwtFault::Expired)),
        ("exp", Value::Null, Err(JwtFault::Claims)),
        ("exp", json!("tomorrow"), Err(JwtFault::Claims)),
        ("exp", json!(-1), Err(JwtFault::Claims)),
        ("exp", json!(1e300), Ok(())),
        ("nbf", json!(NOW + leeway + 1), Err(JwtFault::NotYet)),
        ("nbf", json!(NOW + leeway), Ok(())),
        ("nbf", json!([]), Err(JwtFault::Claims)),
        ("iss", json!("https://other"), Err(JwtFault::Issuer)),
        ("iss", Value::Null, Err(JwtFault::Issuer)),
        ("iss", json!(["https://issuer"]), Err(JwtFault::Issuer)),
        ("aud", json!("other"), Err(JwtFault::Audience)),
        ("aud", json!(["other"]), Err(JwtFault::Audience)),
        ("aud", json!([]), Err(JwtFault::Audience)),
        ("aud", Value::Null, Err(JwtFault::Audience)),
        ("sub", Value::Null, Err(JwtFault::Claims)),
        ("sub", json!(""), Err(JwtFault::Claims)),
        ("sub", json!(7), Err(JwtFault::Claims)),
        ("synodkv_roles", Value::Null, Ok(())),
        ("synodkv_roles", json!("root"), Err(JwtFault::Claims)),
        ("synodkv_roles", json!([7]), Err(JwtFault::Claims)),
    ] {
        let token = issuer.token(json!({ "alg": "EdDSA" }), with(name, value.clone()));
        assert_eq!(check(&issuer, &token).map(drop), expected, "{name} = {value}");
    }
}

#[test]
fn what_is_no_jwt_is_refused() {
    let issuer = Issuer::new();
    let token = issuer.token(json!({ "alg": "EdDSA" }), claims());
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        &token[1..],
        &format!("{token}="),
        &format!("{token}.{token}"),
        &format!("{token}\n"),
    ] {
        let refused = check(&issuer, text);
        assert!(matches!(refused, Err(JwtFault::NotOne | JwtFault::Signature)), "{text}: {refused:?}");
    }
    let critical = issuer.token(json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false }), claims());
    assert_eq!(check(&issuer, &critical), Err(JwtFault::NotOne));
    let no_claims = issuer.token(json!({ "alg": "EdDSA" }), json!("claims"));
    assert_eq!(check(&issuer, &no_claims), Err(JwtFault::Issuer));
}

#[test]
fn the_keys_are_read_again_when_the_file_changes_and_kept_when_it_is_broken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    let (first, second) = (Issuer::new(), Issuer::new());
    let write = |text: String| std::fs::write(&file, text).expect("a file");
    write(first.set().to_string());
    let keys = JwtKeys::load(JwtSettings { keys: file.clone(), ..settings() }).expect("keys");
    let token = |issuer: &Issuer| Secret::new(issuer.token(json!({ "alg": "EdDSA" }), claims()));
    let accepts = |issuer| keys.verify(&token(issuer), NOW_US).is_ok();
    let before = keys.generation(NOW_US);
    assert!(accepts(&first) && !accepts(&second));

    // Files of different lengths, because a clock of the file system may be coarse.
    write("no JSON".into());
    assert_eq!(keys.generation(NOW_US + LOOK_INTERVAL_US), before);
    assert!(accepts(&first), "the keys read before stay in force");

    write(format!("{} ", second.set()));
    assert_eq!(keys.generation(NOW_US + LOOK_INTERVAL_US), before, "it is looked at once a second");
    assert_eq!(keys.generation(NOW_US + 2 * LOOK_INTERVAL_US), before + 1);
    assert!(!accepts(&first) && accepts(&second));
}

#[test]
fn a_file_without_a_usable_key_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    let load = || JwtKeys::load(JwtSettings { keys: file.clone(), ..settings() }).map(drop).expect_err("an error");
    assert!(load().contains("keys.json"), "{}", load());
    for (text, fault) in
        [("{}", "no JSON Web Key Set"), ("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}", "no public key")]
    {
        std::fs::write(&file, text).expect("a file");
        assert!(load().contains(fault), "{}", load());
    }
}
