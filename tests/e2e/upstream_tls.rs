//! TLS towards upstreams: which versions and suites, whose certificates, shown and seen.
//! What is expected was seen of nginx, on which these run as well.

use crate::authority::Authority;
use crate::support::client::Client;
use crate::support::server::{Plan, Server, is_nginx};

const ORIGIN: &str = "
    worker_processes 1;
    events { }
    http {
        access_log off;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:S:1m;
        server {
            listen 8443 ssl;
            ssl_certificate ca/up.pem;
            ssl_certificate_key ca/up.key;
            location / { return 200 \"$ssl_protocol $ssl_cipher [$ssl_server_name] $ssl_session_reused\"; }
        }
        server {
            listen 8444 ssl;
            ssl_certificate ca/named.pem;
            ssl_certificate_key ca/named.key;
            ssl_verify_client on;
            ssl_client_certificate ca/root.pem;
            location / { return 200 \"$ssl_client_verify $ssl_client_s_dn\"; }
        }
        server {
            listen 8445 ssl;
            ssl_certificate ca/revoked.pem;
            ssl_certificate_key ca/revoked.key;
            location / { return 200 revoked; }
        }
        server {
            listen 8446 ssl;
            ssl_protocols TLSv1.2;
            ssl_certificate ca/chain.pem;
            ssl_certificate_key ca/chain.key;
            location / { return 200 old; }
        }
    }";

const FRONT: &str = "
    worker_processes 1;
    error_log stderr info;
    events { }
    http {
        access_log off;
        proxy_set_header Connection close;
        proxy_ssl_trusted_certificate ca/root.pem;
        proxy_ssl_protocols TLSv1.2 TLSv1.3;
        proxy_ssl_session_reuse off;
        server {
            listen 8080;
            location /plain { proxy_pass https://ORIGIN/; }
            location /old { proxy_ssl_protocols TLSv1.2; proxy_pass https://ORIGIN/; }
            location /new { proxy_ssl_protocols TLSv1.3; proxy_pass https://ORIGIN/; }
            location /suite {
                proxy_ssl_protocols TLSv1.2;
                proxy_ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305;
                proxy_pass https://ORIGIN/;
            }
            location /new-to-old { proxy_ssl_protocols TLSv1.3; proxy_pass https://OLD/; }
            location /reused { proxy_ssl_session_reuse on; proxy_ssl_protocols TLSv1.2; proxy_pass https://ORIGIN/; }
            location /named { proxy_ssl_server_name on; proxy_ssl_name $arg_name; proxy_pass https://ORIGIN/; }
            location /checked { proxy_ssl_verify on; proxy_ssl_name $arg_name; proxy_pass https://ORIGIN/; }
            location /common {
                proxy_ssl_verify on;
                proxy_ssl_name up.example;
                proxy_ssl_certificate ca/good.pem;
                proxy_ssl_certificate_key ca/sealed.key;
                proxy_ssl_password_file passwords;
                proxy_pass https://CLIENT/;
            }
            location /nothing-shown { proxy_pass https://CLIENT/; }
            location /listed {
                proxy_ssl_verify on;
                proxy_ssl_crl ca/root.crl;
                proxy_ssl_name revoked;
                proxy_pass https://REVOKED/;
            }
            location /unlisted { proxy_ssl_verify on; proxy_ssl_name up.example; proxy_pass https://ORIGIN/; }
        }
    }";

async fn start(ca: &Authority) -> (Server, Server) {
    let mut origin = Plan::new(ORIGIN);
    for name in ["up", "named", "revoked", "chain"] {
        origin = origin.file(&format!("ca/{name}.pem"), ca.read(&format!("{name}.pem")));
        origin = origin.file(&format!("ca/{name}.key"), ca.read(&format!("{name}.key")));
    }
    let origin = origin.file("ca/root.pem", ca.read("root.pem")).start().await;
    let sealed =
        ["-topk8", "-in", "good.key", "-out", "sealed.key", "-v2", "aes-256-cbc", "-passout", "pass:secret"];
    ca.openssl(&[&["pkcs8"], &sealed[..]].concat());
    let mut front = Plan::new(FRONT).file("passwords", "wrong\nsecret\n");
    for name in ["root.pem", "root.crl", "good.pem", "sealed.key"] {
        front = front.file(&format!("ca/{name}"), ca.read(name));
    }
    for (name, port) in [("ORIGIN", 8443), ("CLIENT", 8444), ("REVOKED", 8445), ("OLD", 8446)] {
        front = front.upstream(name, origin.addr(port));
    }
    (front.start().await, origin)
}

#[tokio::test]
async fn what_is_offered_is_what_was_said() {
    let ca = Authority::new();
    let (front, _origin) = start(&ca).await;
    for (target, status, body) in [
        ("/plain", 200, "TLSv1.3 TLS_AES_256_GCM_SHA384 [] ."),
        ("/old", 200, "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384 [] ."),
        ("/new", 200, "TLSv1.3 TLS_AES_256_GCM_SHA384 [] ."),
        ("/suite", 200, "TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305 [] ."),
        ("/new-to-old", 502, "502 Bad Gateway"),
        ("/named?name=up.example", 200, "[up.example] ."),
        ("/named?name=127.0.0.1", 200, "[] ."),
        ("/reused", 200, "[] ."),
        ("/reused", 200, "[] r"),
        ("/old", 200, "[] ."),
    ] {
        let answer = Client::connect(front.addr(8080)).await.get(target).await;
        let text = answer.text();
        assert!(answer.status == status && text.contains(body), "{target}: {} {text}", answer.status);
    }
    front.reported("while SSL handshaking to upstream").await;
}

#[tokio::test]
async fn upstreams_are_who_they_have_to_be() {
    let ca = Authority::new();
    let (front, _origin) = start(&ca).await;
    for (target, status, said) in [
        ("/checked?name=up.example", 200, ""),
        ("/checked?name=UP.example", 200, ""),
        ("/checked?name=a.wild.example", 200, ""),
        ("/unlisted", 200, ""),
        (
            "/checked?name=up",
            502,
            "upstream SSL certificate does not match \"up\" while SSL handshaking to upstream",
        ),
        (
            "/checked?name=a.b.wild.example",
            502,
            "upstream SSL certificate does not match \"a.b.wild.example\"",
        ),
        ("/checked?name=127.0.0.1", 502, "upstream SSL certificate does not match \"127.0.0.1\""),
        ("/listed", 502, "upstream SSL certificate verify error: (23:certificate revoked)"),
    ] {
        let answer = Client::connect(front.addr(8080)).await.get(target).await;
        assert_eq!(answer.status, status, "{target}: {}", front.stderr());
        front.reported(said).await;
    }
}

#[tokio::test]
async fn a_certificate_is_shown_to_who_asks() {
    let ca = Authority::new();
    let (front, _origin) = start(&ca).await;
    let mut client = Client::connect(front.addr(8080)).await;
    let text = client.get("/common").await.text().to_string();
    assert!(text.starts_with("SUCCESS CN=J\\C3\\B6rg"), "{text}");
    let answer = Client::connect(front.addr(8080)).await.get("/nothing-shown").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("No required SSL certificate was sent"));
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let ca = Authority::new();
    let of = |text: &str| {
        let config = format!("events {{ }} http {{ server {{ listen 8080; {text} proxy_pass_to; }} }}");
        let config = config.replace("proxy_pass_to;", "location / { proxy_pass https://127.0.0.1:1; }");
        Plan::new(&config)
            .file("ca/good.pem", ca.read("good.pem"))
            .file("ca/up.key", ca.read("up.key"))
            .file("junk", "x")
    };
    for (text, said) in [
        ("proxy_ssl_verify on;", "no proxy_ssl_trusted_certificate for proxy_ssl_verify"),
        ("proxy_ssl_certificate ca/good.pem;", "no \"proxy_ssl_certificate_key\" is defined for certificate"),
        ("proxy_ssl_certificate ca/good.pem; proxy_ssl_certificate_key ca/up.key;", "key values mismatch"),
        ("proxy_ssl_password_file nowhere;", "nowhere\" failed (2: No such file or directory)"),
        ("proxy_ssl_verify on; proxy_ssl_trusted_certificate junk;", "junk"),
        ("proxy_ssl_protocols TLSv9;", "invalid value \"TLSv9\""),
    ] {
        let ran = of(text).check().await;
        assert!(ran.code != Some(0) && ran.stderr.contains(said), "{text}: {}", ran.stderr);
    }
    if is_nginx() {
        return;
    }
    for (text, said) in [
        ("proxy_ssl_certificate $a.pem;", "variables in \"proxy_ssl_certificate\" are not supported yet"),
        ("proxy_ssl_protocols TLSv1 TLSv1.1;", "no version of \"proxy_ssl_protocols\" can be spoken"),
        (
            "proxy_ssl_protocols TLSv1.2; proxy_ssl_ciphers DHE+AES;",
            "none of the suites of \"proxy_ssl_ciphers\"",
        ),
    ] {
        let ran = of(text).check().await;
        assert!(ran.code != Some(0) && ran.stderr.contains(said), "{text}: {}", ran.stderr);
    }
}
