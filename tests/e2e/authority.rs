//! An authority of certificates for tests, made by the openssl command.

use crate::support::server::Server;
use crate::support::within;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// An authority's directory: made by the openssl command.
pub struct Authority(TempDir);

const LEAF: &str = "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n";
const SERVER: &str = "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:up.example,DNS:*.wild.example\n";
const BETWEEN: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

impl Authority {
    pub fn new() -> Self {
        let this = Authority(tempfile::tempdir().unwrap());
        this.own("root", "/C=XX/O=Root, Inc/CN=Root");
        this.own("other", "/CN=Other");
        for (name, issuer, subject, extensions) in [
            ("good", "root", "/C=XX/O=A \"b\", c/emailAddress=a@b.c/CN=Jörg", LEAF),
            ("old", "root", "/CN=old", ""),
            ("server", "root", "/CN=server", "extendedKeyUsage=serverAuth\n"),
            ("revoked", "root", "/CN=revoked", LEAF),
            ("between", "root", "/CN=between", BETWEEN),
            ("low", "between", "/CN=low", LEAF),
            ("stranger", "other", "/CN=stranger", LEAF),
            ("up", "root", "/CN=up", SERVER),
            ("named", "root", "/CN=up.example", ""),
        ] {
            this.issue(name, issuer, subject, extensions);
        }
        std::fs::write(this.path("chain.pem"), [this.read("low.pem"), this.read("between.pem")].concat())
            .unwrap();
        std::fs::copy(this.path("low.key"), this.path("chain.key")).unwrap();
        std::fs::write(
            this.path("ca.conf"),
            "[ca]\ndefault_ca=d\n[d]\ndatabase=db\nserial=ser\ndefault_md=sha256\ncrlnumber=num\n",
        )
        .unwrap();
        std::fs::write(this.path("num"), "01\n").unwrap();
        std::fs::write(this.path("db"), "").unwrap();
        this.list("before.crl");
        this.openssl(&[
            "ca",
            "-config",
            "ca.conf",
            "-cert",
            "root.pem",
            "-keyfile",
            "root.key",
            "-revoke",
            "revoked.pem",
        ]);
        this.list("root.crl");
        this
    }

    fn list(&self, name: &str) {
        self.openssl(&[
            "ca", "-config", "ca.conf", "-cert", "root.pem", "-keyfile", "root.key", "-gencrl", "-crldays",
            "9", "-out", name,
        ]);
    }

    fn own(&self, name: &str, subject: &str) {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "9",
            "-keyout",
            &key,
            "-out",
            &pem,
            "-subj",
            subject,
        ]);
    }

    pub fn issue(&self, name: &str, issuer: &str, subject: &str, extensions: &str) {
        let file = |of: &str, ending: &str| format!("{of}.{ending}");
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-utf8",
            "-keyout",
            &file(name, "key"),
            "-out",
            &file(name, "csr"),
            "-subj",
            subject,
        ]);
        std::fs::write(self.path("ext"), extensions).unwrap();
        let (csr, ca, ca_key, out) =
            (file(name, "csr"), file(issuer, "pem"), file(issuer, "key"), file(name, "pem"));
        // Each has a number of its own, by its name.
        let serial = name.bytes().fold(0xab_u64, |n, b| n << 4 ^ u64::from(b)).to_string();
        let mut args = vec![
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-set_serial",
            &serial,
            "-days",
            "8",
            "-out",
            &out,
        ];
        if !extensions.is_empty() {
            args.extend(["-extfile", "ext"]);
        }
        self.openssl(&args);
    }

    pub fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .expect("the openssl command");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The status and the body that curl gets with a certificate.
    pub async fn get(
        &self,
        server: &Server,
        port: u16,
        certificate: Option<&str>,
        more: &[&str],
    ) -> (String, String) {
        self.fetch(&format!("https://{}/", server.addr(port)), certificate, more).await
    }

    pub async fn fetch(&self, url: &str, certificate: Option<&str>, more: &[&str]) -> (String, String) {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sk", "--max-time", "20", "-w", "\n%{http_code}", url]).args(more);
        if let Some(name) = certificate {
            command.arg("--cert").arg(self.path(&format!("{name}.pem")));
            command.arg("--key").arg(self.path(&format!("{name}.key")));
        }
        let output = within("curl", command.kill_on_drop(true).output()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_string(), body.to_string())
    }
}
