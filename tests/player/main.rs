//! The demo seen by a viewer: the player page in headless Chromium, over TLS, with the picture moving.
//!
//! Chromium is driven over WebDriver, which is JSON over HTTP. What the browser shows at the end is left in
//! `target/tmp/player.png`.
//!
//! It is a program of its own so that it runs alone. Chromium's own HLS reader gives up now and then when it
//! begins (`DEMUXER_ERROR_COULD_NOT_PARSE`), behind nginx as behind Edgewater; the page then loads the stream
//! anew, as a viewer would, and so ten seconds without a break are asked for, not the first ten.
// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

use std::any::Any;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::address::free_ports;
use crate::support::eventually;
use crate::support::server::{Plan, is_nginx, program};

/// Resolves when ten more seconds have been played, or with the reason why they never will be.
const TEN_SECONDS_PLAYED: &str = r#"
    const done = arguments[arguments.length - 1];
    const video = document.querySelector('video');
    if (!video) return done('the page has no <video>');
    let start = null;
    let errors = 0;
    video.addEventListener('error', () => {
        start = null;
        errors += 1;
        if (errors > 4) done('video error: ' + video.error.message);
    });
    video.addEventListener('timeupdate', () => {
        if (start === null) start = video.currentTime;
        if (video.currentTime >= start + 10) done('played');
    });
    if (video.paused) video.play().catch(() => {});
"#;

/// How many different colours a grid of points of the picture has: a black or frozen-empty picture has one.
const COLOURS_SEEN: &str = r#"
    const video = document.querySelector('video');
    const canvas = document.createElement('canvas');
    canvas.width = 16;
    canvas.height = 9;
    const context = canvas.getContext('2d');
    context.drawImage(video, 0, 0, 16, 9);
    const points = new Uint32Array(context.getImageData(0, 0, 16, 9).data.buffer);
    return new Set(points).size;
"#;

#[tokio::test]
async fn the_demo_plays_in_chromium() {
    let demo = Demo::start().await;
    let browser = Browser::start();

    browser.post("url", json!({ "url": format!("https://{}/", demo.address) }));
    let outcome = browser.run_async(TEN_SECONDS_PLAYED);
    fs::write(screenshot_path(), browser.screenshot()).unwrap();
    let console = browser.console();
    let log = fs::read_to_string(&demo.log).unwrap_or_default();
    assert_eq!(outcome, json!("played"), "console: {console:#?}\naccess log:\n{log}");

    let colours = browser.run(COLOURS_SEEN).as_u64().unwrap();
    assert!(colours > 4, "only {colours} colours in the picture");
    let frames =
        browser.run("return document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames");
    assert!(frames.as_u64().unwrap() >= 200, "{frames} frames in ten seconds");
    the_page_reached_all_of_the_site(&browser);
    let errors: Vec<_> = console.iter().filter(|entry| entry["level"] == "SEVERE").collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// What the page shows beside the picture came over the cache, the API and the WebSocket.
fn the_page_reached_all_of_the_site(browser: &Browser) {
    let shown = |id: &str| {
        let text = browser.run(&format!("return document.getElementById('{id}').textContent"));
        text.as_str().expect("text").to_owned()
    };
    for id in ["api", "websocket"] {
        assert!(shown(id).ends_with(" ms"), "{id}: {}", shown(id));
    }
    assert!(["HIT", "MISS"].contains(&shown("cache").as_str()), "cache: {}", shown("cache"));
    assert_eq!(shown("viewers"), "1");
    // The old nginx needs `http2` at each `listen`, where the demo has it once for the server.
    assert!(is_nginx() || shown("protocol") == "https, h2", "{}", shown("protocol"));
}

/// The demo as `make demo` starts it, on other ports.
struct Demo {
    address: SocketAddr,
    /// The access log, which tells what the browser asked for.
    log: std::path::PathBuf,
    /// Ended when this is dropped, in this order.
    _running: (Box<dyn Any>, Box<dyn Any>),
}

impl Demo {
    async fn start() -> Demo {
        if is_nginx() { Self::behind_nginx().await } else { Self::in_one_process().await }
    }

    async fn in_one_process() -> Demo {
        let site = SocketAddr::from((Ipv4Addr::LOCALHOST, free_ports(Ipv4Addr::LOCALHOST.into(), 1)[0]));
        let prepared = plan(site).prepare();
        let mut edge = Command::new(program())
            .args(["--demo", "-e", "stderr", "-g", "daemon off;", "-p"])
            .arg(prepared.prefix())
            .arg("-c")
            .arg(prepared.prefix().join("nginx.conf"))
            .env("EDGEWATER_DEMO", site.to_string())
            .spawn()
            .map(Killed)
            .unwrap();
        let address = prepared.addr(8443);
        eventually("the demo to accept", || {
            assert_eq!(edge.0.try_wait().unwrap(), None, "the demo ended");
            async { tokio::net::TcpStream::connect(address).await.ok() }
        })
        .await;
        let log = prepared.prefix().join("logs/access.log");
        Demo { address, log, _running: (Box::new(edge), Box::new(prepared)) }
    }

    async fn behind_nginx() -> Demo {
        let site = edgewater::demo::start((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let edge = plan(site.addr())
            .swap("prometheus;", "return 204;")
            .swap("http2  on;", "")
            .swap("listen 8443      ssl;", "listen 8443 ssl http2;")
            .start()
            .await;
        let log = edge.prefix().join("logs/access.log");
        Demo { address: edge.addr(8443), log, _running: (Box::new(edge), Box::new(site)) }
    }
}

fn plan(site: SocketAddr) -> Plan {
    Plan::new(include_str!("../../conf/demo.conf"))
        .file("mime.types", include_str!("../../conf/mime.types"))
        .file("certs/dev.pem", include_str!("../../certs/dev.pem"))
        .file("certs/dev.key", include_str!("../../certs/dev.key"))
        .swap("../certs/", "certs/")
        .upstream("127.0.0.1:8099", site)
}

/// A child that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn screenshot_path() -> &'static Path {
    Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/player.png"))
}

/// A session of Chromium with a profile of its own.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    fn start() -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = start_driver(profile.path());
        let mut browser = Browser { driver, port, session: String::new(), _profile: profile };
        browser.open_session();
        browser
    }

    fn open_session(&mut self) {
        let profile = format!("--user-data-dir={}", self._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1280,800",
            &profile,
        ];
        let created = self.command(
            "POST",
            "/session",
            &json!({ "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "acceptInsecureCerts": true,
                "timeouts": { "script": 120_000, "pageLoad": 60_000 },
                "goog:loggingPrefs": { "browser": "ALL" },
                "goog:chromeOptions": { "args": arguments },
            }}}),
        );
        self.session = created["sessionId"].as_str().expect("a session").to_owned();
    }

    /// Runs a script that calls its last argument with the result.
    fn run_async(&self, script: &str) -> Value {
        self.post("execute/async", json!({ "script": script, "args": [] }))
    }

    fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] }))
    }

    /// What the page and the browser wrote to the console, with `level` and `message`.
    fn console(&self) -> Vec<Value> {
        let entries = self.post("se/log", json!({ "type": "browser" }));
        entries.as_array().expect("a list of entries").clone()
    }

    /// The visible page as PNG.
    fn screenshot(&self) -> Vec<u8> {
        let encoded = self.command("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        BASE64_STANDARD.decode(encoded.as_str().expect("a picture")).unwrap()
    }

    fn post(&self, what: &str, body: Value) -> Value {
        self.command("POST", &format!("/session/{}/{what}", self.session), &body)
    }

    /// One WebDriver command: the `value` of its answer. Panics with the driver's words if it failed.
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, mut answer) =
            exchange(self.port, method, path, body).expect("an answer of chromedriver");
        assert_eq!(status, 200, "{method} {path}: {}", answer["value"]["message"]);
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = exchange(self.port, "DELETE", &format!("/session/{}", self.session), &Value::Null);
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}

/// chromedriver, and the port that it chose.
fn start_driver(temporary: &Path) -> (Child, u16) {
    // Left to itself it takes a free port of IPv6 and ends if the same is not free for IPv4, which many connections
    // that ended a moment ago make likely.
    for _ in 0..20 {
        let free = free_ports(Ipv4Addr::LOCALHOST.into(), 1)[0];
        let mut driver = Command::new("chromedriver")
            .arg(format!("--port={free}"))
            // Whatever the browser leaves behind goes with the profile.
            .env("TMPDIR", temporary)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own, so that the browser ends with it whatever happens.
            .process_group(0)
            .spawn()
            .expect("chromedriver (Debian: chromium-driver)");
        match announced_port(&mut driver) {
            Some(port) => return (driver, port),
            None => drop(driver.wait()),
        }
    }
    panic!("chromedriver finds no port");
}

/// The port in the line with which chromedriver says that it is ready; none if it ends instead.
fn announced_port(driver: &mut Child) -> Option<u16> {
    let output = BufReader::new(driver.stdout.as_mut().expect("piped"));
    let mut lines = output.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("started successfully on port"))?;
    let digits = line.rsplit(' ').next()?.trim_end_matches('.');
    Some(digits.parse().expect("a port at the end of the line"))
}

fn exchange(port: u16, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(150)))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    // chromedriver keeps the connection open whatever it is asked, so the length says where the answer ends.
    let mut lines = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let (Some(status), Some(length)) = (status, length) else {
        return Err(ErrorKind::InvalidData.into());
    };
    let mut body = vec![0; length];
    lines.read_exact(&mut body)?;
    Ok((status, serde_json::from_slice(&body)?))
}
