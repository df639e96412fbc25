//! The image's entrypoint, run by `sh` on a directory that stands for the container's root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A container's file system with the scripts of the image, and a server that tells how it was called.
struct Container {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

/// What came of a start.
struct Started {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Container {
    fn new() -> Container {
        let container = Container { dir: tempfile::tempdir().unwrap(), environment: Vec::new() };
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
        for step in fs::read_dir(deploy.join("docker-entrypoint.d")).unwrap() {
            let step = step.unwrap().path();
            let name = step.file_name().unwrap().to_str().unwrap().to_owned();
            container.step(&name, &fs::read_to_string(&step).unwrap(), true);
        }
        container.write("bin/nginx", "#!/bin/sh\necho \"started with $*, FROM_STEP=$FROM_STEP\"\n");
        fs::set_permissions(container.path("bin/nginx"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(container.path("etc/nginx/conf.d")).unwrap();
        container
    }

    /// Without the image's own steps.
    fn bare() -> Container {
        let container = Container::new();
        fs::remove_dir_all(container.path("docker-entrypoint.d")).unwrap();
        container
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| format!("{name}: {error}"))
    }

    fn step(&self, name: &str, text: &str, executable: bool) {
        let name = format!("docker-entrypoint.d/{name}");
        self.write(&name, text);
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(self.path(&name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn env(mut self, name: &str, value: &str) -> Container {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn start(&self, command: &[&str]) -> Started {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docker-entrypoint.sh");
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .arg(script)
            .args(command)
            .env("PATH", path)
            .env("EDGEWATER_ROOT", self.dir.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        Started {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the server as the image does.
    fn serve(&self) -> Started {
        let started = self.start(&["nginx", "-g", "daemon off;"]);
        assert_eq!(started.code, Some(0), "{}{}", started.stdout, started.stderr);
        assert!(started.stdout.contains("started with -g daemon off;"), "{}", started.stdout);
        started
    }
}

#[test]
fn steps_run_in_the_order_of_their_numbers() {
    let container = Container::bare();
    container.step("9-first.envsh", "export FROM_STEP=yes\necho step 9", true);
    container.step("10-second.sh", "#!/bin/sh\necho step 10, FROM_STEP=$FROM_STEP", true);
    container.step("below/11-third name.sh", "#!/bin/sh\necho step 11", true);
    container.step("12-not-executable.sh", "#!/bin/sh\necho step 12", false);
    container.step("13-other.txt", "echo step 13", true);
    let started = container.serve();
    let lines: Vec<&str> = started.stdout.lines().filter(|line| line.starts_with("step ")).collect();
    assert_eq!(lines, ["step 9", "step 10, FROM_STEP=yes", "step 11"]);
    assert!(started.stdout.contains("FROM_STEP=yes\n"), "{}", started.stdout);
    assert!(started.stdout.contains("12-not-executable.sh is left out"), "{}", started.stdout);
    assert!(started.stdout.contains("13-other.txt is left out"), "{}", started.stdout);
}

#[test]
fn nothing_is_said_when_quiet() {
    let container = Container::new().env("NGINX_ENTRYPOINT_QUIET_LOGS", "1").env("NAME", "value");
    container.write("etc/nginx/templates/a.conf.template", "# ${NAME}\n");
    let started = container.serve();
    assert_eq!(started.stdout, "started with -g daemon off;, FROM_STEP=\n");
    assert_eq!(started.stderr, "");
    assert_eq!(container.read("etc/nginx/conf.d/a.conf"), "# value\n");
}

#[test]
fn another_command_is_run_as_it_is() {
    let container = Container::bare();
    container.step("1.sh", "#!/bin/sh\necho step 1", true);
    let started = container.start(&["echo", "a  b", "c"]);
    assert_eq!((started.code, started.stdout.as_str()), (Some(0), "a  b c\n"));
}

#[test]
fn a_step_that_fails_keeps_the_server_from_starting() {
    let container = Container::bare();
    container.step("1.sh", "#!/bin/sh\nexit 7", true);
    let started = container.start(&["nginx"]);
    assert_eq!(started.code, Some(7));
    assert!(!started.stdout.contains("started"), "{}", started.stdout);
}

#[test]
fn templates_become_files_and_only_known_variables_are_replaced() {
    let container = Container::new().env("BACKEND_HOST", "app").env("BACKEND_PORT", "").env("lower", "case");
    let template =
        "set $a \"${BACKEND_HOST}:$BACKEND_PORT\"; # $host ${request_uri} ${UNDEFINED_HERE} $lower\n";
    container.write("etc/nginx/templates/default.conf.template", template);
    container.write("etc/nginx/templates/deep/er.conf.template", "$BACKEND_HOST");
    container.write("etc/nginx/templates/other.conf", "$BACKEND_HOST");
    container.serve();
    let expected = "set $a \"app:\"; # $host ${request_uri} ${UNDEFINED_HERE} case\n";
    assert_eq!(container.read("etc/nginx/conf.d/default.conf"), expected);
    assert_eq!(container.read("etc/nginx/conf.d/deep/er.conf"), "app");
    assert!(!container.path("etc/nginx/conf.d/other.conf").exists());
}

#[test]
fn templates_may_lie_elsewhere_and_be_filtered() {
    let mut container = Container::new().env("APP_HOST", "app").env("HOST_ONLY", "kept");
    let (from, to) = (container.path("in"), container.path("out"));
    container = container
        .env("NGINX_ENVSUBST_TEMPLATE_DIR", from.to_str().unwrap())
        .env("NGINX_ENVSUBST_OUTPUT_DIR", to.to_str().unwrap())
        .env("NGINX_ENVSUBST_TEMPLATE_SUFFIX", ".tpl")
        .env("NGINX_ENVSUBST_FILTER", "^APP_");
    container.write("in/a.conf.tpl", "$APP_HOST $HOST_ONLY");
    container.write("in/b.conf.template", "$APP_HOST");
    container.write("in/c.stream-template", "");
    fs::create_dir(&to).unwrap();
    let started = container.serve();
    assert_eq!(container.read("out/a.conf"), "app $HOST_ONLY");
    assert!(!container.path("out/b.conf").exists());
    assert!(started.stderr.contains("only HTTP is served"), "{}", started.stderr);
}

#[test]
fn the_server_of_the_image_listens_on_ipv6_where_there_is_some() {
    let shipped = include_str!("../../conf/conf.d/default.conf");
    let both = shipped.replace("    listen      80;\n", "    listen      80;\n    listen      [::]:80;\n");
    assert_ne!(shipped, both);
    let edited = shipped.replace("localhost", "example.org");
    for (before, has_ipv6, after) in
        [(shipped, true, both.as_str()), (shipped, false, shipped), (edited.as_str(), true, edited.as_str())]
    {
        let container = Container::new();
        container.write("usr/share/edgewater/default.conf", shipped);
        container.write("etc/nginx/conf.d/default.conf", before);
        if has_ipv6 {
            container.write("proc/net/if_inet6", "");
        }
        container.serve();
        assert_eq!(container.read("etc/nginx/conf.d/default.conf"), after);
        // Started again, as after `docker restart`.
        container.serve();
        assert_eq!(container.read("etc/nginx/conf.d/default.conf"), after);
    }
}

#[test]
fn resolvers_of_the_machine_are_there_for_templates() {
    let container = Container::new().env("NGINX_ENTRYPOINT_LOCAL_RESOLVERS", "1");
    container.write(
        "etc/resolv.conf",
        "# a comment\nsearch x\nnameserver 127.0.0.11\nnameserver fe80::1\noptions a",
    );
    container.write("etc/nginx/templates/r.conf.template", "resolver ${NGINX_LOCAL_RESOLVERS};");
    container.serve();
    assert_eq!(container.read("etc/nginx/conf.d/r.conf"), "resolver 127.0.0.11 [fe80::1];");

    let container = Container::new();
    container.write("etc/nginx/templates/r.conf.template", "resolver ${NGINX_LOCAL_RESOLVERS};");
    container.serve();
    assert_eq!(container.read("etc/nginx/conf.d/r.conf"), "resolver ${NGINX_LOCAL_RESOLVERS};");
}

#[test]
fn workers_are_as_many_as_the_container_may_use() {
    let all = String::from_utf8(Command::new("nproc").output().unwrap().stdout).unwrap();
    let all = all.trim().parse().unwrap();
    type Files = &'static [(&'static str, &'static str)];
    let groups: [(Files, usize); 6] = [
        (&[("cgroup.controllers", ""), ("cpu.max", "50000 100000\n")], 1),
        (&[("cgroup.controllers", ""), ("cpu.max", "max 100000\n"), ("cpuset.cpus.effective", "3\n")], 1),
        (&[("cgroup.controllers", ""), ("own/cpu.max", "100000 100000\n"), ("cpu.max", "max 100000\n")], 1),
        (
            &[
                ("cgroup.controllers", ""),
                ("cpu.max", "max 100000\n"),
                ("cpuset.cpus.effective", "0-63,70\n"),
            ],
            all,
        ),
        (&[("cpu/cpu.cfs_quota_us", "100000\n"), ("cpu/cpu.cfs_period_us", "100000\n")], 1),
        (&[("cpu/cpu.cfs_quota_us", "-1\n"), ("cpu/cpu.cfs_period_us", "100000\n")], all),
    ];
    for (files, workers) in groups {
        let container = Container::new().env("NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE", "1");
        container.write("etc/nginx/nginx.conf", "user nginx;\nworker_processes  auto;\nevents { }\n");
        container.write("proc/self/cgroup", "0::/own\n");
        for (name, text) in files {
            container.write(&format!("sys/fs/cgroup/{name}"), text);
        }
        container.serve();
        let conf = container.read("etc/nginx/nginx.conf");
        let expected = format!("user nginx;\nworker_processes {workers}; #");
        assert!(conf.starts_with(&expected) && conf.ends_with("\nevents { }\n"), "{files:?}: {conf}");
    }
    let container = Container::new();
    container.write("etc/nginx/nginx.conf", "worker_processes auto;\n");
    container.serve();
    assert_eq!(container.read("etc/nginx/nginx.conf"), "worker_processes auto;\n");
}
