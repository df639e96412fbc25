//! What would be a wrong answer if it were repeated.

use crate::observe::testing::Running;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Requests after which an answer is repeated if it may be.
const ENOUGH: usize = 4;

struct Site {
    dir: tempfile::TempDir,
    running: Running,
}

impl Site {
    /// A worker with `http { }` of this text, in which `ROOT` is a directory with these files.
    fn start(files: &[(&str, &str)], http: &str) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap().to_string();
        let site = Site { running: Running::start(&http.replace("ROOT", &root)), dir };
        for (name, text) in files {
            site.write(name, text);
        }
        site
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn hits(&self) -> u64 {
        self.running.edge.workers[0].connections.hits.get()
    }

    fn client(&self) -> Client {
        self.client_from([127, 0, 0, 1])
    }

    fn client_from(&self, ip: [u8; 4]) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::from(ip), 0)).into()).unwrap();
        socket.connect(&self.running.addr.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(BufReader::new(stream))
    }

    /// The body, or the status where it is not 200, of the last of as many requests as it takes.
    fn often(&self, target: &str) -> String {
        let mut client = self.client();
        (0..ENOUGH).map(|_| client.get(target)).last().unwrap()
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn get(&mut self, target: &str) -> String {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer()
    }

    fn answer(&mut self) -> String {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "it closed after {head:?}");
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        match head.split(' ').nth(1) {
            Some("200") => String::from_utf8(body).unwrap(),
            other => other.unwrap_or_default().to_string(),
        }
    }
}

#[test]
fn an_answer_is_repeated_until_its_file_changes() {
    let site = Site::start(&[("a.txt", "one")], "server { listen LISTEN; root ROOT; }");
    assert_eq!(site.often("/a.txt"), "one");
    assert_eq!(site.hits(), 2);
    site.write("a.txt", "second");
    assert_eq!(site.often("/a.txt"), "second");
    std::fs::remove_file(site.path("a.txt")).unwrap();
    assert_eq!(site.often("/a.txt"), "404");
}

#[test]
fn the_page_for_a_client_that_is_kept_out_is_not_for_others() {
    let site = Site::start(
        &[("a.txt", "inner"), ("public.txt", "public")],
        "server { listen LISTEN; root ROOT;
           location = /a.txt { deny 127.0.0.2; error_page 403 =200 /public.txt; }
           location = / { deny 127.0.0.2; index /public.txt; } }",
    );
    let mut outer = site.client_from([127, 0, 0, 2]);
    for _ in 0..ENOUGH {
        assert_eq!(outer.get("/a.txt"), "public");
    }
    assert_eq!(site.often("/a.txt"), "inner");
    assert_eq!(outer.get("/a.txt"), "public");
    // What lets in stands at another level than the answer.
    assert_eq!(site.often("/"), "public");
    assert_eq!(site.client_from([127, 0, 0, 2]).get("/"), "403");
}

#[test]
fn a_page_in_place_of_a_missing_file_gives_way_to_it() {
    let site = Site::start(
        &[("page.txt", "page")],
        "log_not_found off; server { listen LISTEN; root ROOT; error_page 404 =200 /page.txt; }",
    );
    assert_eq!(site.often("/a.txt"), "page");
    site.write("a.txt", "there");
    assert_eq!(site.often("/a.txt"), "there");
}

#[test]
fn an_index_is_looked_for_each_time() {
    let site = Site::start(
        &[("d/b.txt", "b"), ("e/b.txt", "outer"), ("other/e/b.txt", "other")],
        "server { listen LISTEN; root ROOT; index a.txt b.txt;
           location /f/ { index a.txt; }
           location = /e/b.txt { root ROOT/other; } location /e/ { index b.txt; } }",
    );
    assert_eq!(site.often("/d/"), "b");
    site.write("d/a.txt", "a");
    assert_eq!(site.often("/d/"), "a");
    // The file that was found is not the one that is sent.
    assert_eq!(site.often("/e/"), "other");
    std::fs::remove_file(site.path("e/b.txt")).unwrap();
    assert_eq!(site.often("/e/"), "403");
    // The first of the index, which is the answer itself, is repeated.
    let before = site.hits();
    site.write("f/a.txt", "f");
    assert_eq!(site.often("/f/"), "f");
    assert_eq!(site.hits() - before, 2);
    std::fs::remove_file(site.path("f/a.txt")).unwrap();
    assert_eq!(site.often("/f/"), "403");
}

#[test]
fn a_file_chosen_by_chance_is_chosen_each_time() {
    let site = Site::start(
        &[("d/a.txt", "a"), ("d/b.txt", "b")],
        "server { listen LISTEN; root ROOT; location / { random_index on; } }",
    );
    site.often("/d/");
    assert_eq!(site.hits(), 0);
}

/// A cache before an upstream that is a server of the same worker.
fn cached(inner: &str, location: &str, http: &str) -> String {
    format!(
        "proxy_cache_path ROOT/cache keys_zone=z:1m; {http}
         server {{ listen LISTEN; root ROOT; location / {{ proxy_pass http://LISTEN; proxy_set_header Host up;
           proxy_cache z; proxy_cache_valid any 1h; {location} }} location /files/ {{ }} }}
         server {{ listen LISTEN; server_name up; {inner} }}"
    )
}

#[test]
fn where_a_kept_answer_leads_is_not_the_answer() {
    let files = [("files/a.txt", "file")];
    let accel = "location / { add_header X-Accel-Redirect /files/a.txt; return 200 up; }";
    let site = Site::start(&files, &cached(accel, "", ""));
    assert_eq!(site.often("/x"), "file");
    assert_eq!(site.hits(), 0);
    let intercept = "proxy_intercept_errors on; error_page 404 =200 /files/a.txt;";
    let site = Site::start(&files, &cached("location / { return 404; }", intercept, ""));
    assert_eq!(site.often("/x"), "file");
    assert_eq!(site.hits(), 0);
}

#[test]
fn what_a_log_says_is_what_it_said() {
    let http = "log_format f '$request_uri $m $upstream_cookie_k $upstream_cache_status $pipe';
        access_log ROOT/log f; map $uri $m { /first first; default other; }";
    let inner = "location / { add_header Set-Cookie k=v; return 200 up; }";
    let location = "proxy_ignore_headers Set-Cookie; set $x $m; rewrite ^/first$ /second break;";
    let site = Site::start(&[], &cached(inner, location, http));
    assert_eq!(site.often("/first"), "up");
    assert_eq!(site.hits(), 1);
    let mut client = site.client();
    // The first is repeated, the second is not.
    client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /files/none HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((client.answer(), client.answer()), ("up".into(), "404".into()));
    assert_eq!(site.hits(), 2);
    let log = || std::fs::read_to_string(site.path("log")).unwrap_or_default();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while log().lines().filter(|l| !l.starts_with("/second")).count() < 6 && std::time::Instant::now() < until
    {
        std::thread::yield_now();
    }
    let log = log();
    let mut lines = log.lines().filter(|l| !l.starts_with("/second"));
    assert_eq!(lines.next(), Some("/first first v MISS ."), "{log}");
    for _ in 0..4 {
        assert_eq!(lines.next(), Some("/first first v HIT ."), "{log}");
    }
    assert_eq!(lines.next(), Some("/files/none other - - p"), "{log}");
}

#[test]
fn after_its_first_answer_a_connection_waits_as_between_two() {
    let site = Site::start(
        &[("a.txt", "one")],
        "keepalive_timeout 100ms; client_header_timeout 1h; server { listen LISTEN; root ROOT; }",
    );
    for _ in 0..ENOUGH {
        assert_eq!(site.client().get("/a.txt"), "one");
    }
    let before = site.hits();
    let mut client = site.client();
    assert_eq!(client.get("/a.txt"), "one");
    assert_eq!(site.hits(), before + 1);
    assert_eq!(client.0.read_line(&mut String::new()).unwrap(), 0);
}

#[test]
fn another_configuration_has_answers_of_its_own() {
    let site = Site::start(&[("a.txt", "one"), ("b/a.txt", "other")], "server { listen LISTEN; root ROOT; }");
    let mut client = site.client();
    for _ in 0..ENOUGH {
        assert_eq!(client.get("/a.txt"), "one");
    }
    let root = site.path("b");
    site.running.reload(&format!("server {{ listen LISTEN; root {}; }}", root.display()));
    for _ in 0..ENOUGH {
        assert_eq!(client.get("/a.txt"), "other");
    }
}

#[test]
fn a_client_that_reads_late_gets_every_byte() {
    let body = "0123456789abcdef".repeat(64);
    let large = "fedcba9876543210".repeat(4096);
    let site = Site::start(
        &[("a.txt", &body), ("large.txt", &large)],
        "open_file_cache max=10; access_log ROOT/log; server { listen LISTEN; root ROOT; keepalive_requests 100000; }",
    );
    assert_eq!(site.often("/a.txt"), body);
    assert_eq!(site.often("/large.txt"), large);
    const ASKED: usize = 2000;
    let mut client = site.client();
    let mut requests = String::new();
    for n in 0..ASKED {
        let name = if n % 10 == 9 { "large" } else { "a" };
        requests += &format!("GET /{name}.txt HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let sender = client.0.get_ref().try_clone().unwrap();
    std::thread::scope(|scope| {
        // All of it, in pieces that end anywhere, while nothing is read at first.
        let (told, sent) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for (n, piece) in requests.as_bytes().chunks(997).enumerate() {
                (&sender).write_all(piece).unwrap();
                if n == 20 {
                    told.send(()).unwrap();
                }
            }
        });
        sent.recv().unwrap();
        for n in 0..ASKED {
            let want = if n % 10 == 9 { &large } else { &body };
            assert!(client.answer() == **want, "answer {n}");
        }
    });
}

#[test]
fn a_client_that_vanishes_takes_nothing_with_it() {
    let large = "0123456789abcdef".repeat(4096);
    let site =
        Site::start(&[("a.txt", &large)], "open_file_cache max=10; server { listen LISTEN; root ROOT; }");
    assert_eq!(site.often("/a.txt"), large);
    for _ in 0..20 {
        let mut client = site.client();
        client.send(&"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50));
        let socket = socket2::SockRef::from(client.0.get_ref());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(site.often("/a.txt"), large);
    let active = || site.running.edge.workers[0].connections.active.get();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while active() > 0 && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(active(), 0);
}

#[test]
fn what_limits_say_is_asked_each_time() {
    let site = Site::start(
        &[("a.txt", "one"), ("b.txt", "two")],
        "limit_req_zone $binary_remote_addr zone=r:1m rate=1r/m; server { listen LISTEN; root ROOT;
           location = /a.txt { limit_req zone=r burst=5 nodelay; }
           location = /b.txt { allow 127.0.0.1; deny all; } }",
    );
    let mut client = site.client();
    let answers: Vec<_> = (0..8).map(|_| client.get("/a.txt")).collect();
    assert_eq!(answers, ["one", "one", "one", "one", "one", "one", "503", "503"]);
    assert!(site.hits() > 0);
    assert_eq!(site.often("/b.txt"), "two");
    assert_eq!(site.client_from([127, 0, 0, 2]).get("/b.txt"), "403");
    assert_eq!(site.often("/b.txt"), "two");
}

#[test]
fn what_differs_in_a_field_differs() {
    let site = Site::start(
        &[("a.txt", "one")],
        "map $http_cookie $c { default none; ~x yes; } map $http_x_own $o { default none; x yes; }
         server { listen LISTEN; root ROOT; location = /a.txt { add_header C $c; }
           location = /o { alias ROOT/a.txt; add_header O $o; }
           location = /range { alias ROOT/a.txt; } }
         server { listen LISTEN; server_name b b.org; root ROOT/none; }",
    );
    let ask = |client: &mut Client, target: &str, fields: &str| {
        client.send(&format!("GET {target} HTTP/1.1\r\n{fields}\r\n"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(client.0.read_line(&mut head).unwrap(), 0);
        }
        let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |l| if head.contains(" 304 ") { 0 } else { l.parse().unwrap() });
        client.0.read_exact(&mut vec![0; length]).unwrap();
        head
    };
    let mut client = site.client();
    for _ in 0..ENOUGH {
        assert!(ask(&mut client, "/a.txt", "Host: a\r\n").contains("C: none"));
        assert!(ask(&mut client, "/a.txt", "Host: a\r\ncOOKIE: x\r\n").contains("C: yes"));
        assert!(ask(&mut client, "/a.txt", "Host: a\r\nCookie: y\r\n").contains("C: none"));
        // Of two fields of one name both count.
        assert!(ask(&mut client, "/a.txt", "Host: a\r\nCookie: y\r\nCookie: x\r\n").contains("C: yes"));
        assert!(ask(&mut client, "/o", "Host: a\r\n").contains("O: none"));
        assert!(ask(&mut client, "/o", "Host: a\r\nX-Own: x\r\n").contains("O: yes"));
        let plain = ask(&mut client, "/range", "Host: a\r\n");
        assert!(plain.starts_with("HTTP/1.1 200 "));
        let part = ask(&mut client, "/range", "Host: a\r\nRange: bytes=0-0\r\n");
        assert!(part.starts_with("HTTP/1.1 206 "));
        let tag = plain.lines().find_map(|l| l.strip_prefix("ETag: ")).unwrap();
        let same = ask(&mut client, "/range", &format!("Host: a\r\nIf-None-Match: {tag}\r\n"));
        assert!(same.starts_with("HTTP/1.1 304 "));
        for host in ["b", "B", "b:80", "b.org.", "b.org"] {
            let head = ask(&mut client, "/a.txt", &format!("Host: {host}\r\n"));
            assert!(head.starts_with("HTTP/1.1 404 "), "{host}");
        }
        for host in ["a", "A", "a:80", "c."] {
            let head = ask(&mut client, "/a.txt", &format!("Host: {host}\r\n"));
            assert!(head.starts_with("HTTP/1.1 200 "), "{host}");
        }
    }
    assert!(site.hits() > 10);
}

#[test]
fn what_is_kept_no_longer_is_not_repeated() {
    let inner = "location / { root ROOT/up; add_header X-Accel-Expires $arg_for; }";
    let site = Site::start(
        &[("up/x", "one")],
        &cached(inner, "proxy_cache_key $uri; proxy_cache_bypass $arg_fresh;", ""),
    );
    assert_eq!(site.often("/x"), "one");
    assert_eq!(site.hits(), 1);
    site.write("up/x", "second");
    assert_eq!(site.often("/x"), "one");
    // Another takes its place.
    assert_eq!(site.client().get("/x?fresh=1"), "second");
    assert_eq!(site.often("/x"), "second");
    // It is for a second.
    assert_eq!(site.client().get("/x?fresh=1&for=1"), "second");
    site.write("up/x", "third");
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while site.often("/x") != "third" {
        assert!(std::time::Instant::now() < until);
    }
    assert!(site.hits() > 5);
}

#[test]
fn the_table_has_room_for_all_that_is_configured() {
    let count = 5000;
    let locations: String = (0..count).map(|n| format!("location /{n}/ {{ alias ROOT/; }}\n")).collect();
    let site = Site::start(
        &[("a.txt", "one")],
        &format!("server {{ listen LISTEN; keepalive_requests 100000; {locations} }}"),
    );
    let mut client = site.client();
    for _ in 0..ENOUGH {
        for n in 0..count {
            assert_eq!(client.get(&format!("/{n}/a.txt")), "one");
        }
    }
    assert_eq!(site.hits(), 2 * count);
}

#[test]
fn what_is_remembered_is_bounded_in_bytes() {
    let site =
        Site::start(&[("a.txt", "one")], "server { listen LISTEN; keepalive_requests 100000; root ROOT; }");
    let mut client = site.client();
    let target = |n: u32| format!("/a.txt?{n:01500}");
    // Less than the table may have of short ones.
    for _ in 0..ENOUGH {
        for n in 0..1500 {
            client.get(&target(n));
        }
    }
    let many = site.hits();
    for _ in 0..ENOUGH {
        client.get(&target(1));
    }
    assert!(many < 1500, "{many}");
    assert!(site.hits() > many);
}

#[test]
fn other_answers_to_the_same_targets_are_bounded_in_bytes_as_well() {
    // Each is remembered for the value that was read; those of one value fit, those of four do not.
    let site = Site::start(
        &[("a.txt", "one")],
        "server { listen LISTEN; keepalive_requests 100000; root ROOT; add_header X $http_x_a; }",
    );
    let mut client = site.client();
    let mut ask = |n: u32, value: u32| {
        client.send(&format!("GET /a.txt?{n:0900} HTTP/1.1\r\nHost: a\r\nX-A: {value:0400}\r\n\r\n"));
        client.answer()
    };
    const TARGETS: u32 = 400;
    for value in 0..4 {
        for _ in 0..ENOUGH {
            for n in 0..TARGETS {
                ask(n, value);
            }
        }
    }
    let before = site.hits();
    for value in 0..4 {
        for n in 0..TARGETS {
            ask(n, value);
        }
    }
    let found = site.hits() - before;
    assert!(found < u64::from(3 * TARGETS), "{found}");
}
