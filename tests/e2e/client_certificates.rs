//! Certificates of clients: asked for, judged, told by variables, kept over resumption, renewed by a reload.
//! What is expected was seen of nginx, on which these run as well.

use crate::authority::Authority;
use crate::support::server::{Plan, Signal, is_nginx};
use crate::support::{eventually, within};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const CONFIG: &str = "
    worker_processes auto;
    error_log stderr info;
    events { }
    http {
        access_log off;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate certs/cert.pem;
        ssl_certificate_key certs/key.pem;
        server {
            listen 8443 ssl http2;
            ssl_verify_client on;
            ssl_client_certificate ca/root.pem;
            location / { return 200 \"$ssl_client_verify|$ssl_client_s_dn|$ssl_client_i_dn|$ssl_client_s_dn_legacy|$ssl_client_serial|$ssl_client_v_remain\"; }
        }
        server {
            listen 8444 ssl http2;
            ssl_verify_client optional;
            ssl_client_certificate ca/root.pem;
            ssl_crl ca/root.crl;
            error_page 495 =403 /bad;
            location / { return 200 \"$ssl_client_verify|$ssl_client_s_dn\"; }
            location = /bad { return 200 \"bad $ssl_client_verify\"; }
        }
        server {
            listen 8445 ssl;
            ssl_verify_client optional_no_ca;
            location / { return 200 \"$ssl_client_verify|$ssl_client_fingerprint|$ssl_client_escaped_cert\"; }
        }
        server {
            listen 8446 ssl;
            ssl_verify_client on;
            ssl_client_certificate ca/root.pem;
            ssl_trusted_certificate ca/other.pem;
            ssl_verify_depth 0;
            error_page 496 /none;
            location / { return 200 $ssl_client_verify; }
            location = /none { return 200 \"none $ssl_client_verify\"; }
        }
        server {
            listen 8447 ssl http2;
            server_name open.example;
            location / { return 200 \"open $ssl_client_verify $ssl_session_reused\"; }
        }
        server {
            listen 8447 ssl http2;
            server_name shut.example;
            ssl_verify_client on;
            ssl_client_certificate ca/root.pem;
            location / { return 200 \"shut $ssl_client_verify $ssl_session_reused\"; }
        }
        server {
            listen 8447 ssl http2;
            server_name else.example;
            ssl_verify_client optional;
            ssl_client_certificate ca/other.pem;
            location / { return 200 \"else $ssl_client_verify $ssl_session_reused\"; }
        }
    }";

fn plan(ca: &Authority) -> Plan {
    let mut plan = Plan::new(CONFIG).certificate();
    for name in ["root.pem", "other.pem", "root.crl"] {
        plan = plan.file(&format!("ca/{name}"), ca.read(name));
    }
    plan
}

const WAYS: [&[&str]; 3] =
    [&["--http1.1", "--tlsv1.3"], &["--http1.1", "--tls-max", "1.2"], &["--http2", "--tlsv1.3"]];

#[tokio::test]
async fn requests_are_answered_by_what_the_certificate_came_to() {
    let ca = Authority::new();
    let server = plan(&ca).start().await;
    for way in WAYS {
        let get = |port, name| ca.get(&server, port, name, way);
        let good = "SUCCESS|CN=J\\C3\\B6rg,emailAddress=a@b.c,O=A \\\"b\\\"\\, c,C=XX|CN=Root,O=Root\\, Inc,C=XX|\
                    /C=XX/O=A \"b\", c/emailAddress=a@b.c/CN=J\\xC3\\xB6rg|";
        let (status, body) = get(8443, Some("good")).await;
        assert_eq!(status, "200");
        let rest = body.strip_prefix(good).unwrap_or_else(|| panic!("{way:?}: {body}"));
        // The number, and the days that remain: eight less what has passed since.
        let number = "good".bytes().fold(0xab_u64, |n, b| n << 4 ^ u64::from(b));
        let want = |days| format!("{:0>6}|{days}", format!("{number:X}"));
        assert!([want(7), want(8)].contains(&rest.to_string()), "{rest}");
        assert!(get(8443, Some("old")).await.1.starts_with("SUCCESS|CN=old"));
        assert!(get(8443, Some("chain")).await.1.starts_with("SUCCESS|CN=low"));
        for (port, name, status, body) in [
            (8443, None, "400", "No required SSL certificate was sent"),
            (8443, Some("stranger"), "400", "The SSL certificate error"),
            (8443, Some("server"), "400", "The SSL certificate error"),
            (8443, Some("low"), "400", "The SSL certificate error"),
            (8443, Some("other"), "400", "The SSL certificate error"),
            (8444, None, "200", "NONE|"),
            (8444, Some("old"), "200", "SUCCESS|CN=old"),
            (8444, Some("revoked"), "403", "bad FAILED:certificate revoked"),
            (8444, Some("chain"), "403", "bad FAILED:unable to get certificate CRL"),
            (8444, Some("stranger"), "403", "bad FAILED:unable to verify the first certificate"),
            (8444, Some("other"), "403", "bad FAILED:unable to get certificate CRL"),
        ] {
            let got = get(port, name).await;
            assert!(got.0 == status && got.1.contains(body), "{way:?} {port} {name:?}: {got:?}");
        }
    }
    server.reported("client SSL certificate verify error: (21:unable to verify the first certificate)").await;
}

#[tokio::test]
async fn who_is_trusted_and_how_far() {
    let ca = Authority::new();
    let server = plan(&ca).start().await;
    for (port, name, status, body) in [
        (8445, None, "200", "NONE||"),
        (8445, Some("stranger"), "200", "FAILED:unable to verify the first certificate|"),
        (8445, Some("other"), "200", "FAILED:self-signed certificate|"),
        (8445, Some("low"), "200", "FAILED:unable to verify the first certificate|"),
        (8446, Some("server"), "400", "The SSL certificate error"),
        (8446, None, "400", "none NONE"),
        (8446, Some("good"), "200", "SUCCESS"),
        (8446, Some("stranger"), "200", "SUCCESS"),
        (8446, Some("chain"), "400", "The SSL certificate error"),
    ] {
        let got = ca.get(&server, port, name, &[]).await;
        assert!(got.0 == status && got.1.contains(body), "{port} {name:?}: {got:?}");
    }
    let (_, text) = ca.get(&server, 8445, Some("stranger"), &[]).await;
    let parts: Vec<_> = text.split('|').collect();
    assert_eq!(parts[1].len(), 40);
    assert!(parts[2].starts_with("-----BEGIN%20CERTIFICATE-----%0AMII"), "{text}");
}

#[tokio::test]
async fn a_host_with_other_rules_than_the_name_of_the_handshake_is_misdirected() {
    let ca = Authority::new();
    let server = plan(&ca).start().await;
    let addr = server.addr(8447);
    for way in ["--http1.1", "--http2"] {
        for (name, host, certificate, status, body) in [
            ("open.example", "open.example", None, "200", "open NONE ."),
            ("open.example", "shut.example", None, "421", "421 Misdirected Request"),
            ("open.example", "else.example", Some("good"), "421", "421 Misdirected Request"),
            ("shut.example", "shut.example", None, "400", "No required SSL certificate was sent"),
            ("shut.example", "shut.example", Some("good"), "200", "shut SUCCESS ."),
            ("shut.example", "else.example", Some("good"), "421", "421 Misdirected Request"),
            ("shut.example", "open.example", Some("good"), "200", "open SUCCESS ."),
            ("else.example", "else.example", Some("good"), "400", "The SSL certificate error"),
            // A name that nobody has is no name.
            ("none.example", "shut.example", Some("good"), "400", "No required SSL certificate was sent"),
        ] {
            let resolve = format!("{name}:{}:{}", addr.port(), addr.ip());
            let url = format!("https://{name}:{}/", addr.port());
            let field = format!("Host: {host}");
            let got = ca.fetch(&url, certificate, &["--resolve", &resolve, "-H", &field, way]).await;
            assert!(got.0 == status && got.1.contains(body), "{way} {name} {host} {certificate:?}: {got:?}");
        }
    }
}

/// One request by `openssl s_client`; what was answered, once it has the session.
async fn resume(directory: &Path, addr: std::net::SocketAddr, host: &str, args: &[&str]) -> String {
    let mut child = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &addr.to_string(), "-servername", host, "-quiet"])
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stdin.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut all = String::new();
    let read = async {
        while let Ok(Some(line)) = lines.next_line().await {
            all += &line;
            all.push('\n');
        }
    };
    within("the answer", read).await;
    all
}

#[tokio::test]
async fn a_resumed_session_keeps_what_was_shown_and_opens_nothing_else() {
    let ca = Authority::new();
    let server = plan(&ca).one_worker().start().await;
    let addr = server.addr(8447);
    let directory = &ca.path("");
    for version in ["-tls1_2", "-tls1_3"] {
        let good = [version, "-sess_out", "good.sess", "-cert", "good.pem", "-key", "good.key"];
        let text = resume(directory, addr, "shut.example", &good).await;
        assert!(text.contains("shut SUCCESS ."), "{text}");
        // Without the certificate: the session has it.
        let text = resume(directory, addr, "shut.example", &[version, "-sess_in", "good.sess"]).await;
        assert!(text.contains("shut SUCCESS r"), "{version}: {text}");
        // A session of a server that asks for nothing is none of a server that does.
        let open = [version, "-sess_out", "open.sess"];
        let text = resume(directory, addr, "open.example", &open).await;
        assert!(text.contains("open NONE ."), "{text}");
        let text = resume(directory, addr, "shut.example", &[version, "-sess_in", "open.sess"]).await;
        assert!(!text.contains("200 OK"), "{version}: {text}");
        // nginx ends the handshake, or answers 421 as for a name that was not negotiated.
        let asked = text.contains("No required SSL certificate was sent");
        assert!(asked || is_nginx(), "{version}: {text}");
        // Nor is one under another authority.
        let text = resume(directory, addr, "else.example", &[version, "-sess_in", "good.sess"]).await;
        assert!(!text.contains("else SUCCESS"), "{version}: {text}");
    }
}

#[tokio::test]
async fn a_reload_reads_lists_anew() {
    let ca = Authority::new();
    let plan = plan(&ca).file("ca/root.crl", ca.read("before.crl"));
    let server = plan.start().await;
    let revoked = || ca.get(&server, 8444, Some("revoked"), &[]);
    assert_eq!(revoked().await.1, "SUCCESS|CN=revoked");
    server.write("ca/root.crl", ca.read("root.crl"));
    server.signal(Signal::HUP);
    eventually("the new list", || async {
        (revoked().await.1 == "bad FAILED:certificate revoked").then_some(())
    })
    .await;
    assert_eq!(ca.get(&server, 8444, Some("good"), &[]).await.0, "200");
}

#[tokio::test]
async fn keys_are_opened_with_passwords() {
    let ca = Authority::new();
    for (name, cipher) in [("a.key", "aes-256-cbc"), ("b.key", "des3")] {
        ca.openssl(&[
            "pkcs8",
            "-topk8",
            "-in",
            "good.key",
            "-out",
            name,
            "-v2",
            cipher,
            "-passout",
            "pass:secret",
        ]);
    }
    ca.openssl(&[
        "pkcs8",
        "-topk8",
        "-in",
        "good.key",
        "-out",
        "c.key",
        "-scrypt",
        "-passout",
        "pass:secret",
    ]);
    let config = |key: &str, passwords: &str| {
        format!(
            "events {{ }} http {{ server {{ listen 8443 ssl; {passwords} ssl_certificate ca/good.pem;
             ssl_certificate_key ca/{key}; location / {{ return 200 opened; }} }} }}"
        )
    };
    let plan = |key: &str, passwords: &str| {
        let mut plan = Plan::new(&config(key, passwords));
        for name in ["good.pem", "a.key", "b.key", "c.key"] {
            plan = plan.file(&format!("ca/{name}"), ca.read(name));
        }
        plan.file("passwords", "wrong\nsecret\n").file("wrong", "wrong\n")
    };
    for key in ["a.key", "b.key", "c.key"] {
        let server = plan(key, "ssl_password_file passwords;").start().await;
        assert_eq!(ca.get(&server, 8443, None, &[]).await.1, "opened", "{key}");
        let ran = plan(key, "ssl_password_file wrong;").check().await;
        assert_ne!(ran.code, Some(0), "{key}");
        assert!(ran.stderr.contains("cannot load certificate key"), "{}", ran.stderr);
    }
}
