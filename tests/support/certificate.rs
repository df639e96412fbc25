//! Certificates for tests: self-signed, P-256, made by the openssl command.
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A certificate and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pem {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// The certificate most tests use, made once per process: localhost, shop.example, *.example and 127.0.0.1.
pub fn shared() -> &'static Pem {
    static SHARED: OnceLock<Pem> = OnceLock::new();
    SHARED.get_or_init(|| for_names(&["localhost", "shop.example", "*.example"]))
}

/// A new certificate for `names`; the first is its common name.
pub fn for_names(names: &[&str]) -> Pem {
    let dir = tempfile::tempdir().unwrap();
    let alternatives: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-subj", &format!("/CN={}", names[0]), "-addext"])
        .arg(format!("subjectAltName={},IP:127.0.0.1", alternatives.join(",")))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("the openssl command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Pem {
        certificate: std::fs::read(dir.path().join("cert.pem")).unwrap(),
        key: std::fs::read(dir.path().join("key.pem")).unwrap(),
    }
}
