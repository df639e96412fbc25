//! Random requests: paths of files and of locations, odd spellings of them, hosts, methods, queries.

use super::dice::Dice;
use crate::case::{Options, Request};

/// The document root of every configuration; a file holds its own path.
pub const FILES: &[&str] = &[
    "index.html",
    "x.txt",
    "y.html",
    "404.html",
    "a/index.html",
    "a/x.txt",
    "a/b/x.txt",
    "a/b/index.html",
    "a/b.html",
    "b/x.txt",
    "b/y.html",
    "c",
    "b.html",
    "a b/x.txt",
    "img/x.png",
    "other/x.txt",
    "other/index.html",
    "other/a/x.txt",
    "other/b/y.html",
    "other/c/index.html",
    "go/x.txt",
];

/// Directories without files.
pub const DIRS: &[&str] = &["d", "a/d"];

/// The `n`th request of a script.
pub fn request(dice: &mut Dice, n: usize) -> Request {
    let method = dice.weighted(&[80, 8, 6, 2, 2, 1, 1]);
    let method = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH"][method];
    let mut target = path(dice);
    if dice.chance(45) {
        target.push_str(dice.pick(&[
            "?a=1",
            "?a=a",
            "?a=a&b=b",
            "?b=a",
            "?",
            "??",
            "?a=%2Fa%20b",
            "?b=x&a=",
            "?a=/x.txt",
            "?a=x.txt?y",
            "?A=b",
            "?x",
            "?a=other&b=other",
            "?a=404",
            "?a=b&a=a",
            "?a=index&b=a/",
        ]));
    }
    let mut options = Options { conn: Some("k".into()), reopen: true, repeat: 1, ..Options::default() };
    let mut headers = vec![("X-N".to_owned(), n.to_string())];
    if dice.chance(4) {
        target = format!("http://{}{target}", dice.pick(&["localhost", "example.org", "WWW.example.com:81"]));
    }
    if dice.chance(35) {
        let host = dice.pick(&[
            "example.com",
            "www.example.com",
            "EXAMPLE.com",
            "www.example.net",
            "foo.re.example",
            "example.org",
            "a.example.org",
            "example.com:8080",
            "example.com.",
            "unknown",
            "third",
            "first",
        ]);
        headers.push(("Host".into(), host.into()));
    }
    let optional = [
        ("X-A", ["a", "b", "/a", "0", "A b"]),
        ("Cookie", ["c=a", "c=b; d=e", "x=y", "C=a", "c=a; c=b"]),
        ("If-Modified-Since", ["Tue, 02 Jan 2024 03:04:05 GMT"; 5]),
        ("Range", ["bytes=0-3", "bytes=-2", "bytes=100-", "bytes=0-1,3-4", "bytes=1-0"]),
        ("Content-Type", ["text/plain", "x/y", "a", "b", "application/json"]),
    ];
    for (name, values) in optional {
        if dice.chance(6) {
            headers.push((name.into(), values[dice.below(values.len())].into()));
        }
    }
    if dice.chance(3) {
        options.version = Some("1.0".into());
    }
    if method == "POST" || method == "PUT" {
        options.body = Some(b"a=b".to_vec());
    }
    Request { method: method.into(), target, headers, options, expect: vec![] }
}

fn path(dice: &mut Dice) -> String {
    let mut path = match dice.weighted(&[35, 35, 15, 15]) {
        0 => format!("/{}", dice.pick(FILES).replace(' ', "%20")),
        1 => {
            let mut path = String::new();
            for _ in 0..1 + dice.below(4) {
                path.push('/');
                path.push_str(dice.pick(&[
                    "a",
                    "b",
                    "c",
                    "d",
                    "go",
                    "x.txt",
                    "index.html",
                    "x",
                    "img",
                    "A",
                    "a%20b",
                ]));
            }
            path
        }
        2 => dice
            .pick(&["/", "/a", "/a/", "/a/b/", "/d/", "/go/", "/b/", "/c/", "/page", "/-/known"])
            .to_owned(),
        _ => format!(
            "/{}",
            dice.pick(&["a/none", "none", "a/b", "a/d", "b", "d", "other", "x.txt/", "x.txt/x", "c/x"])
        ),
    };
    while dice.chance(22) {
        let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        let at = slashes[dice.below(slashes.len())];
        let odd = dice.pick(&[
            "/", "/.", "/..", "/../..", "/%2e%2e", "/%2F", "/a/..", "/%3F", "/%23", "/%25", "/;p=1",
            "/%C3%A9", "/+", "/&", "/%41", "/.a", "/...", "/%2e", "/%5C", "/\\", "/:", "/%61", "/é", "/\"",
            "/%22", "/%7F", "/%zz", "/%00", "/%",
        ]);
        if dice.chance(85) || odd == "/" {
            path.insert_str(at, odd);
        } else {
            path.push_str(odd);
        }
    }
    if dice.chance(10) {
        path.push('/');
    }
    if dice.chance(3) {
        path = path.to_ascii_uppercase();
    }
    path
}
