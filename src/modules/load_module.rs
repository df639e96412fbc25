//! `load_module`: what is built in is there already; anything else is refused, so that nobody finds out
//! from a request that a module is missing.

use super::process::Conf;
use crate::conf::support;
use crate::conf::table;
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};

/// The directives.
pub const COMMANDS: &[Command] =
    &[Command::works("load_module", load_module, "accepted of modules that are built in")];

/// Modules of others whose directives are here.
const OTHERS: [&str; 4] = [
    "ngx_http_brotli_filter_module",
    "ngx_http_brotli_static_module",
    "ngx_http_zstd_filter_module",
    "ngx_http_zstd_static_module",
];

fn load_module(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    if b.modules_used() {
        return Err(ConfError::new("\"{}\" directive is specified too late")
            .hint("it stands before events { } and http { }"));
    }
    let path = d.arg(0);
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.strip_suffix(".so").unwrap_or(file);
    if !is_built_in(name) {
        return Err(refusal(name));
    }
    let Conf { loaded, .. } = &mut b.main;
    if loaded.iter().any(|n| n == name) {
        return Err(ConfError::new(format!("module \"{name}\" is already loaded")));
    }
    loaded.edit().push(name.to_owned());
    b.note(NoteLevel::Notice, format!("\"load_module\" has no effect: \"{name}\" is built in"));
    Ok(())
}

/// Whether a module has a directive that works here.
fn is_built_in(name: &str) -> bool {
    let mut stock = table::stock().iter().flat_map(|(name, all)| all.iter().map(move |d| (*name, d)));
    OTHERS.contains(&name) || stock.any(|(n, d)| d.module == name && support::is_supported(n, d))
}

fn refusal(name: &str) -> ConfError {
    let take_away = "take the line away if nothing in the configuration needs the module";
    // The directives of other people's modules begin as the modules are called.
    let prefix = name.trim_start_matches("ngx_http_").trim_end_matches("_module");
    match (support::of_module(name), support::foreign(&format!("{prefix}_"))) {
        (Some(missing), _) => ConfError::new(format!("module \"{name}\" is not supported: {}", missing.why))
            .hint(format!("{take_away}; {}", missing.hint)),
        (None, Some(word)) => {
            ConfError::new(format!("module \"{name}\" is not supported")).hint(format!("{word}; {take_away}"))
        }
        (None, None) => ConfError::new(format!("module \"{name}\" is not built in"))
            .hint(format!("modules cannot be loaded here; {take_away}")),
    }
}

#[cfg(test)]
mod tests {
    use crate::conf::{ConfResult, Config, build::load_text};

    fn load(text: &str) -> ConfResult<Config> {
        load_text(tempfile::tempdir().unwrap().path(), &format!("{text}\nevents {{ }}\nhttp {{ }}"))
    }

    #[test]
    fn what_is_built_in_is_accepted_with_a_note() {
        for path in [
            "modules/ngx_http_brotli_filter_module.so",
            "/usr/lib/nginx/modules/ngx_http_brotli_static_module.so",
            "ngx_http_zstd_filter_module.so",
            "x/ngx_http_zstd_static_module.so",
            "modules/ngx_http_sub_filter_module.so",
        ] {
            let config = load(&format!("load_module {path};")).unwrap();
            assert!(config.notes.iter().any(|n| n.message.contains("is built in")), "{path}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_word_on_it() {
        for (name, word) in [
            ("ngx_http_geoip_module", "geo { }"),
            ("ngx_http_image_filter_module", "images"),
            ("ngx_http_xslt_filter_module", "XML"),
            ("ngx_http_perl_module", "no language"),
            ("ngx_http_js_module", "njs"),
            ("ngx_http_lua_module", "Lua"),
            ("ngx_http_whatever_module", "not built in"),
            ("nothing", "not built in"),
        ] {
            let error = load(&format!("\nload_module modules/{name}.so;")).err().expect(name);
            assert!(error.message.contains(name), "{error}");
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.at.unwrap().line, 2, "{name}");
        }
    }

    #[test]
    fn twice_or_too_late() {
        let line = "load_module modules/ngx_http_brotli_filter_module.so;";
        let error = load(&format!("{line}\n{line}")).err().expect("twice");
        assert_eq!(error.message, "module \"ngx_http_brotli_filter_module\" is already loaded");
        let dir = tempfile::tempdir().unwrap();
        for block in ["events { }", "http { }"] {
            let error = load_text(dir.path(), &format!("{block}\n{line}")).err().expect("too late");
            assert_eq!(error.message, "\"load_module\" directive is specified too late");
        }
        assert!(load(&format!("worker_processes 1;\n{line}")).is_ok());
    }
}
