//! Requests are served under `user`; what only root may read still loads and reloads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::support::certificate;
use crate::support::client::{Client, get};
use crate::support::eventually;
use crate::support::http2::Http2;
use crate::support::server::{Plan, Signal, is_nginx};

const CONFIG: &str = "
    user nobody nogroup;
    worker_processes 2;
    events {}
    http {
        server {
            listen 8080;
            listen 8443 ssl;
            http2 on;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            root {prefix};
        }
    }";

#[tokio::test]
async fn requests_are_served_under_the_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root may change its user");
        return;
    }
    let prepared = Plan::new(CONFIG).certificate().file("open", "open").file("closed", "closed").prepare();
    let prefix = prepared.prefix().to_path_buf();
    // Others may come in; the key and one file are root's alone.
    mode(&prefix, 0o755);
    mode(&prefix.join("certs/key.pem"), 0o600);
    mode(&prefix.join("closed"), 0o600);
    let server = prepared.spawn();
    server.ready().await;

    assert_eq!(get(server.addr(8080), "/open").await.text(), "open");
    assert_eq!(get(server.addr(8080), "/closed").await.status, 403);
    Client::tls(server.addr(8443), "localhost").await;
    if !is_nginx() {
        // Threads of one process: the first holds the rights, the workers have given theirs up.
        let process = server.pid().as_raw_nonzero();
        let mut users: Vec<u32> = fs::read_dir(format!("/proc/{process}/task"))
            .unwrap()
            .map(|task| user_of(&task.unwrap().path().join("status")))
            .collect();
        users.sort_unstable();
        assert_eq!(users[0], 0);
        let nobody = users.iter().filter(|user| **user == user_id("nobody")).count();
        assert!(nobody >= 2, "{users:?}");
    }

    let new = certificate::for_names(&["localhost"]);
    server.write("certs/cert.pem", &new.certificate);
    server.write("certs/key.pem", &new.key);
    mode(&prefix.join("certs/key.pem"), 0o600);
    server.signal(Signal::HUP);
    let new = CertificateDer::from_pem_slice(&new.certificate).unwrap();
    eventually("the new certificate", || async {
        let client = Http2::connect(server.addr(8443), "localhost").await;
        (client.tls.certificate == new.as_ref()).then_some(())
    })
    .await;
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The effective user of a task.
fn user_of(status: &Path) -> u32 {
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

fn user_id(name: &str) -> u32 {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}
