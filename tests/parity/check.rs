//! Checks of the configuration language: is a piece of configuration accepted, and if not, which line is named?

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;

use crate::case::{Case, Check};
use crate::server::Binary;
use crate::transcript::Transcript;

static LINE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"piece\.conf:([0-9]+)").unwrap());

static PLACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r" in [^ ]*\.conf:[0-9]+$").unwrap());

/// Tests each piece with `-t` and writes down the verdict.
pub fn run(
    case: &Case,
    binary: &Binary,
    dir: &Path,
    ip: Ipv4Addr,
    transcript: &mut Transcript,
) -> Result<(), String> {
    for check in &case.checks {
        let output = test(check, binary, dir, ip)?;
        let verdict = if output.status.success() { "ok" } else { "no" };
        transcript.statuses.push(verdict.into());
        transcript.sent(&format!("{}: {}", check.context, check.text.replace('\n', "⏎")));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            transcript.note("accepted");
            continue;
        }
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{}: {}", check.text, message.trim());
        }
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&output.status) {
            transcript.note(&format!("killed by signal {signal}"));
        }
        let line = LINE.captures(&message).map_or("no line".into(), |m| format!("line {}", &m[1]));
        let unsupported =
            ["not supported yet", "is not supported:"].iter().any(|words| message.contains(words));
        let unsupported = if unsupported { ", as not supported yet" } else { "" };
        transcript.note(&format!("refused at {line}{unsupported}"));
        if check.said {
            transcript.note(&said(&message, dir));
        }
    }
    Ok(())
}

/// What a refusal says, without who says it and where it was said: the first line that tells an error.
fn said(message: &str, dir: &Path) -> String {
    let line = message.lines().find_map(|line| Some(line.split_once("[emerg] ")?.1)).unwrap_or("no [emerg]");
    // Addresses of files, which both have of their own, and the place, of which the line is compared.
    let line = line.replace(&dir.display().to_string(), "<dir>");
    PLACE.replace_all(&line, "").into_owned()
}

/// The piece stands in a file of its own, so that its lines have the same numbers whatever is around it.
fn test(check: &Check, binary: &Binary, dir: &Path, ip: Ipv4Addr) -> Result<std::process::Output, String> {
    let piece = dir.join("piece.conf");
    // A test binds what is listened on: each side, and each run, has ports of its own.
    let [_, _, high, low] = ip.octets();
    let port = 10_000 + (u16::from(high) - 100) * 100 + u16::from(low) - 100;
    let text =
        check.text.replace("{{dir}}", &dir.display().to_string()).replace("{{port}}", &port.to_string());
    fs::write(&piece, text).map_err(|e| e.to_string())?;
    let include = format!("include {};", piece.display());
    let listen = if check.text.contains("listen") { String::new() } else { format!("listen {ip}:28080; ") };
    let inside = |context: &str, what: &str| format!("{context} {{ {what} }}");
    let events = "events { }";
    let quiet = if binary.is_nginx { "access_log off;" } else { "" };
    let text = match check.context.as_str() {
        "main" => format!("{events}\n{include}"),
        "whole" => include,
        "events" => format!("{}\nhttp {{ }}", inside("events", &include)),
        "http" => format!("{events}\n{}", inside("http", &format!("{quiet} {include}"))),
        "upstream" => format!("{events}\nhttp {{ {quiet} {} }}", inside("upstream u", &include)),
        "server" => {
            format!("{events}\nhttp {{ {quiet} {} }}", inside("server", &format!("{listen}{include}")))
        }
        "location" => {
            format!(
                "{events}\nhttp {{ {quiet} {} }}",
                inside("server", &format!("{listen}{}", inside("location /", &include)))
            )
        }
        "if" => {
            let location = inside("location /", &inside("if ($arg_a)", &include));
            format!("{events}\nhttp {{ {quiet} {} }}", inside("server", &format!("{listen}{location}")))
        }
        other => return Err(format!("no such context: {other}")),
    };
    let conf = dir.join("nginx.conf");
    fs::write(&conf, format!("pid {}/pid;\n{text}\n", dir.display())).map_err(|e| e.to_string())?;
    Command::new(&binary.path)
        .args(["-t", "-p"])
        .arg(dir)
        .arg("-e")
        .arg(dir.join("error.log"))
        .arg("-c")
        .arg(&conf)
        .output()
        .map_err(|e| e.to_string())
}
