//! Every directive by name, context and arity: stock nginx's and our own.

use super::build::Builder;
use super::diag::ConfResult;
use super::parser::Directive;
use std::collections::HashMap;
use std::sync::OnceLock;

/// A set of contexts in which a directive may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Context(pub u32);

impl Context {
    /// The top level.
    pub const MAIN: Context = Context(1);
    /// `events { }`
    pub const EVENTS: Context = Context(1 << 1);
    /// `http { }`
    pub const HTTP: Context = Context(1 << 2);
    /// `server { }` in `http`
    pub const SERVER: Context = Context(1 << 3);
    /// `location { }`
    pub const LOCATION: Context = Context(1 << 4);
    /// `if ( ) { }` in `server`
    pub const SERVER_IF: Context = Context(1 << 5);
    /// `if ( ) { }` in `location`
    pub const LOCATION_IF: Context = Context(1 << 6);
    /// `limit_except { }`
    pub const LIMIT_EXCEPT: Context = Context(1 << 7);
    /// `upstream { }` in `http`
    pub const UPSTREAM: Context = Context(1 << 8);
    /// Anywhere in `stream { }` or `mail { }`, which are not supported yet.
    pub const ELSEWHERE: Context = Context(1 << 9);
    /// Everywhere.
    pub const ANY: Context = Context(u32::MAX);

    /// Both sets.
    pub const fn or(self, other: Context) -> Context {
        Context(self.0 | other.0)
    }

    /// Whether the sets share a context.
    pub const fn meets(self, other: Context) -> bool {
        self.0 & other.0 != 0
    }
}

/// `http`, `server` and `location`.
pub const HTTP_SERVER_LOCATION: Context = Context::HTTP.or(Context::SERVER).or(Context::LOCATION);

/// How many arguments a directive takes, and whether it opens a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    /// Bit n: n arguments are right.
    counts: u16,
    /// At least this many are right, when not 0.
    at_least: u8,
    /// Whether a block follows.
    pub block: bool,
    /// Whether the one argument is `on` or `off`.
    pub flag: bool,
}

impl Arity {
    /// No argument.
    pub const NONE: Arity = Arity { counts: 1, at_least: 0, block: false, flag: false };
    /// One argument.
    pub const ONE: Arity = Arity { counts: 1 << 1, at_least: 0, block: false, flag: false };
    /// Two arguments.
    pub const TWO: Arity = Arity { counts: 1 << 2, at_least: 0, block: false, flag: false };
    /// One argument or more.
    pub const SOME: Arity = Arity { counts: 0, at_least: 1, block: false, flag: false };

    /// No argument or one.
    pub const NONE_OR_ONE: Arity = Arity { counts: 3, at_least: 0, block: false, flag: false };

    /// Whether any number of arguments is right, as of directives that may be repeated.
    pub fn at_least_one(self) -> bool {
        self.at_least > 0
    }

    /// Whether `n` arguments are right.
    pub fn takes(self, n: usize) -> bool {
        (n < 16 && self.counts & (1 << n) != 0) || (self.at_least > 0 && n >= self.at_least as usize)
    }
}

/// A directive as nginx declares it. A name may have several, in different modules.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    /// nginx's module.
    pub module: &'static str,
    /// Where it may stand.
    pub contexts: Context,
    /// What it takes.
    pub arity: Arity,
}

/// What a directive's setter is.
pub type Setter = fn(&mut Builder, &Directive) -> ConfResult<()>;

/// What Edgewater does with a directive.
#[derive(Clone, Copy)]
pub enum Support {
    /// It works; this reads it.
    Works(Setter),
    /// A tuning knob with nothing to tune here, and why. Accepted; `-t` reports it.
    NoEffect(&'static str),
    /// The same, but a value that nginx refuses is refused.
    NoEffectOf(Setter, &'static str),
}

/// A directive in a module's table.
#[derive(Clone, Copy)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// One line for the documentation.
    pub doc: &'static str,
    /// What it does.
    pub support: Support,
    /// Where and with what it may stand, for a directive that stock nginx does not have; for the
    /// others the stock table says it.
    pub own: Option<(Context, Arity)>,
}

impl Command {
    /// A stock directive that works.
    pub const fn works(name: &'static str, setter: Setter, doc: &'static str) -> Command {
        Command { name, doc, support: Support::Works(setter), own: None }
    }

    /// A stock directive with nothing to tune, and why.
    pub const fn no_effect(name: &'static str, why: &'static str) -> Command {
        Command { name, doc: why, support: Support::NoEffect(why), own: None }
    }

    /// A stock directive with nothing to tune, whose value is looked at all the same.
    pub const fn no_effect_of(name: &'static str, check: Setter, why: &'static str) -> Command {
        Command { name, doc: why, support: Support::NoEffectOf(check, why), own: None }
    }

    /// A directive that stock nginx does not have.
    pub const fn own(
        name: &'static str,
        contexts: Context,
        arity: Arity,
        setter: Setter,
        doc: &'static str,
    ) -> Command {
        Command { name, doc, support: Support::Works(setter), own: Some((contexts, arity)) }
    }
}

/// The stock table, by name.
pub fn stock() -> &'static HashMap<&'static str, Vec<Stock>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Stock>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<&'static str, Vec<Stock>> = HashMap::new();
        for line in include_str!("stock.tsv").lines() {
            let mut columns = line.split('\t');
            if let (Some(name), Some(module), Some(flags)) = (columns.next(), columns.next(), columns.next())
            {
                table.entry(name).or_default().push(read_flags(module, flags));
            }
        }
        table
    })
}

/// Every command of every module, by name.
pub fn commands() -> &'static HashMap<&'static str, Command> {
    static TABLE: OnceLock<HashMap<&'static str, Command>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let all = crate::modules::TABLES.iter().flat_map(|table| table.iter());
        all.map(|command| (command.name, *command)).collect()
    })
}

/// The declarations of a name that may stand in `http` or at the top: ours, or stock nginx's.
pub fn declarations(name: &str) -> Vec<Stock> {
    if let Some(Command { own: Some((contexts, arity)), .. }) = commands().get(name) {
        return vec![Stock { module: "edgewater", contexts: *contexts, arity: *arity }];
    }
    stock().get(name).cloned().unwrap_or_default()
}

/// The known name closest to `name`, when one is close enough to be what was meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let known = stock().keys().chain(commands().keys()).copied();
    let (distance, best) = known.map(|k| (strsim::damerau_levenshtein(name, k), k)).min()?;
    (distance <= 1 + name.len() / 5).then_some(best)
}

fn read_flags(module: &'static str, flags: &str) -> Stock {
    let mut contexts = Context::default();
    let mut arity = Arity { counts: 0, at_least: 0, block: false, flag: false };
    for flag in flags.split('|') {
        let context = match flag {
            "NGX_MAIN_CONF" => Context::MAIN,
            "NGX_EVENT_CONF" => Context::EVENTS,
            "NGX_HTTP_MAIN_CONF" => Context::HTTP,
            "NGX_HTTP_SRV_CONF" => Context::SERVER,
            "NGX_HTTP_LOC_CONF" => Context::LOCATION,
            "NGX_HTTP_SIF_CONF" => Context::SERVER_IF,
            "NGX_HTTP_LIF_CONF" => Context::LOCATION_IF,
            "NGX_HTTP_LMT_CONF" => Context::LIMIT_EXCEPT,
            "NGX_HTTP_UPS_CONF" => Context::UPSTREAM,
            "NGX_ANY_CONF" => Context::ANY,
            _ if flag.starts_with("NGX_STREAM_") || flag.starts_with("NGX_MAIL_") => Context::ELSEWHERE,
            _ => Context::default(),
        };
        contexts = contexts.or(context);
        match flag {
            "NGX_CONF_NOARGS" => arity.counts |= 1,
            "NGX_CONF_FLAG" => (arity.counts, arity.flag) = (arity.counts | 1 << 1, true),
            "NGX_CONF_TAKE1" => arity.counts |= 1 << 1,
            "NGX_CONF_TAKE2" => arity.counts |= 1 << 2,
            "NGX_CONF_TAKE3" => arity.counts |= 1 << 3,
            "NGX_CONF_TAKE12" => arity.counts |= 0b110,
            "NGX_CONF_TAKE23" => arity.counts |= 0b1100,
            "NGX_CONF_TAKE123" => arity.counts |= 0b1110,
            "NGX_CONF_TAKE1234" => arity.counts |= 0b1_1110,
            "NGX_CONF_1MORE" => arity.at_least = 1,
            "NGX_CONF_2MORE" => arity.at_least = 2,
            "NGX_CONF_BLOCK" => arity.block = true,
            _ => {}
        }
    }
    Stock { module, contexts, arity }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_table_is_whole() {
        assert_eq!(stock().values().map(Vec::len).sum::<usize>(), 786);
        assert!(stock()["proxy_pass"][0].contexts.meets(Context::LOCATION_IF));
        assert!(stock()["location"][0].arity.block);
        // Every stock declaration says where it stands and how much it takes.
        for (name, declarations) in stock() {
            // Two rows are parameters of SSI's `config` command, which stand in no block.
            for d in declarations.iter().filter(|_| !matches!(*name, "errmsg" | "timefmt")) {
                assert!(d.contexts.0 != 0, "{name} has no context");
                assert!((0..4).any(|n| d.arity.takes(n)), "{name} takes nothing");
            }
        }
    }

    #[test]
    fn every_command_is_declared_once_and_known() {
        let mut seen = std::collections::HashSet::new();
        for command in crate::modules::TABLES.iter().flat_map(|t| t.iter()) {
            assert!(seen.insert(command.name), "{} is declared twice", command.name);
            assert!(!declarations(command.name).is_empty(), "{} is not known", command.name);
            assert_eq!(command.own.is_some(), !stock().contains_key(command.name), "{}", command.name);
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(nearest("proxy_pas"), Some("proxy_pass"));
        assert_eq!(nearest("rtmp_stat_stylesheet_x"), None);
    }
}
