//! What is said of a configuration that is wrong: nginx's words, with the file and the line.
use std::net::TcpListener;

use crate::support::server::{Plan, Ran, Signal, is_nginx};

/// Asserts that `-t` refuses `text` with `expected`, in which `{file}` stands for the configuration file.
async fn refuses(text: &str, expected: &str) {
    refuses_plan(Plan::new(text), expected).await;
}

async fn refuses_plan(plan: Plan, expected: &str) {
    let prepared = plan.prepare();
    let file = prepared.prefix().join("nginx.conf").display().to_string();
    let ran = prepared.run(&["-t"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    let expected = expected.replace("{file}", &file);
    let prefix = prepared.prefix().display().to_string();
    let expected = expected.replace("{prefix}", &prefix);
    let message = message(&ran);
    assert!(message.contains(&expected), "{expected:?} is not in {message:?}");
    let last = format!("configuration file {file} test failed\n");
    assert!(ran.stderr.ends_with(&last), "{}", ran.stderr);
}

/// What follows `[emerg] `, and nginx's process id, in the one line that has it.
fn message(ran: &Ran) -> String {
    let mut lines = ran.stderr.lines().filter(|line| line.contains("[emerg] "));
    let line = lines.next().unwrap_or_else(|| panic!("no [emerg]: {}", ran.stderr));
    assert_eq!(lines.next(), None, "one mistake, one line");
    if !is_nginx() {
        assert!(line.starts_with("edgewater: [emerg] "), "{line}");
    }
    let (_, message) = line.split_once("[emerg] ").unwrap();
    message.into()
}

/// A location with one line in it, the fifth of the file.
fn in_location(line: &str) -> String {
    format!("events {{}}\nhttp {{\nserver {{ listen 8080;\nlocation / {{\n{line}\n}}\n}}\n}}\n")
}

#[tokio::test]
async fn an_unknown_directive() {
    let text = in_location("proxy_pas http://127.0.0.1:1;");
    refuses(&text, r#"unknown directive "proxy_pas""#).await;
    refuses(&text, "in {file}:5").await;
    refuses(&in_location("gibberish_of_no_kind on;"), "{file}:5").await;
}

#[tokio::test]
async fn an_unknown_directive_that_resembles_one() {
    let ran = Plan::new(&in_location("proxy_pas http://127.0.0.1:1;")).check().await;
    let helpful = ran.stderr.contains("did you mean") && ran.stderr.contains("\"proxy_pass\"");
    assert!(helpful || is_nginx(), "{}", ran.stderr);
}

#[tokio::test]
async fn a_directive_that_is_known_but_not_supported() {
    let ran = Plan::new(&in_location("perl module::handler;")).check().await;
    assert_eq!(ran.code, Some(1));
    if !is_nginx() {
        let message = message(&ran);
        assert!(message.contains("\"perl\""), "{message}");
        assert!(message.contains("not supported"), "{message}");
        assert!(message.contains("nginx.conf:5"), "{message}");
    }
}

#[tokio::test]
async fn a_directive_in_the_wrong_place() {
    refuses("events {}\nlisten 8080;\nhttp {}\n", r#""listen" directive is not allowed here in {file}:2"#)
        .await;
    refuses(
        &in_location("worker_processes 1;"),
        r#""worker_processes" directive is not allowed here in {file}:5"#,
    )
    .await;
    refuses(&in_location("server { }"), r#""server" directive is not allowed here in {file}:5"#).await;
}

#[tokio::test]
async fn the_wrong_number_of_arguments() {
    for line in ["root;", "root a b;", "proxy_set_header Host;", "sendfile on off;"] {
        let name = line.split([' ', ';']).next().unwrap();
        let expected = format!(r#"invalid number of arguments in "{name}" directive in {{file}}:5"#);
        refuses(&in_location(line), &expected).await;
    }
}

#[tokio::test]
async fn a_block_where_a_line_belongs_and_a_line_where_a_block_belongs() {
    refuses(&in_location("root a { }"), r#"directive "root" is not terminated by ";" in {file}:5"#).await;
    refuses(&in_location("location /x;"), r#"directive "location" has no opening "{" in {file}:5"#).await;
}

#[tokio::test]
async fn a_bad_value() {
    refuses(
        &in_location("internal; gzip maybe;"),
        r#"invalid value "maybe" in "gzip" directive, it must be "on" or "off" in {file}:5"#,
    )
    .await;
    refuses(
        &in_location("client_max_body_size 10q;"),
        r#""client_max_body_size" directive invalid value in {file}:5"#,
    )
    .await;
    refuses(
        &in_location("proxy_read_timeout soon;"),
        r#""proxy_read_timeout" directive invalid value in {file}:5"#,
    )
    .await;
    refuses(&in_location("keepalive_requests many;"), r#"invalid number in {file}:5"#).await;
    refuses(&in_location("proxy_pass 127.0.0.1:80;"), "invalid URL prefix in {file}:5").await;
    refuses(&in_location("return 1000;"), r#"invalid return code "1000" in {file}:5"#).await;
    refuses(
        &in_location("proxy_buffering on; proxy_next_upstream sometimes;"),
        r#"invalid value "sometimes" in {file}:5"#,
    )
    .await;
}

/// It is wrong whether or not the directive has an effect here.
#[tokio::test]
async fn mistakes_in_a_tuning_knob() {
    refuses(
        &in_location("sendfile maybe;"),
        r#"invalid value "maybe" in "sendfile" directive, it must be "on" or "off" in {file}:5"#,
    )
    .await;
    refuses(&in_location("sendfile on;\nsendfile on;"), r#""sendfile" directive is duplicate in {file}:6"#)
        .await;
}

#[tokio::test]
async fn a_bad_listen() {
    let with = |listen: &str| format!("events {{}}\nhttp {{\nserver {{\n{listen}\n}}\n}}\n");
    // The harness would make these ports its own.
    let bad_port = with("\"listen\" 127.0.0.1:99999;");
    refuses(&bad_port, r#"invalid port in "127.0.0.1:99999" of the "listen" directive in {file}:4"#).await;
    refuses(&with("listen 8080 fastest;"), r#"invalid parameter "fastest" in {file}:4"#).await;
}

#[tokio::test]
async fn a_bad_regular_expression() {
    let text = "events {}\nhttp {\nserver { listen 8080;\nlocation ~ \"^/(a\" { }\n}\n}\n";
    refuses(text, "{file}:4").await;
    refuses(text, "^/(a").await;
}

#[tokio::test]
async fn a_duplicate() {
    refuses(&in_location("root a;\nroot b;"), r#""root" directive is duplicate in {file}:6"#).await;
    refuses(&in_location("sendfile on;\nsendfile on;"), r#""sendfile" directive is duplicate in {file}:6"#)
        .await;
    refuses(
        "events {}\nhttp {\nserver { listen 8080;\nlocation /a { }\nlocation /a { }\n}\n}\n",
        r#"duplicate location "/a" in {file}:5"#,
    )
    .await;
    refuses(
        "events {}\nhttp {\nupstream u { server 127.0.0.1:1; }\nupstream u { server 127.0.0.1:1; }\n}\n",
        r#"duplicate upstream "u" in {file}:4"#,
    )
    .await;
    refuses("events {}\nevents {}\nhttp {}\n", "{file}:2").await;
}

#[tokio::test]
async fn a_missing_semicolon() {
    refuses(&in_location("root a"), r#"unexpected "}" in {file}:6"#).await;
    refuses(
        "events {}\nhttp {\nserver_tokens off",
        r#"unexpected end of file, expecting ";" or "}" in {file}:3"#,
    )
    .await;
}

#[tokio::test]
async fn a_missing_brace() {
    refuses(
        "events {}\nhttp {\nserver { listen 8080;\n\n",
        r#"unexpected end of file, expecting "}" in {file}:5"#,
    )
    .await;
    refuses("events {}\nhttp {}\n}\n", r#"unexpected "}" in {file}:3"#).await;
    refuses("events {}\nhttp {\n;\n}\n", r#"unexpected ";" in {file}:3"#).await;
}

#[tokio::test]
async fn an_unterminated_quote() {
    refuses(&in_location("return 200 \"open;"), r#"unexpected end of file, expecting ";" or "}" in {file}:"#)
        .await;
    refuses(&in_location("return 200 \"a\"b;"), r#"unexpected "b" in {file}:5"#).await;
}

#[tokio::test]
async fn a_missing_include() {
    refuses(
        "events {}\nhttp {\ninclude missing.conf;\n}\n",
        r#"open() "{prefix}/missing.conf" failed (2: No such file or directory) in {file}:3"#,
    )
    .await;
}

#[tokio::test]
async fn a_pattern_may_include_nothing() {
    let ran = Plan::new("events {}\nhttp {\ninclude conf.d/*.conf;\n}\n").check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[tokio::test]
async fn a_mistake_in_an_included_file() {
    let plan = Plan::new("events {}\nhttp {\ninclude conf.d/*.conf;\n}\n")
        .file("conf.d/a.conf", "server_tokens off;\n")
        .file("conf.d/b.conf", "\n\nfoo bar;\n");
    refuses_plan(plan, r#"unknown directive "foo""#).await;
    let plan =
        Plan::new("events {}\nhttp {\ninclude conf.d/*.conf;\n}\n").file("conf.d/b.conf", "\n\nfoo bar;\n");
    refuses_plan(plan, "in {prefix}/conf.d/b.conf:3").await;
}

#[tokio::test]
async fn a_missing_certificate() {
    let text = "events {}\nhttp {\nserver { listen 8443 ssl;\n\
        ssl_certificate certs/none.pem;\nssl_certificate_key certs/key.pem;\n}\n}\n";
    refuses(text, r#"cannot load certificate "{prefix}/certs/none.pem""#).await;
    // nginx does not say where.
    if !is_nginx() {
        refuses(text, "in {file}:4").await;
    }
}

#[tokio::test]
async fn a_key_that_is_no_key() {
    let text = "events {}\nhttp {\nserver { listen 8443 ssl;\n\
        ssl_certificate certs/cert.pem;\nssl_certificate_key certs/bad.pem;\n}\n}\n";
    let plan = || Plan::new(text).certificate().file("certs/bad.pem", "nothing\n");
    refuses_plan(plan(), r#"cannot load certificate key "{prefix}/certs/bad.pem""#).await;
    if !is_nginx() {
        refuses_plan(plan(), "in {file}:5").await;
    }
}

#[tokio::test]
async fn a_server_with_ssl_and_no_certificate() {
    let text = "events {}\nhttp {\nserver {\nlisten 8443 ssl;\n}\n}\n";
    refuses(text, r#"no "ssl_certificate" is defined for the "listen ... ssl" directive in {file}:3"#).await;
}

#[tokio::test]
async fn names_of_things_that_are_not_there() {
    refuses(&in_location("access_log logs/a.log fancy;"), r#"unknown log format "fancy" in {file}:5"#).await;
    refuses(&in_location("return 200 $no_such;"), r#"unknown "no_such" variable"#).await;
    refuses(&in_location("limit_req zone=absent;"), r#"zero size shared memory zone "absent""#).await;
    if !is_nginx() {
        // nginx knows these only at the end, and says no line.
        refuses(&in_location("return 200 $no_such;"), "{file}:5").await;
        refuses(&in_location("limit_req zone=absent;"), "{file}:5").await;
    }
}

#[tokio::test]
async fn a_uri_where_none_can_be() {
    let text = "events {}\nhttp {\nserver { listen 8080;\nlocation ~ x {\n\
        proxy_pass http://127.0.0.1:1/y;\n}\n}\n}\n";
    refuses(text, r#""proxy_pass" cannot have URI part in location given by regular expression"#).await;
    refuses(text, "in {file}:5").await;
}

#[tokio::test]
async fn no_events() {
    refuses("http {}\n", r#"no "events" section in configuration"#).await;
}

#[tokio::test]
async fn a_mistake_in_the_globals() {
    let plan = Plan::new("events {}\nhttp {}\n").globals(" nonsense 1;");
    refuses_plan(plan, r#"unknown directive "nonsense""#).await;
    let plan = Plan::new("events {}\nhttp {}\n").globals(" nonsense 1;");
    refuses_plan(plan, "in command line").await;
}

#[tokio::test]
async fn a_server_does_not_start_with_a_broken_configuration() {
    let ran = Plan::new("events {}\nfoo;\n").start_and_fail().await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains(r#"unknown directive "foo""#), "{}", ran.stderr);
    assert!(ran.stderr.contains("nginx.conf:2"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_port_that_is_in_use() {
    let text = "events {}\nhttp {\nserver {\nlisten 8080;\n}\n}\n";
    let prepared = Plan::new(text).prepare();
    let addr = prepared.addr(8080);
    let _taken = TcpListener::bind(addr).unwrap();
    let server = prepared.spawn();
    assert_eq!(server.exited().await.code(), Some(1));
    let expected = format!("bind() to {addr} failed (98: Address already in use)");
    assert!(server.stderr().contains(&expected), "{}", server.stderr());
    if !is_nginx() {
        assert!(server.stderr().contains("nginx.conf:4"), "{}", server.stderr());
    }
}

#[tokio::test]
async fn a_port_in_use_by_the_server_that_runs_is_no_mistake() {
    let server = Plan::new("events {}\nhttp {\nserver {\nlisten 8080;\n}\n}\n").start().await;
    let ran = server.run(&["-t"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    server.signal(Signal::QUIT);
    assert_eq!(server.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_name_that_two_servers_have_is_told() {
    let text = "events {}\nhttp {\nserver { listen 8080; server_name a; }\nserver { listen 8080; server_name a; }\n}\n";
    let ran = Plan::new(text).check().await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("[warn]"), "{}", ran.stderr);
    assert!(ran.stderr.contains("conflicting server name \"a\" on "), "{}", ran.stderr);
}
