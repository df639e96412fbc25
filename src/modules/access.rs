//! nginx's access module: `allow` and `deny` by the client's address; the first rule that fits wins.

use crate::conf::cidr::{self, Cidr};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::phases::{Call, Flow, Handler, Passage, Phase};
use crate::http::request::{Address, Request};
use crate::settings;

settings! {
    /// A level's rules. A level that has any has none of the outer level's.
    pub struct Conf {
        /// In order.
        inherit rules: Vec<Rule> = Vec::new(),
    }
}

/// `allow` or `deny`
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Whom it is about; `None` is `all`.
    of: Option<Cidr>,
    /// Whether they are let in.
    allows: bool,
}

/// The directives.
pub const COMMANDS: &[Command] = &[
    Command::works("allow", |b, d| rule(b, d, true), "lets an address or a network in"),
    Command::works("deny", |b, d| rule(b, d, false), "keeps an address or a network out"),
];

/// Runs in its phase.
pub const HANDLER: Handler = Handler {
    phase: Phase::Access,
    wants: |loc| !loc.access.rules.is_empty(),
    call: Call::Now(handle),
    pure: false,
    gate: Some(gate),
};

fn rule(b: &mut Builder, d: &Directive, allows: bool) -> ConfResult<()> {
    let text = d.arg(0);
    let of = match text {
        "all" => None,
        "unix:" => Some(Cidr::Unix),
        _ => {
            let parsed = cidr::parse(text).ok_or_else(|| {
                ConfError::new(format!("invalid parameter \"{text}\""))
                    .hint("an address, a network as in 10.0.0.0/8, \"unix:\" or \"all\"")
            })?;
            if parsed.low_bits {
                b.note(NoteLevel::Warn, format!("low address bits of {text} are meaningless"));
            }
            Some(parsed.cidr)
        }
    };
    b.loc().access.rules.edit().push(Rule { of, allows });
    Ok(())
}

/// What the first rule that fits says; `None` when none does.
fn verdict(rules: &[Rule], peer: &Address) -> Option<bool> {
    let fits = |rule: &&Rule| match (rule.of, peer) {
        (None, _) => true,
        (Some(Cidr::Unix), Address::Unix(_)) => true,
        (Some(cidr), Address::Inet(address)) => cidr.contains(address.ip()),
        (Some(_), Address::Unix(_)) => false,
    };
    rules.iter().find(fits).map(|rule| rule.allows)
}

fn gate(rq: &mut Request) -> Passage {
    match handle(rq) {
        Flow::Continue | Flow::Allow => Passage::Free,
        refusal => Passage::Not(Box::new(refusal)),
    }
}

fn handle(rq: &mut Request) -> Flow {
    match verdict(&rq.loc().access.rules, rq.peer()) {
        None => Flow::Continue,
        Some(true) => Flow::Allow,
        Some(false) => {
            // With `satisfy any` another may still let the client in, and it would be no error.
            if !*rq.loc().core.satisfy_any {
                crate::observe::request_error(rq, format_args!("access forbidden by rule"));
            }
            Flow::status(403)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(directives: &str) -> ConfResult<crate::conf::Config> {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("events {{}} http {{ server {{ {directives} }} }}");
        crate::conf::build::load_text(dir.path(), &text)
    }

    fn rules(directives: &str) -> Vec<Rule> {
        let http = config(directives).unwrap().http.unwrap();
        http.levels.last().unwrap().conf.access.rules.to_vec()
    }

    fn ask(rules: &[Rule], peer: &str) -> Option<bool> {
        let peer = match peer.parse() {
            Ok(ip) => Address::Inet(std::net::SocketAddr::new(ip, 1)),
            Err(_) => Address::Unix(peer.into()),
        };
        verdict(rules, &peer)
    }

    #[test]
    fn the_first_rule_that_fits_wins() {
        let rules = rules("deny 10.1.1.1; allow 10.1.1.0/24; allow 2001:db8::/32; allow unix:; deny all;");
        assert_eq!(ask(&rules, "10.1.1.1"), Some(false));
        assert_eq!(ask(&rules, "10.1.1.2"), Some(true));
        assert_eq!(ask(&rules, "::ffff:10.1.1.2"), Some(true));
        assert_eq!(ask(&rules, "10.1.2.2"), Some(false));
        assert_eq!(ask(&rules, "2001:db8:1::1"), Some(true));
        assert_eq!(ask(&rules, "2001:db9::1"), Some(false));
        assert_eq!(ask(&rules, "/run/x.sock"), Some(true));
    }

    #[test]
    fn no_rule_that_fits_is_no_opinion() {
        let rules = rules("deny 10.0.0.0/8;");
        assert_eq!(ask(&rules, "11.0.0.1"), None);
        assert_eq!(ask(&rules, "::1"), None);
        assert_eq!(ask(&rules, "/run/x.sock"), None);
    }

    #[test]
    fn a_level_with_rules_has_none_of_the_outer_levels() {
        let inner = rules("deny all; location /x { allow 127.0.0.1; }");
        assert_eq!(inner.len(), 1);
        let inherited = rules("deny all; location /x { }");
        assert_eq!(ask(&inherited, "127.0.0.1"), Some(false));
    }

    #[test]
    fn mistakes_in_nginxs_words() {
        let error = config("allow 10.0.0;").err().unwrap();
        assert_eq!(error.message, "invalid parameter \"10.0.0\"");
        let notes = config("allow 10.0.0.1/8;").unwrap().notes;
        assert_eq!(notes[0].message, "low address bits of 10.0.0.1/8 are meaningless");
        assert_eq!(notes[0].level, NoteLevel::Warn);
    }
}
