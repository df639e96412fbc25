//! What the directives come to, and what they refuse.

use crate::conf::build::load_text;
use crate::conf::{ConfResult, Config};
use std::path::Path;

fn certs() -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
    format!("ssl_certificate {0}/dev.pem; ssl_certificate_key {0}/dev.key;", directory.display())
}

fn load(server: &str) -> ConfResult<Config> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("junk"), "junk").unwrap();
    let text = format!("events {{}}\nhttp {{\nserver {{\nlisten 127.0.0.1:1 ssl;\n{server}\n}} }}");
    load_text(directory.path(), &text)
}

fn message(server: &str) -> String {
    match load(server) {
        Ok(_) => panic!("it loads: {server}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_pair_of_files_is_enough() {
    let config = load(&certs()).unwrap();
    let http = config.http.unwrap();
    assert!(http.servers[0].conf.ssl.tls.is_some());
    assert!(config.notes.is_empty(), "{:?}", config.notes);
}

#[test]
fn mistakes_in_files_are_told_with_their_place() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs");
    let (pem, key) = (directory.join("dev.pem"), directory.join("dev.key"));
    let (pem, key) = (pem.display(), key.display());
    for (server, want, line) in [
        (String::new(), "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive", 3),
        (format!("ssl_certificate {pem};"), "no \"ssl_certificate_key\" is defined for certificate", 5),
        (format!("ssl_certificate no.pem;\nssl_certificate_key {key};"), "cannot load certificate \"/", 5),
        (format!("ssl_certificate {pem};\nssl_certificate_key no;"), "cannot load certificate key \"/", 6),
        (format!("ssl_certificate junk;\nssl_certificate_key {key};"), "no start line", 5),
        (format!("ssl_certificate {pem};\nssl_certificate_key junk;"), "cannot load certificate key", 6),
        (format!("ssl_certificate $a;\nssl_certificate_key {key};"), "variables in \"ssl_certificate\"", 5),
    ] {
        let text = message(&server);
        assert!(text.contains(want), "{text}");
        assert!(text.contains(&format!("test.conf:{line}")), "{text}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let rng = aws_lc_rs::rand::SystemRandom::new();
    let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
    let key = aws_lc_rs::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap();
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.as_ref())
    );
    let path = directory.path().join("other.key");
    std::fs::write(&path, pem).unwrap();
    let certificate = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/dev.pem");
    let text = message(&format!(
        "ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        path.display()
    ));
    assert!(text.contains("key values mismatch"), "{text}");
}

#[test]
fn what_cannot_be_offered_is_an_error_only_when_nothing_remains() {
    let with = |text: &str| format!("{}\n{text}", certs());
    assert!(message(&with("ssl_protocols TLSv1 TLSv1.1;")).contains("no version"));
    assert!(message(&with("ssl_protocols TLSv1.2; ssl_ciphers DHE+AES;")).contains("none of the suites"));
    assert!(
        message(&with("ssl_conf_command MinProtocol TLSv1.3; ssl_protocols TLSv1.2;")).contains("no version")
    );
    assert!(message(&with("ssl_ecdh_curve secp521r1;")).contains("none of the groups"));
    for (text, notes) in [
        ("ssl_protocols TLSv1 TLSv1.2 TLSv1.3;", 1),
        ("ssl_ciphers DHE+AES:ECDHE+AESGCM;", 1),
        ("ssl_ciphers DHE+AES;", 2),
        ("ssl_ecdh_curve X25519:secp521r1;", 1),
        ("ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;", 0),
    ] {
        let config = load(&with(text)).unwrap();
        assert_eq!(config.notes.len(), notes, "{text}: {:?}", config.notes);
    }
}

#[test]
fn values_are_checked_as_nginx_checks_them() {
    for (text, want) in [
        ("ssl_protocols TLSv9;", "invalid value \"TLSv9\""),
        ("ssl_session_cache foo;", "invalid session cache \"foo\""),
        ("ssl_session_cache shared:x;", "invalid session cache \"shared:x\""),
        ("ssl_session_cache shared:x:1k;", "session cache \"shared:x:1k\" is too small"),
        ("ssl_session_ticket_key junk;", "must be 48 or 80 bytes"),
        ("ssl_ecdh_curve foo;", "group 'foo' cannot be set"),
        ("ssl_conf_command Foo x;", "unknown cmd name"),
        ("ssl_conf_command VerifyMode Request;", "not supported yet"),
        ("ssl_verify_client maybe;", "invalid value \"maybe\""),
        ("ssl_verify_client on;", "no ssl_client_certificate for ssl_verify_client"),
        ("ssl_verify_client optional; ssl_client_certificate nowhere;", "cannot load certificate \"/"),
        ("ssl_verify_client on; ssl_client_certificate junk;", "no start line: Expecting: CERTIFICATE"),
        ("ssl_trusted_certificate nowhere;", "cannot load certificate \"/"),
        ("ssl_crl nowhere;", "cannot load CRL \"/"),
        ("ssl_crl junk;", "no start line: Expecting: X509 CRL"),
        ("ssl_verify_depth x;", "\"ssl_verify_depth\" directive invalid number"),
        ("ssl_password_file nowhere;", "failed (2: No such file or directory)"),
        ("ssl on;", "unknown directive \"ssl\""),
    ] {
        let text = message(&format!("{}\n{text}", certs()));
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn a_default_server_that_rejects_needs_no_certificate_but_others_do() {
    assert!(load("ssl_reject_handshake on;").is_ok());
    let other = "ssl_reject_handshake on; }\nserver { listen 127.0.0.1:1 ssl; server_name x;";
    assert!(message(other).contains("no \"ssl_certificate\" is defined"));
    assert!(load(&format!("{other} {}", certs())).is_ok());
}

#[test]
fn a_shared_cache_has_one_size() {
    let other = format!(
        "{0} ssl_session_cache shared:S:1m; }}\nserver {{ listen 127.0.0.1:2 ssl; {0} ssl_session_cache shared:S:2m;",
        certs()
    );
    assert!(message(&other).contains("conflicts with already declared size 1048576"));
}
