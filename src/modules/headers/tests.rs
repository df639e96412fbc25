use crate::conf::build::load_text;
use crate::observe::testing::Running;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Answers every connection's first request with these bytes; the address.
fn upstream(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && connection.read_exact(&mut byte).is_ok() {
                head.extend_from_slice(&byte);
            }
            // A client that has left is no concern of ours.
            let _ = connection.write_all(answer);
        }
    });
    addr
}

#[test]
fn an_upstreams_trailers_are_sent_on_where_that_is_asked_for() {
    let addr = upstream(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
          5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Hidden: h\r\nX-Sum: 2\r\nX-Accel-Redirect: /inside\r\nServer: s\r\n\
          Content-Length: 5\r\ntransfer-encoding: chunked\r\nConnection: close\r\nbroken\r\n\r\n",
    );
    let running = Running::start(&format!(
        "log_format x '$uri|$upstream_trailer_x_sum|$upstream_trailer_x_hidden|$sent_trailer_x_sum|$sent_trailer_x_own';
         access_log a.log x;
         server {{ listen LISTEN; proxy_http_version 1.1; proxy_set_header Connection TE; proxy_set_header TE trailers;
             proxy_hide_header X-Hidden; proxy_pass_trailers on;
             location / {{ proxy_pass http://{addr}; }}
             location /own {{ add_trailer X-Own $upstream_trailer_x_sum; proxy_pass http://{addr}; }}
             location /off {{ proxy_pass_trailers off; proxy_pass http://{addr}; }}
             location /length {{ proxy_pass_trailers on; return 200 x; }}
         }}"
    ));
    let end = |target: &str| {
        let answer = running.get(target, "");
        answer.split_once("\r\n\r\n").unwrap().1.to_string()
    };
    assert_eq!(end("/"), "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n");
    assert_eq!(end("/own"), "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\nX-Own: 1, 2\r\n\r\n");
    assert_eq!(end("/off"), "5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(end("/length"), "x");
    let lines = running.lines("a.log", 4);
    assert_eq!(lines, ["/|1, 2|h|1, 2|-", "/own|1, 2|h|1, 2|1, 2", "/off|-|-|-|-", "/length|-|-|-|-"]);
}

#[test]
fn fields_are_inherited_as_told() {
    let running = Running::start(
        "add_header A http; add_trailer T http;
         server { listen LISTEN; default_type text/plain;
             location / { return 200 x; }
             location /own { add_header A own; add_trailer T own; return 200 x; }
             location /merge { add_header_inherit merge; add_trailer_inherit merge;
                 add_header A own; add_trailer T own; return 200 x;
                 location /merge/in { add_header A in; add_trailer T in; return 200 x; }
                 location /merge/on { add_header_inherit on; add_trailer_inherit on;
                     add_header A in; add_trailer T in; return 200 x; }
             }
             location /off { add_header_inherit off; add_trailer_inherit off; return 200 x;
                 location /off/in { add_header A in; add_trailer T in; return 200 x; }
             }
         }",
    );
    let fields = |target: &str| {
        let answer = running.get(target, "");
        let all = |name: &str| {
            let values = answer.lines().filter_map(|line| line.strip_prefix(name));
            values.collect::<Vec<_>>().join(" ")
        };
        (all("A: "), all("T: "))
    };
    for (target, want) in [
        ("/", "http"),
        ("/own", "own"),
        ("/merge", "own http"),
        ("/merge/in", "in own http"),
        ("/merge/on", "in"),
        ("/off", ""),
        ("/off/in", "in"),
    ] {
        assert_eq!(fields(target), (want.to_string(), want.to_string()), "{target}");
    }
}

#[test]
fn mistakes_in_nginxs_words() {
    let dir = tempfile::tempdir().unwrap();
    for (text, want) in [
        ("add_trailer A b never;", "invalid parameter \"never\""),
        ("add_header A b never;", "invalid parameter \"never\""),
        ("add_header_inherit some;", "invalid value \"some\""),
        ("add_trailer_inherit on; add_trailer_inherit on;", "\"add_trailer_inherit\" directive is duplicate"),
        ("expires 1h 2h;", "invalid value"),
        ("expires @25h;", "\"expires\" directive daily time value must be less than 24 hours"),
    ] {
        let text = format!("events {{}} http {{ {text} }}");
        let message = load_text(dir.path(), &text).err().map(|e| e.message).unwrap_or_default();
        assert!(message.contains(want), "{text}: {message}");
    }
}
