//! HTTP/2 with clients that others wrote: curl, nghttp, h2load.

use crate::support::server::{Plan, Server};
use crate::support::within;
use std::process::Stdio;

const CONFIG: &str = "
    events { }
    http {
        access_log off;
        open_file_cache max=100;
        server {
            listen 8443 ssl http2;
            ssl_certificate certs/cert.pem;
            ssl_certificate_key certs/key.pem;
            location / { root {prefix}/site; }
        }
    }";

/// Of every length around what frames and records hold.
const SIZES: [usize; 9] = [0, 1, 1024, 16_375, 16_376, 16_384, 65_535, 200_000, 5_000_000];

async fn start() -> Server {
    let mut plan = Plan::new(CONFIG).certificate();
    for size in SIZES {
        plan = plan.file(&format!("site/{size}"), content(size));
    }
    plan.start().await
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

/// What a command prints; `None` where it is not installed.
async fn printed(program: &str, arguments: &[String]) -> Option<Vec<u8>> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = match within(program, command.output()).await {
        Ok(output) => output,
        Err(_) => {
            eprintln!("SKIPPED: no {program}");
            return None;
        }
    };
    assert!(output.status.success(), "{program} {arguments:?}");
    Some(output.stdout)
}

#[tokio::test]
async fn curl_gets_bodies_of_all_sizes_side_by_side() {
    let server = start().await;
    let addr = server.addr(8443);
    // The second and third time they come from memory.
    for _ in 0..3 {
        for size in SIZES {
            let url = format!("https://{addr}/{size}");
            let Some(got) = printed("curl", &["-sk".into(), "--http2".into(), url]).await else { return };
            assert!(got == content(size), "{size}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let mut arguments: Vec<String> = ["-skZ", "--http2", "--fail-early"].map(String::from).into();
    for size in SIZES {
        let file = directory.path().join(size.to_string());
        arguments.extend([format!("https://{addr}/{size}"), "-o".into(), file.display().to_string()]);
    }
    if printed("curl", &arguments).await.is_some() {
        for size in SIZES {
            assert!(
                std::fs::read(directory.path().join(size.to_string())).unwrap() == content(size),
                "{size}"
            );
        }
    }
}

#[tokio::test]
async fn narrow_windows_and_many_streams() {
    let server = start().await;
    let addr = server.addr(8443);
    // 1023 bytes a stream, and for each connection.
    for window in ["10", "16", "30"] {
        let mut arguments: Vec<String> =
            ["-n", "--no-dep", "-w", window, "-W", "16"].map(String::from).into();
        arguments.extend(SIZES[..8].iter().map(|size| format!("https://{addr}/{size}")));
        if printed("nghttp", &arguments).await.is_none() {
            break;
        }
    }
    for size in SIZES {
        let count = if size > 1_000_000 { 20 } else { 400 };
        let arguments =
            ["-n", &count.to_string(), "-c2", "-m20", &format!("https://{addr}/{size}")].map(String::from);
        let Some(said) = printed("h2load", &arguments).await else { return };
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(&format!("{count} succeeded, 0 failed")), "{said}");
        assert!(said.contains(&format!("{count} 2xx")), "{said}");
    }
}
