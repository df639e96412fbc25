//! Responses in brotli and Zstandard, read by curl and by the codecs themselves: there is no nginx with these modules
//! to compare with.

use std::io::Read;

use crate::support::client::{Client, Response, get};
use crate::support::eventually;
use crate::support::server::{Plan, Server, is_nginx};

const CONFIG: &str = "
    load_module modules/ngx_http_brotli_filter_module.so;
    load_module modules/ngx_http_zstd_filter_module.so;
    worker_processes 1;
    events {}
    http {
        types { text/html html; text/css css; image/png png; }
        log_format ratios '$uri $brotli_ratio $zstd_ratio $gzip_ratio';
        access_log {prefix}/access.log ratios;
        root {prefix}/site;
        gzip_vary on;
        server {
            listen 8080;
            location / { brotli on; zstd on; gzip on; brotli_types text/css; gzip_types text/css image/png; }
            location /best/ { alias {prefix}/site/; brotli on; brotli_comp_level 11; brotli_window 1m; }
            location /bestz/ { alias {prefix}/site/; zstd on; zstd_comp_level 22; }
            location /long/ { alias {prefix}/site/; brotli on; zstd on; brotli_min_length 1m; zstd_min_length 1m; }
            location /beside/ { alias {prefix}/site/; brotli_static on; zstd_static on; gzip_static on; }
            location /always/ { alias {prefix}/site/; brotli_static always; }
            location /live/ { proxy_pass http://127.0.0.1:9000; proxy_buffering off; brotli on; zstd on; }
        }
    }";

/// Text that compresses, and does not repeat exactly.
fn text() -> String {
    (0..20_000).map(|n| format!("line {n} of {}\n", n * 7919 % 1000)).collect()
}

async fn start() -> Server {
    let beside =
        |suffix: &str| (format!("site/beside.html{suffix}"), format!("in place of the file: {suffix}"));
    let mut plan = Plan::new(CONFIG)
        .file("site/a.html", text())
        .file("site/a.css", text())
        .file("site/a.png", text())
        .file("site/short.html", "short")
        .file("site/only.html.br", "only br");
    for (path, text) in ["", ".br", ".zst", ".gz"].map(beside) {
        plan = plan.file(&path, text);
    }
    plan.start().await
}

async fn ask(server: &Server, target: &str, accepted: &str) -> Response {
    let mut client = Client::connect(server.addr(8080)).await;
    client.get_with(target, &[("Accept-Encoding", accepted)]).await
}

/// What there is of a text in a coding, whole or flushed so far.
fn decoded(coding: Option<&str>, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = match coding {
        Some("br") => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        Some("zstd") => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        Some("gzip") => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        _ => (&mut &bytes[..]).read_to_end(&mut out),
    };
    out
}

#[tokio::test]
async fn the_first_coding_that_the_client_takes() {
    if is_nginx() {
        return;
    }
    let server = start().await;
    for (target, accepted, coding) in [
        ("/a.html", "gzip, br, zstd", Some("zstd")),
        ("/a.html", "gzip, br", Some("br")),
        ("/a.html", "zstd;q=0, BR;q=0.1", Some("br")),
        ("/a.html", "zstd;q=0, br;q=0.000, gzip", Some("gzip")),
        ("/a.html", "brotli, xzstd", None),
        ("/a.html", "*", None),
        ("/a.css", "gzip, br, zstd", Some("br")),
        ("/a.png", "gzip, br, zstd", Some("gzip")),
        ("/best/a.html", "br", Some("br")),
        ("/bestz/a.html", "zstd", Some("zstd")),
        ("/long/a.html", "br, zstd", None),
        ("/short.html", "br, zstd, gzip", None),
    ] {
        let response = ask(&server, target, accepted).await;
        let what = format!("{target} for {accepted}");
        assert_eq!(response.header("content-encoding"), coding, "{what}");
        let want = if target == "/short.html" { "short".into() } else { text() };
        assert!(decoded(coding, &response.body) == want.as_bytes(), "{what}");
        let varies = !matches!(target, "/short.html" | "/long/a.html");
        assert_eq!(response.header("vary").is_some(), varies, "{what}");
        if coding.is_some() {
            assert!(response.body.len() < want.len() / 2, "{what}: {}", response.body.len());
            assert!(response.header("etag").unwrap().starts_with("W/\""), "{what}");
            assert_eq!(response.header("content-length"), None, "{what}");
            assert_eq!(response.header("accept-ranges"), None, "{what}");
        }
    }
    // A page of ours is compressed too; a HEAD says what GET would.
    let missing = ask(&server, "/nothing", "br").await;
    assert_eq!((missing.status, missing.header("content-encoding")), (404, Some("br")));
    assert!(String::from_utf8(decoded(Some("br"), &missing.body)).unwrap().contains("404 Not Found"));
    let mut client = Client::connect(server.addr(8080)).await;
    let head = client.request("HEAD", "/a.html", &[("Accept-Encoding", "zstd")], b"").await;
    assert_eq!((head.header("content-encoding"), head.body.len()), (Some("zstd"), 0));
    let ratios = eventually("the ratios in the log", || async {
        server.read("access.log").filter(|log| log.contains("/nothing"))
    })
    .await;
    let ratio = |line: usize, column: usize| -> f64 {
        let line = ratios.lines().nth(line).unwrap();
        let value = line.split(' ').nth(column).unwrap();
        value.parse().unwrap_or_default()
    };
    assert!(ratio(0, 2) > 2.0 && ratio(0, 1) == 0.0, "{ratios}");
    assert!(ratio(1, 1) > 2.0 && ratio(1, 2) == 0.0, "{ratios}");
    assert!(ratio(3, 3) > 2.0 && ratio(3, 1) == 0.0, "{ratios}");
}

#[tokio::test]
async fn neighbours_of_files() {
    if is_nginx() {
        return;
    }
    let server = start().await;
    for (target, accepted, coding, body) in [
        ("/beside/beside.html", "gzip, br, zstd", Some("zstd"), "in place of the file: .zst"),
        ("/beside/beside.html", "gzip, br", Some("br"), "in place of the file: .br"),
        ("/beside/beside.html", "gzip, br;q=0", Some("gzip"), "in place of the file: .gz"),
        ("/beside/beside.html", "deflate", None, "in place of the file: "),
        ("/beside/short.html", "gzip, br, zstd", None, "short"),
        ("/beside/only.html", "br", Some("br"), "only br"),
        ("/always/only.html", "identity", Some("br"), "only br"),
        ("/always/short.html", "br", None, "short"),
    ] {
        let response = ask(&server, target, accepted).await;
        let what = format!("{target} for {accepted}");
        assert_eq!((response.status, response.text().as_str()), (200, body), "{what}");
        assert_eq!(response.header("content-encoding"), coding, "{what}");
        let varies = target.starts_with("/beside/") && !target.ends_with("short.html");
        assert_eq!(response.header("vary").is_some(), varies, "{what}");
        assert_eq!(response.header("content-type"), Some("text/html"), "{what}");
        assert_eq!(response.header("content-length"), Some(body.len().to_string().as_str()), "{what}");
    }
    assert_eq!(get(server.addr(8080), "/beside/only.html").await.status, 404);
    let mut client = Client::connect(server.addr(8080)).await;
    let tag = ask(&server, "/beside/beside.html", "br").await.header("etag").unwrap().to_owned();
    let known = [("Accept-Encoding", "br"), ("If-None-Match", tag.as_str())];
    assert_eq!(client.get_with("/beside/beside.html", &known).await.status, 304);
}

#[tokio::test]
async fn what_an_upstream_sends_can_be_read_at_once() {
    if is_nginx() {
        return;
    }
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Plan::new(CONFIG).upstream("127.0.0.1:9000", origin.local_addr().unwrap()).start().await;
    for coding in ["br", "zstd"] {
        let mut client = Client::connect(server.addr(8080)).await;
        client.send_request("GET", "/live/", &[("Accept-Encoding", coding)], b"").await;
        let (mut upstream, _) = origin.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(upstream.read(&mut request).await.unwrap() > 0);
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nfirst piece ";
        upstream.write_all(head).await.unwrap();
        assert_eq!(client.head("GET").await.header("content-encoding"), Some(coding));
        // The second piece is not sent before the first was read.
        let mut body = Vec::new();
        while decoded(Some(coding), &body) != b"first piece " {
            body.extend(client.piece().await.expect("more"));
        }
        upstream.write_all(b"and the second").await.unwrap();
        drop(upstream);
        while let Some(piece) = client.piece().await {
            body.extend(piece);
        }
        assert_eq!(decoded(Some(coding), &body), b"first piece and the second");
    }
}

#[tokio::test]
async fn curl_reads_them() {
    if is_nginx() {
        return;
    }
    let server = start().await;
    let url = format!("http://{}/a.html", server.addr(8080));
    for coding in ["br", "zstd"] {
        let version = tokio::process::Command::new("curl").arg("-V").output().await;
        let knows = |name: &str| {
            version.as_ref().is_ok_and(|v| String::from_utf8_lossy(&v.stdout).contains(&format!(" {name}")))
        };
        if !knows(if coding == "br" { "brotli" } else { "zstd" }) {
            eprintln!("SKIPPED: no curl that knows {coding}");
            continue;
        }
        let header = format!("Accept-Encoding: {coding}");
        let args = ["-sS", "-m", "20", "--compressed", "-H", &header, &url];
        let ran = tokio::process::Command::new("curl").args(args).output().await.unwrap();
        assert!(ran.status.success() && ran.stdout == text().as_bytes(), "{coding}: {:?}", ran.status);
    }
}

#[tokio::test]
async fn mistakes_in_their_directives() {
    if is_nginx() {
        return;
    }
    for (line, error) in [
        ("brotli_comp_level 12;", "value must be between 0 and 11"),
        ("brotli_window 3k;", "\"brotli_window\" directive invalid value"),
        ("brotli_window 32m;", "\"brotli_window\" directive invalid value"),
        ("brotli maybe;", "it must be \"on\" or \"off\""),
        ("brotli on; brotli off;", "\"brotli\" directive is duplicate"),
        ("brotli_static sometimes;", "invalid value \"sometimes\""),
        ("brotli_buffers 4;", "invalid number of arguments in \"brotli_buffers\" directive"),
        ("zstd_comp_level 0;", "value must be between 1 and 22"),
        ("zstd_dict_file dict;", "\"zstd_dict_file\" is not supported"),
    ] {
        let ran = Plan::new(&CONFIG.replace("gzip_vary on;", line)).check().await;
        assert!(ran.code != Some(0) && ran.stderr.contains(error), "{line}: {}", ran.stderr);
    }
    let knobs = "brotli_buffers 32 4k; zstd_buffers 32 4k; brotli_window 16m; zstd_types *;";
    let ran = Plan::new(&CONFIG.replace("gzip_vary on;", knobs)).check().await;
    assert!(ran.code == Some(0) && ran.stderr.contains("\"zstd_buffers\" has no effect"), "{}", ran.stderr);
}
