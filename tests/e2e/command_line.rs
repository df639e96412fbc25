//! The command line: nginx's options, what they print and the codes they exit with.
use crate::support::client::get;
use crate::support::eventually;
use crate::support::server::{Plan, Ran, Server, Signal, is_nginx, run};

const CONFIG: &str = "events {}\nhttp {\nserver {\nlisten 8080;\nlocation / { return 200 one; }\n}\n}\n";

fn name() -> &'static str {
    match is_nginx() {
        true => "nginx",
        false => "edgewater",
    }
}

fn assert_ok(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[tokio::test]
async fn the_version() {
    let ran = run(["-v"]).await;
    assert_ok(&ran);
    let version = format!("{} version: {}/", name(), name());
    assert!(ran.stderr.starts_with(&version), "{}", ran.stderr);
    assert_eq!((ran.stderr.lines().count(), ran.stdout.as_str()), (1, ""));
    if !is_nginx() {
        let number = env!("CARGO_PKG_VERSION");
        assert!(ran.stderr.trim_end().ends_with(number), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn the_version_and_how_it_was_built() {
    let (short, long) = (run(["-v"]).await, run(["-V"]).await);
    assert_ok(&long);
    assert!(long.stderr.starts_with(&short.stderr), "{}", long.stderr);
    assert!(long.stderr.lines().count() > 1);
}

#[tokio::test]
async fn help_names_every_option() {
    for option in ["-h", "-?"] {
        let ran = run([option]).await;
        assert_ok(&ran);
        for option in [
            "-v",
            "-V",
            "-t",
            "-T",
            "-q",
            "-s signal",
            "-p prefix",
            "-e filename",
            "-c filename",
            "-g directives",
        ] {
            assert!(ran.stderr.contains(&format!("\n  {option} ")), "{option} in {}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn what_is_no_option() {
    for (args, complaint) in [
        (&["-z"][..], r#"invalid option: "z""#),
        (&["-tz"], r#"invalid option: "z""#),
        (&["-v", "-z"], r#"invalid option: "z""#),
        (&["--"], r#"invalid option: "-""#),
        (&[""], r#"invalid option: """#),
        (&["extra"], r#"invalid option: "extra""#),
        (&["-tqc"], r#"option "-c" requires file name"#),
        (&["-v", "-sjump"], r#"invalid option: "-s jump""#),
        (&["-c"], r#"option "-c" requires file name"#),
        (&["-p"], r#"option "-p" requires directory name"#),
        (&["-g"], r#"option "-g" requires parameter"#),
        (&["-e"], r#"option "-e" requires file name"#),
        (&["-s"], r#"option "-s" requires parameter"#),
        (&["-s", "jump"], r#"invalid option: "-s jump""#),
    ] {
        let ran = run(args).await;
        assert_eq!(ran.code, Some(1), "{args:?}");
        assert_eq!(ran.stderr, format!("{}: {complaint}\n", name()));
    }
}

#[tokio::test]
async fn a_test_of_the_configuration() {
    let prepared = Plan::new(CONFIG).prepare();
    let file = prepared.prefix().join("nginx.conf").display().to_string();
    let ok = format!("{}: the configuration file {file} syntax is ok\n", name());
    let successful = format!("{}: configuration file {file} test is successful\n", name());
    let ran = prepared.run(&["-t"]).await;
    assert_ok(&ran);
    assert_eq!(ran.stderr, format!("{ok}{successful}"));
    assert_eq!(ran.stdout, "");
    // -q: nothing but errors.
    let ran = prepared.run(&["-t", "-q"]).await;
    assert_ok(&ran);
    assert_eq!(ran.stderr, "");
    let ran = prepared.run(&["-tq"]).await;
    assert_ok(&ran);
    assert_eq!(ran.stderr, "");
}

#[tokio::test]
async fn the_configuration_is_dumped_with_what_it_includes() {
    let text = "events {}\nhttp {\ninclude more.conf;\ninclude more.conf;\n}\n";
    let prepared = Plan::new(text).file("more.conf", "# more\n").prepare();
    let written = std::fs::read_to_string(prepared.prefix().join("nginx.conf")).unwrap();
    let ran = prepared.run(&["-T"]).await;
    assert_ok(&ran);
    let prefix = prepared.prefix().display();
    let dump = format!(
        "# configuration file {prefix}/nginx.conf:\n{written}\n\
         # configuration file {prefix}/more.conf:\n# more\n\n"
    );
    assert_eq!(ran.stdout, dump);
    assert!(ran.stderr.ends_with("test is successful\n"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_configuration_file_is_relative_to_the_prefix() {
    let prepared = Plan::new(CONFIG).file("conf/other.conf", "events {}\nfoo;\n").prepare();
    let prefix = prepared.prefix().to_str().unwrap();
    let globals = format!("pid {prefix}/x.pid;");
    for (config, line) in [("conf/other.conf", "other.conf:2"), ("nginx.conf", "successful")] {
        let ran = run(["-t", "-p", prefix, "-c", config, "-g", &globals]).await;
        assert!(ran.stderr.contains(line), "{}", ran.stderr);
    }
    // An option and its value may be one word.
    let (p, c, g) = (format!("-p{prefix}"), "-cnginx.conf", format!("-g{globals}"));
    assert_ok(&run(["-t", &p, c, &g]).await);
}

#[tokio::test]
async fn a_configuration_file_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.conf").display().to_string();
    let ran = run(["-t", "-e", "stderr", "-c", &missing]).await;
    assert_eq!(ran.code, Some(1));
    let complaint = format!("open() \"{missing}\" failed (2: No such file or directory)\n");
    assert!(ran.stderr.contains(&complaint), "{}", ran.stderr);
    let last = format!("{}: configuration file {missing} test failed\n", name());
    assert!(ran.stderr.ends_with(&last), "{}", ran.stderr);
}

#[tokio::test]
async fn directives_from_the_command_line_are_in_force() {
    let server = Plan::new(CONFIG).globals(" error_log logs/of-globals.log info;").start().await;
    assert_eq!(get(server.addr(8080), "/").await.text(), "one");
    assert!(server.read("logs/of-globals.log").is_some());
}

#[tokio::test]
async fn early_errors_go_to_the_file_of_the_option() {
    let prepared = Plan::new("events {}\nfoo;\n").prepare();
    let prefix = prepared.prefix().to_str().unwrap();
    let config = format!("{prefix}/nginx.conf");
    let log = format!("{prefix}/early.log");
    let globals = format!("pid {prefix}/x.pid;");
    let ran = run(["-p", prefix, "-c", &config, "-e", &log, "-g", &globals]).await;
    assert_eq!(ran.code, Some(1));
    let expected = format!("[emerg] unknown directive \"foo\" in {config}:2");
    let here = format!("{}: {expected}", name());
    if is_nginx() {
        assert_eq!(ran.stderr, format!("{here}\n"));
    } else {
        assert!(ran.stderr.contains("edgewater: [emerg] unknown directive \"foo\""), "{}", ran.stderr);
    }
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains(r#"unknown directive "foo""#), "{logged}");
}

#[tokio::test]
async fn the_process_id_is_in_its_file_while_the_server_runs() {
    let server = Plan::new(CONFIG).start().await;
    let pid = pid_file(&server).await;
    assert_eq!(pid, format!("{}\n", server.pid().as_raw_nonzero()));
    server.signal(Signal::TERM);
    assert_eq!(server.exited().await.code(), Some(0));
    assert_eq!(server.read("server.pid"), None);
}

/// nginx writes it after it has begun to listen.
async fn pid_file(server: &Server) -> String {
    eventually("the pid file", || async { server.read("server.pid").filter(|pid| pid.ends_with('\n')) }).await
}

#[tokio::test]
async fn stop_and_quit_end_the_server() {
    for word in ["stop", "quit"] {
        let server = Plan::new(CONFIG).start().await;
        pid_file(&server).await;
        let ran = server.run(&["-s", word]).await;
        assert_ok(&ran);
        assert_eq!(server.exited().await.code(), Some(0));
        assert_eq!(server.read("server.pid"), None);
        std::net::TcpListener::bind(server.addr(8080)).unwrap();
    }
}

#[tokio::test]
async fn reload_takes_the_new_configuration() {
    let mut server = Plan::new(CONFIG).start().await;
    pid_file(&server).await;
    assert_eq!(get(server.addr(8080), "/").await.text(), "one");
    server.configure(&CONFIG.replace("one", "two"));
    assert_ok(&server.run(&["-s", "reload"]).await);
    eventually("the new configuration", || async {
        (get(server.addr(8080), "/").await.text() == "two").then_some(())
    })
    .await;
    assert_eq!(pid_file(&server).await, format!("{}\n", server.pid().as_raw_nonzero()));
}

#[tokio::test]
async fn reopen_starts_the_logs_anew() {
    let text = CONFIG.replace("listen", "access_log logs/access.log;\nlisten");
    let server = Plan::new(&text).start().await;
    pid_file(&server).await;
    get(server.addr(8080), "/before").await;
    eventually("a line in the log", || async {
        server.read("logs/access.log").filter(|log| log.contains("/before"))
    })
    .await;
    let (log, old) = (server.prefix().join("logs/access.log"), server.prefix().join("logs/old.log"));
    std::fs::rename(&log, &old).unwrap();
    assert_ok(&server.run(&["-s", "reopen"]).await);
    eventually("a line in the new log", || async {
        get(server.addr(8080), "/after").await;
        server.read("logs/access.log").filter(|log| log.contains("/after"))
    })
    .await;
    assert!(!server.read("logs/access.log").unwrap().contains("/before"));
    assert!(server.read("logs/old.log").unwrap().contains("/before"));
}

#[tokio::test]
async fn a_signal_to_a_server_that_does_not_run() {
    let prepared = Plan::new(CONFIG).prepare();
    let ran = prepared.run(&["-s", "reload"]).await;
    assert_eq!(ran.code, Some(1));
    let file = prepared.prefix().join("server.pid").display().to_string();
    let complaint = format!("open() \"{file}\" failed (2: No such file or directory)");
    assert!(ran.stderr.contains(&complaint), "{}", ran.stderr);
}

#[tokio::test]
async fn a_version_is_no_end_when_a_test_is_asked_for_too() {
    let prepared = Plan::new(CONFIG).prepare();
    for option in ["-vt", "-Vt", "-ht", "-vTq"] {
        let ran = prepared.run(&[option]).await;
        assert_ok(&ran);
        assert!(ran.stderr.starts_with(&format!("{} version: ", name())), "{}", ran.stderr);
        let tested =
            ran.stderr.contains("test is successful") || ran.stdout.contains("# configuration file ");
        assert!(tested, "{option}: {}", ran.stderr);
    }
    // A test is all that is done when a signal is asked for as well: there is no server here.
    assert_ok(&prepared.run(&["-t", "-s", "reload"]).await);
}

#[tokio::test]
async fn modules_are_told_where_scripts_look_for_them() {
    let ran = run(["-V"]).await;
    let line = ran.stderr.lines().find(|line| line.starts_with("configure arguments: ")).unwrap();
    for module in ["http_v2_module", "http_ssl_module", "http_stub_status_module", "http_gzip_static_module"]
    {
        assert!(line.split(' ').any(|word| word == format!("--with-{module}")), "{module} in {line}");
    }
    assert!(ran.stderr.lines().any(|line| line.starts_with("built with ")), "{}", ran.stderr);
    assert!(ran.stderr.contains("\nTLS SNI support enabled\n"), "{}", ran.stderr);
    assert!(is_nginx() || !line.contains("perl"), "{line}");
}

#[tokio::test]
async fn a_test_ends_with_what_its_notes_come_to() {
    let text = "events {\naccept_mutex on;\n\n}\nhttp {\nsendfile on;\n}\n";
    let prepared = Plan::new(text).prepare();
    let ran = prepared.run(&["-t"]).await;
    assert_ok(&ran);
    let lines: Vec<_> = ran.stderr.lines().collect();
    let place = |words: &str| lines.iter().position(|line| line.contains(words));
    let (ok, successful) = (place("syntax is ok").unwrap(), place("test is successful").unwrap());
    assert_eq!(ok + 1, successful);
    if !is_nginx() {
        let note = place("\"sendfile\" has no effect").unwrap();
        assert!(note < ok && lines[note].contains("nginx.conf:6"), "{}", ran.stderr);
        assert_eq!(lines.last().unwrap(), &"edgewater: 2 directives have no effect");
        assert_eq!(successful + 2, lines.len());
    }
    let ran = prepared.run(&["-tq"]).await;
    assert_eq!(ran.stderr, "");
}

#[tokio::test]
async fn a_pid_file_that_holds_no_number() {
    let prepared = Plan::new(CONFIG).prepare();
    let file = prepared.prefix().join("server.pid");
    for (held, shown) in [("", ""), ("abc\n", "abc"), ("  12\n", "  12"), ("-5\n", "-5"), ("12 \n\n", "12 ")]
    {
        std::fs::write(&file, held).unwrap();
        let ran = prepared.run(&["-s", "stop"]).await;
        assert_eq!(ran.code, Some(1), "{held:?}");
        let complaint = format!("invalid PID number \"{shown}\" in \"{}\"\n", file.display());
        assert!(ran.stderr.contains("[error] ") && ran.stderr.ends_with(&complaint), "{}", ran.stderr);
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let ran = prepared.run(&["-s", "stop"]).await;
    let complaint = format!("pread() \"{}\" failed (21: Is a directory)\n", file.display());
    assert!(ran.code == Some(1) && ran.stderr.ends_with(&complaint), "{}", ran.stderr);
}

#[tokio::test]
async fn a_pid_file_of_a_process_that_is_gone() {
    let prepared = Plan::new(CONFIG).prepare();
    // Ended and waited for, so that its number is nobody's.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    std::fs::write(prepared.prefix().join("server.pid"), format!("{}\n", child.id())).unwrap();
    for (word, number) in [("stop", 15), ("quit", 3), ("reload", 1), ("reopen", 10)] {
        let ran = prepared.run(&["-s", word]).await;
        assert_eq!(ran.code, Some(1));
        let complaint = format!("kill({}, {number}) failed (3: No such process)\n", child.id());
        assert!(ran.stderr.contains("[alert] ") && ran.stderr.ends_with(&complaint), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn a_configuration_that_is_wrong_disturbs_nothing() {
    let mut server = Plan::new(CONFIG).start().await;
    let pid = pid_file(&server).await;
    for broken in [
        CONFIG.replace("one", "two").replace("return", "retrun"),
        CONFIG.replace("one", "two").replace("events {}", ""),
        CONFIG.replace("one", "$two"),
        CONFIG.replace("one;", "two"),
    ] {
        server.configure(&broken);
        for args in [&["-t"][..], &["-s", "reload"], &["-s", "quit"], &["-s", "stop"]] {
            let ran = server.run(args).await;
            assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("[emerg] "), "{}", ran.stderr);
        }
        assert_eq!(get(server.addr(8080), "/").await.text(), "one");
    }
    assert_eq!(pid_file(&server).await, pid);
    server.configure(&CONFIG.replace("one", "two"));
    assert_ok(&server.run(&["-s", "reload"]).await);
    eventually("the new configuration", || async {
        (get(server.addr(8080), "/").await.text() == "two").then_some(())
    })
    .await;
}

#[tokio::test]
async fn directives_from_the_command_line_are_ended_by_semicolons() {
    let prepared = Plan::new(CONFIG).prepare();
    let config = prepared.prefix().join("nginx.conf").display().to_string();
    let ran = run(["-t", "-e", "stderr", "-c", &config, "-g", "daemon off; timer_resolution 1s"]).await;
    assert_eq!(ran.code, Some(1));
    let complaint = "unexpected end of parameter, expecting \";\" in command line";
    assert!(ran.stderr.contains(complaint), "{}", ran.stderr);
}

#[tokio::test]
async fn a_daemon_runs_on_when_the_command_has_ended() {
    let text = format!("pid {{prefix}}/daemon.pid;\n{CONFIG}");
    let prepared = Plan::new(&text).prepare();
    let prefix = prepared.prefix().to_str().unwrap().to_string();
    let config = format!("{prefix}/nginx.conf");
    let log = format!("{prefix}/error.log");
    let args = ["-p", &prefix, "-c", &config, "-e", &log];
    let daemon = Daemon(format!("{prefix}/daemon.pid"));
    assert_ok(&run(args).await);
    assert_eq!(get(prepared.addr(8080), "/").await.text(), "one");
    assert_ok(&run(args.into_iter().chain(["-s", "stop"])).await);
    eventually("its end", || async { daemon.pid().is_none().then_some(()) }).await;
}

/// A server that is nobody's child; killed when the test ends, however it ends. Holds the path of its pid file.
struct Daemon(String);

impl Daemon {
    fn pid(&self) -> Option<rustix::process::Pid> {
        let pid = std::fs::read_to_string(&self.0).ok()?;
        rustix::process::Pid::from_raw(pid.trim().parse().ok()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
}
