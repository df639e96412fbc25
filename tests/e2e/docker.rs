//! The Docker image in its place: built from the binary with nothing pulled, started by a real engine with the
//! compose file we ship, reloaded, checked and stopped with the `docker` commands that operators use.
//!
//! The engine is our own: a `dockerd` with its data, its socket and its containers in a temporary directory.
//! Where none can be had (not root, no package, no rights in the kernel) the test says so and passes.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::support::server::{is_nginx, program};

const IMAGE: &str = "edgewater-under-test";
const CONTAINER: &str = "under-test";
/// Larger than every buffer between the server and a client that does not read.
const LARGE_FILE: u64 = 64 << 20;

#[test]
fn the_image_stands_where_nginx_stood() {
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(reason) => {
            // Past the capture of the test runner: a skipped test must be seen.
            writeln!(std::io::stderr(), "SKIPPED: no Docker engine: {reason}").unwrap();
            return;
        }
    };
    build_image(&engine);
    prepares_its_configuration(&engine);
    let site = Site::start(&engine);

    serves_both_ports(&site);
    reads_the_origin_by_its_name(&site);
    obeys_the_memory_limit(&engine);
    reloads_on_hup(&engine, &site);
    keeps_serving_when_the_new_file_is_broken(&engine, &site);
    logs_to_docker(&engine, &site);
    becomes_healthy(&engine);
    finishes_a_download_before_it_stops(&engine, &site);
}

fn build_image(engine: &Engine) {
    let context = engine.dir.path().join("image");
    let deploy = repository().join("deploy");
    fs::create_dir(&context).unwrap();
    run(Command::new("sh").arg(deploy.join("image-root.sh")).arg(program()).arg(context.join("root")));
    fs::copy(deploy.join("Dockerfile.runtime"), context.join("Dockerfile")).unwrap();
    // The classic builder needs no plugin. Its layer of this image is a copy of one directory.
    let mut build = engine.docker(&["build", "--quiet", "--network", "none", "--tag", IMAGE]);
    run(build.arg(&context).env("DOCKER_BUILDKIT", "0"));
}

/// The entrypoint and the files of the image: a template, its variables, and the server that comes with it.
fn prepares_its_configuration(engine: &Engine) {
    let templates = engine.dir.path().join("templates");
    fs::create_dir(&templates).unwrap();
    let template = "server { listen 8080; location / { return 200 \"${GREETING}, $host\\n\"; } }\n";
    fs::write(templates.join("greeting.conf.template"), template).unwrap();
    let mount = format!("{}:/etc/nginx/templates:ro", templates.display());
    let start = ["run", "--detach", "--network", "none", "--name", "prepared", "--volume", &mount];
    let variables =
        ["--env", "GREETING=good evening", "--env", "NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE=1", IMAGE];
    run(engine.docker(&start).args(variables));
    let inside = |arguments: &[&str]| {
        let output = engine.docker(&["exec", "prepared"]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    await_that("the template is served", || {
        inside(&["curl", "-s", "http://127.0.0.1:8080/"]) == "good evening, 127.0.0.1\n"
    });
    assert!(inside(&["curl", "-s", "http://127.0.0.1/"]).contains("<h1>Edgewater runs</h1>"));
    assert!(inside(&["cat", "/etc/nginx/nginx.conf"]).contains("# was: worker_processes auto;"));
    let logs = run(&mut engine.docker(&["logs", "prepared"]));
    let logs = String::from_utf8_lossy(&logs.stdout).into_owned();
    assert!(logs.contains("20-envsubst-on-templates.sh"), "{logs}");
    run(&mut engine.docker(&["stop", "--time", "20", "prepared"]));
    let ended = run(&mut engine.docker(&["inspect", "--format", "{{.State.ExitCode}}", "prepared"]));
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), "0");
    run(&mut engine.docker(&["rm", "prepared"]));
    // Another command is run as it is.
    let version = run(&mut engine.docker(&["run", "--rm", "--network", "none", IMAGE, "nginx", "-v"]));
    assert!(String::from_utf8_lossy(&version.stderr).starts_with("edgewater version: "));
}

fn serves_both_ports(site: &Site) {
    site.await_answer("/health", "ok\n");
    let redirect = curl(&["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &site.http("/a?b=c")]);
    assert_eq!(redirect, "301 https://127.0.0.1/a?b=c");
    let page = curl(&["-w", "%{http_version} %{http_code} %{content_type}", &site.https("/")]);
    assert!(page.contains("<h1>Edgewater runs</h1>"), "{page}");
    assert!(page.ends_with("2 200 text/html"), "{page}");
}

fn reads_the_origin_by_its_name(site: &Site) {
    let expected = fs::read(site.path("media/live/seg1.ts")).unwrap();
    let answer = run(Command::new("curl").args(["-skf", &site.https("/live/seg1.ts")]));
    assert!(answer.stdout == expected, "{} bytes came of {}", answer.stdout.len(), expected.len());
    // The origin is another container of the same network, found through Docker's name server.
    let missing = curl(&["-o", "/dev/null", "-w", "%{http_code}", &site.https("/live/none.ts")]);
    assert_eq!(missing, "404");
}

fn obeys_the_memory_limit(engine: &Engine) {
    assert_eq!(engine.inspect("{{.HostConfig.Memory}}"), (128 << 20).to_string());
    assert_eq!(engine.inspect("{{.State.OOMKilled}}"), "false");
}

fn reloads_on_hup(engine: &Engine, site: &Site) {
    let tested = engine.docker(&["exec", CONTAINER, "nginx", "-t"]).output().unwrap();
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success() && said.contains("test is successful"), "{said}");

    site.edit_config("\"ok\\n\"", "\"ok, second\\n\"");
    run(&mut engine.docker(&["kill", "-s", "HUP", CONTAINER]));
    site.await_answer("/health", "ok, second\n");
}

fn keeps_serving_when_the_new_file_is_broken(engine: &Engine, site: &Site) {
    let good = fs::read(site.path("nginx.conf")).unwrap();
    site.edit_config("worker_processes  auto;", "worker_procesess  auto;");
    let tested = engine.docker(&["exec", CONTAINER, "nginx", "-t"]).output().unwrap();
    let said = String::from_utf8_lossy(&tested.stderr).into_owned();
    assert!(!tested.status.success(), "{said}");
    let line = 1 + fs::read_to_string(site.path("nginx.conf"))
        .unwrap()
        .split("worker_procesess")
        .next()
        .unwrap()
        .matches('\n')
        .count();
    let place = format!("/etc/nginx/nginx.conf:{line}");
    assert!(said.contains(&place), "{said}");

    run(&mut engine.docker(&["kill", "-s", "HUP", CONTAINER]));
    await_that("the failed reload is in the log", || engine.logs().contains(&place));
    assert_eq!(curl(&[&site.http("/health")]), "ok, second\n");
    site.write_config(&good);
}

fn logs_to_docker(engine: &Engine, site: &Site) {
    curl(&["-o", "/dev/null", &site.https("/seen-in-the-log")]);
    await_that("the request is in `docker logs`", || {
        engine.logs().contains("GET /seen-in-the-log HTTP/2.0\" 404")
    });
}

fn becomes_healthy(engine: &Engine) {
    await_that("the container is healthy", || engine.inspect("{{.State.Health.Status}}") == "healthy");
}

/// `docker stop` sends the image's STOPSIGNAL: who is being served is served, nobody new is let in.
fn finishes_a_download_before_it_stops(engine: &Engine, site: &Site) {
    let mut client = TcpStream::connect(("127.0.0.1", site.http_port)).unwrap();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut first = [0; 12];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let stopping = Running::spawn(engine.docker(&["stop", "--time", "60", CONTAINER]).stdout(Stdio::null()));
    await_that("new requests are refused", || {
        !Command::new("curl").args(["-so", "/dev/null", &site.http("/health")]).status().unwrap().success()
    });
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    let body = rest.len() - (find(&rest, b"\r\n\r\n").expect("a head") + 4);
    assert_eq!(body as u64, LARGE_FILE);

    stopping.finish();
    assert_eq!(engine.inspect("{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
}

/// A `dockerd` of our own. Dropping it ends it with all that it started.
struct Engine {
    dir: TempDir,
    daemon: Child,
}

impl Engine {
    /// The error is the reason why there can be no engine here.
    fn start() -> Result<Engine, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("dockerd needs root".into());
        }
        for (program, argument) in
            [("dockerd", "--version"), ("docker", "--version"), ("curl", "--version"), ("openssl", "version")]
        {
            if !answers(Command::new(program).arg(argument)) {
                return Err(format!("{program} is not installed"));
            }
        }
        if compose_command().is_none() {
            return Err("neither `docker compose` nor `docker-compose` is installed".into());
        }
        // A short path: the names of Unix sockets have little room.
        let dir = tempfile::Builder::new().prefix("ew").tempdir_in("/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        let log = fs::File::create(at("log")).unwrap();
        let daemon = Command::new("dockerd")
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at("sock").display()))
            // What works on every file system and changes no rule of the machine's firewall.
            .args(["--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut engine = Engine { dir, daemon };
        engine.await_ready()?;
        Ok(engine)
    }

    fn await_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !answers(self.docker(&["version"]).stderr(Stdio::null())) {
            let ended = self.daemon.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                return Err(format!("dockerd does not start: {}", log.lines().last().unwrap_or_default()));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.dir.path().join("sock").display())
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments).env("DOCKER_HOST", self.socket());
        command
    }

    fn inspect(&self, format: &str) -> String {
        let output = run(&mut self.docker(&["inspect", "--format", format, CONTAINER]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn logs(&self) -> String {
        let output = run(&mut self.docker(&["logs", CONTAINER]));
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // dockerd ends its containerd itself when it is asked to end, and not when it is killed.
        let _ = rustix::process::kill_process(Pid::from_child(&self.daemon), Signal::TERM);
        let _ = self.daemon.wait();
    }
}

/// The files beside the compose file, and the services it started.
struct Site<'a> {
    engine: &'a Engine,
    dir: PathBuf,
    http_port: u16,
    https_port: u16,
}

impl<'a> Site<'a> {
    fn start(engine: &'a Engine) -> Site<'a> {
        let dir = engine.dir.path().join("site");
        let site = Site { engine, dir, http_port: free_port(), https_port: free_port() };
        site.write_files();
        run(&mut site.compose(&["up", "--detach", "--no-build"]));
        site
    }

    fn write_files(&self) {
        for name in ["certs", "media/live"] {
            fs::create_dir_all(self.path(name)).unwrap();
        }
        let deploy = repository().join("deploy");
        fs::copy(deploy.join("docker-compose.yml"), self.path("docker-compose.yml")).unwrap();
        fs::write(self.path("beside.yml"), BESIDE).unwrap();
        fs::write(self.path("origin.conf"), ORIGIN).unwrap();
        let config = fs::read_to_string(deploy.join("nginx.conf")).unwrap();
        // The one thing that the test adds is a long download; the one that nginx does not know goes.
        let config = config.replacen(
            "location = /health {",
            "location = /large { alias /etc/nginx/certs/large; }\nlocation = /health {",
            1,
        );
        let config = if is_nginx() { config.replace("prometheus;", "return 204;") } else { config };
        self.write_config(config.as_bytes());
        run(Command::new("openssl")
            .args(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
                    .split(' '),
            )
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .arg("-keyout")
            .arg(self.path("certs/privkey.pem"))
            .arg("-out")
            .arg(self.path("certs/fullchain.pem")));
        fs::File::create(self.path("certs/large")).unwrap().set_len(LARGE_FILE).unwrap();
        let segment: Vec<u8> = (0..188 * 1000u32).map(|i| (i % 251) as u8).collect();
        fs::write(self.path("media/live/seg1.ts"), segment).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let words = compose_command().expect("checked when the engine started");
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["-p", CONTAINER, "-f", "docker-compose.yml", "-f", "beside.yml"])
            .args(arguments)
            .current_dir(&self.dir)
            .env("DOCKER_HOST", self.engine.socket())
            .env("EDGEWATER_IMAGE", IMAGE)
            .env("HTTP_PORT", format!("127.0.0.1:{}", self.http_port))
            .env("HTTPS_PORT", format!("127.0.0.1:{}", self.https_port));
        command
    }

    fn http(&self, target: &str) -> String {
        format!("http://127.0.0.1:{}{target}", self.http_port)
    }

    fn https(&self, target: &str) -> String {
        format!("https://127.0.0.1:{}{target}", self.https_port)
    }

    fn await_answer(&self, target: &str, body: &str) {
        await_that(&format!("{target} answers {body:?}"), || {
            let output = Command::new("curl").args(["-s", &self.http(target)]).output().unwrap();
            output.stdout == body.as_bytes()
        });
    }

    fn edit_config(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("nginx.conf")).unwrap();
        assert!(config.contains(from), "{from} is not in nginx.conf");
        self.write_config(config.replace(from, to).as_bytes());
    }

    /// In place: a mounted file is the inode that it was when the container started.
    fn write_config(&self, config: &[u8]) {
        fs::write(self.path("nginx.conf"), config).unwrap();
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "{}",
                String::from_utf8_lossy(&self.compose(&["logs", "--tail", "12"]).output().unwrap().stdout)
            );
        }
        let _ = self.compose(&["down", "--timeout", "1", "--volumes"]).output();
    }
}

/// What the test puts beside the shipped service: a fixed name for it, and an origin from the same image.
const BESIDE: &str = r#"
version: "2.4"
services:
  edge:
    container_name: under-test
  origin:
    image: ${EDGEWATER_IMAGE}
    volumes:
      - ./origin.conf:/etc/nginx/nginx.conf:ro
      - ./media:/srv:ro
"#;

const ORIGIN: &str = "
events {}
http { server { listen 8080; root /srv; } }
";

/// A process that is ended should the test not get as far as `finish`.
struct Running(Option<Child>);

impl Running {
    fn spawn(command: &mut Command) -> Running {
        Running(Some(command.spawn().unwrap()))
    }

    fn finish(mut self) {
        let status = self.0.take().expect("taken once only").wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn compose_command() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    ways.into_iter()
        .find(|words| answers(Command::new(words[0]).args(&words[1..]).arg("version").stderr(Stdio::null())))
}

fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn curl(arguments: &[&str]) -> String {
    let output = run(Command::new("curl").arg("-sSk").args(arguments));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not seen in a minute: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
