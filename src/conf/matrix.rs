//! `docs/nginx-support.md`, made from the tables: what works, what has no effect, what is not there.

use super::support;
use super::table::{self, Command, Context, Stock, Support};
use crate::modules;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Every declaration of a module, by name.
type ByModule = BTreeMap<&'static str, BTreeMap<&'static str, Stock>>;

/// The whole page.
pub fn markdown() -> String {
    let mut by_module = ByModule::new();
    for (name, declared) in table::stock() {
        for stock in declared {
            by_module.entry(stock.module).or_default().insert(name, *stock);
        }
    }
    let (absent, present): (ByModule, ByModule) =
        by_module.into_iter().partition(|(_, names)| names.iter().all(|(n, d)| !support::is_supported(n, d)));
    let mut out = String::from(HEAD);
    own_directives(&mut out);
    for (module, names) in &present {
        let _ = write!(out, "\n## {module}\n\n| directive | where | |\n|---|---|---|\n");
        for (name, declared) in names {
            let _ = writeln!(out, "| `{name}` | {} | {} |", places(declared.contexts), told(name, declared));
        }
    }
    absent_modules(&mut out, &absent);
    variables(&mut out);
    out
}

const HEAD: &str = "\
# Support of nginx's directives and variables

Made from the program's tables by `make docs`; a test fails when this page is older than they are. What is not
supported is an error with file, line and a hint when a configuration asks for it; what has no effect is accepted,
and `edgewater -t` reports it.
";

/// What becomes of a directive, in a table's cell.
fn told(name: &str, declared: &Stock) -> String {
    let text = match table::commands().get(name) {
        Some(Command { support: Support::Works(_), .. }) => "works".into(),
        Some(Command { support: Support::NoEffect(why) | Support::NoEffectOf(_, why), .. }) => {
            format!("no effect: {why}")
        }
        None => {
            let missing = support::missing_for(name, declared);
            format!("**not supported**: {} ({})", missing.why, missing.hint)
        }
    };
    text.replace('|', "\\|")
}

fn own_directives(out: &mut String) {
    out.push_str("\n## Edgewater's own\n\n| directive | where | |\n|---|---|---|\n");
    let own: BTreeMap<_, _> = modules::TABLES.iter().flat_map(|t| t.iter()).map(|c| (c.name, c)).collect();
    for command in own.values() {
        if let Some((contexts, _)) = command.own {
            let doc = command.doc.replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {} | {doc} |", command.name, places(contexts));
        }
    }
}

/// The modules of which nothing is there, those with the same reason together.
fn absent_modules(out: &mut String, absent: &ByModule) {
    out.push_str("\n## Modules that are not supported\n");
    let mut groups: Vec<(support::Missing, Vec<(&str, String)>)> = Vec::new();
    for (module, names) in absent {
        let list = names.keys().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" ");
        let reasons: Vec<_> = names.iter().map(|(n, d)| support::missing_for(n, d)).collect();
        let Some(missing) = reasons.first() else { continue };
        match groups.iter_mut().find(|(m, _)| m == missing) {
            Some((_, modules)) => modules.push((module, list)),
            None => groups.push((*missing, vec![(module, list)])),
        }
    }
    for (missing, modules) in groups {
        let _ = write!(out, "\n**{}** ({}):\n\n", capitalised(missing.why), missing.hint);
        for (module, list) in modules {
            let _ = writeln!(out, "- {module}: {list}");
        }
    }
}

fn variables(out: &mut String) {
    out.push_str("\n## Variables\n\n| variable | module | |\n|---|---|---|\n");
    let stock: BTreeMap<&str, &str> =
        include_str!("stock_variables.tsv").lines().filter_map(|line| line.split_once('\t')).collect();
    let ours = || modules::VARIABLES.iter().flat_map(|table| table.iter());
    for (name, module) in &stock {
        let told = if ours().any(|v| v.name == *name) { "works" } else { "**not supported**" };
        let _ = writeln!(out, "| `${}` | {module} | {told} |", shown(name));
    }
    let own: BTreeMap<_, _> = ours().filter(|v| !stock.contains_key(v.name)).map(|v| (v.name, v)).collect();
    for name in own.keys() {
        let _ = writeln!(out, "| `${}` | Edgewater's own | works |", shown(name));
    }
}

/// A prefix is followed by any name.
fn shown(variable: &str) -> String {
    if variable.ends_with('_') { format!("{variable}NAME") } else { variable.into() }
}

fn places(contexts: Context) -> String {
    const NAMES: [(Context, &str); 10] = [
        (Context::MAIN, "main"),
        (Context::EVENTS, "events"),
        (Context::HTTP, "http"),
        (Context::SERVER, "server"),
        (Context::LOCATION, "location"),
        (Context::SERVER_IF, "if in server"),
        (Context::LOCATION_IF, "if in location"),
        (Context::LIMIT_EXCEPT, "limit_except"),
        (Context::UPSTREAM, "upstream"),
        (Context::ELSEWHERE, "stream, mail"),
    ];
    if contexts == Context::ANY {
        return "anywhere".into();
    }
    let names: Vec<_> = NAMES.iter().filter(|(c, _)| contexts.meets(*c)).map(|(_, name)| *name).collect();
    names.join(", ")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make docs` runs this with UPDATE=1, which writes the page instead of comparing it.
    #[test]
    fn the_page_says_what_the_tables_say() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nginx-support.md");
        let now = markdown();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        let first = now.lines().zip(page.lines().chain(std::iter::repeat(""))).find(|(n, p)| n != p);
        assert!(
            now == page,
            "docs/nginx-support.md is older than the tables (first: {first:?}). Write it anew: make docs"
        );
    }

    #[test]
    fn every_stock_declaration_has_its_place() {
        let page = markdown();
        for name in table::stock().keys() {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        assert!(page.contains("| `proxy_pass` | location, if in location, limit_except | works |"), "{page}");
        assert!(page.contains("| `prometheus` |"));
        assert!(page.contains("| `$arg_NAME` | ngx_http_core_module | works |"));
    }
}
