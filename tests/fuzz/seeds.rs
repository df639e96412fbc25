//! Where fuzzing begins: the configurations of this repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Inputs that once broke the loader.
pub fn found() -> Vec<Vec<u8>> {
    texts("tests/fuzz/found", "conf").into_iter().map(String::into_bytes).collect()
}

/// Every configuration there is, made to fit the directory `work`.
pub fn all(work: &Path) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for folder in ["conf", "conf/conf.d", "conf/examples", "deploy", "tests/data/acceptance"] {
        seeds.extend(texts(folder, "conf"));
    }
    for golden in texts("tests/golden", "txt") {
        seeds.push(golden.split("\n----").next().unwrap_or_default().into());
    }
    for case in texts("tests/parity/cases", "case") {
        of_case(&case, &mut seeds);
    }
    assert!(seeds.len() > 200, "the configurations are not where they belong");
    seeds.iter().map(|seed| fitted(seed, work).into_bytes()).collect()
}

/// The files of a folder by extension, in the order of their names.
fn texts(folder: &str, extension: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    paths.iter().map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect()
}

/// The configurations of a parity case: the server's own, and each piece that is checked.
fn of_case(case: &str, seeds: &mut Vec<String>) {
    let (mut main, mut http, mut server) = (String::new(), String::new(), String::new());
    for section in case.split("\n--- ").skip(1) {
        let (heading, text) = section.split_once('\n').unwrap_or((section, ""));
        match heading.trim() {
            "main" => main.push_str(text),
            "http" => http.push_str(text),
            "server" => server.push_str(text),
            "conf" => seeds.push(text.into()),
            _ => {
                if let Some(context) = heading.strip_prefix("check ") {
                    let pieces = text.lines().filter_map(|l| l.strip_prefix("ok ").or(l.strip_prefix("no ")));
                    seeds.extend(pieces.map(|piece| within(context.trim(), &piece.replace('⏎', "\n"))));
                }
            }
        }
    }
    if !(main.is_empty() && http.is_empty() && server.is_empty()) {
        seeds.push(format!(
            "{main}\nevents {{ }}\nhttp {{\n{http}\nserver {{\nlisten 127.0.0.1:28080;\n{server}\n}}\n}}\n"
        ));
    }
}

fn within(context: &str, piece: &str) -> String {
    let server = |inside: &str| format!("events {{ }}\nhttp {{ server {{\n{inside}\n}} }}\n");
    match context {
        "whole" => piece.into(),
        "main" => format!("events {{ }}\n{piece}\n"),
        "events" => format!("events {{\n{piece}\n}}\nhttp {{ }}\n"),
        "http" => format!("events {{ }}\nhttp {{\n{piece}\n}}\n"),
        "upstream" => format!("events {{ }}\nhttp {{ upstream u {{\n{piece}\n}} }}\n"),
        "location" => server(&format!("location / {{\n{piece}\n}}")),
        "if" => server(&format!("location / {{ if ($arg_a) {{\n{piece}\n}} }}")),
        _ => server(piece),
    }
}

/// Placeholders and paths of other machines, replaced by what there is here.
fn fitted(seed: &str, work: &Path) -> String {
    let mut text = seed.replace("/etc/nginx/", "");
    for name in ["{{root}}", "{{dir}}"] {
        text = text.replace(name, &work.display().to_string());
    }
    text = text.replace("{{cert}}", "dev.pem").replace("{{key}}", "dev.key");
    text = text.replace("{{port}}", "28081").replace("{{ip}}", "127.0.0.1");
    // What is left is an address or a path; either will do.
    while let Some((before, (_, after))) =
        text.split_once("{{").and_then(|(before, rest)| Some((before, rest.split_once("}}")?)))
    {
        text = format!("{before}127.0.0.1:1{after}");
    }
    text
}
