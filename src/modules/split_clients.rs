//! nginx's split_clients module: a variable by share, the same for the same key.

use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, Item};
use crate::http::request::Request;
use crate::http::template::Template;
use crate::http::vars::Computed;
use std::sync::Arc;

/// The directives.
pub const COMMANDS: &[Command] =
    &[Command::works("split_clients", split_clients, "a variable by share of the keys")];

struct Split {
    key: Template,
    parts: Parts,
}

/// In order: the first hash that is no longer the part's, and the value. `None` is all the rest.
#[derive(Default)]
struct Parts(Vec<(Option<u32>, String)>);

impl Parts {
    fn find(&self, key: &[u8]) -> Option<&str> {
        let hash = murmur2::murmur2(key, 0);
        self.0.iter().find(|(end, _)| end.is_none_or(|end| hash < end)).map(|(_, value)| value.as_str())
    }
}

impl Computed for Split {
    fn compute(&self, rq: &Request, out: &mut Vec<u8>) -> bool {
        let value = match self.key.constant() {
            Some(key) => self.parts.find(&key),
            None => {
                let mut key = Vec::with_capacity(64);
                self.key.eval_into(rq, &mut key);
                self.parts.find(&key)
            }
        };
        out.extend_from_slice(value.unwrap_or_default().as_bytes());
        true
    }
}

fn split_clients(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let key = b.template(d.arg(0))?;
    let name = super::map::variable_name(d.arg(1))?.to_string();
    let parts = parts(d.block.as_deref().unwrap_or_default())?;
    b.vars.computed(&name, Arc::new(Split { key, parts }))?;
    Ok(())
}

fn parts(items: &[Item]) -> ConfResult<Parts> {
    let mut parts = Parts::default();
    // In hundredths of a percent, and in parts of the hash's range.
    let (mut sum, mut end) = (0u64, 0u64);
    for item in items {
        let line = super::map::line(item)?;
        let place = |e: ConfError| e.at(&line.at).text(|| line.summary());
        if line.args.len() != 1 {
            return Err(place(ConfError::new("invalid number of the split_clients parameters")));
        }
        let share = percent(&line.name)
            .ok_or_else(|| place(ConfError::new(format!("invalid percent value \"{}\"", line.name))))?;
        sum = share.map_or(10_000, |share| sum + share);
        if sum > 10_000 {
            return Err(ConfError::new("percent total is greater than 100%"));
        }
        // Rounded down for each part, as nginx does.
        end += share.unwrap_or(0) * u64::from(u32::MAX) / 10_000;
        parts.0.push((share.map(|_| end as u32), line.args[0].clone()));
    }
    Ok(parts)
}

/// `0.5%` in hundredths of a percent, `*` as no number.
fn percent(text: &str) -> Option<Option<u64>> {
    if text == "*" {
        return Some(None);
    }
    let (whole, fraction) = {
        let digits = text.strip_suffix('%')?;
        digits.split_once('.').unwrap_or((digits, ""))
    };
    if fraction.len() > 2 || whole.len() > 9 {
        return None;
    }
    let hundredths = format!("{whole}{fraction:0<2}");
    crate::conf::values::number(&hundredths).filter(|n| *n > 0).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &str) -> ConfResult<Parts> {
        let items = crate::conf::parser::parse_globals(&format!("x {{ {block} }}"));
        match &items[0] {
            Item::Directive(d) => parts(d.block.as_deref().unwrap()),
            Item::Error(e) => Err(e.clone()),
        }
    }

    #[test]
    fn percents_as_nginx_reads_them() {
        assert_eq!(percent("0.5%"), Some(Some(50)));
        assert_eq!(percent(".5%"), Some(Some(50)));
        assert_eq!(percent("100%"), Some(Some(10_000)));
        assert_eq!(percent("2.25%"), Some(Some(225)));
        assert_eq!(percent("*"), Some(None));
        for bad in ["", "%", "0%", "0.00%", "1", "1.234%", "-1%", "1.2.3%", "*%", "a%"] {
            assert_eq!(percent(bad), None, "{bad}");
        }
    }

    #[test]
    fn mistakes_in_nginxs_words() {
        let message = |block| read(block).err().unwrap().message;
        assert_eq!(message("60% a; 41% b;"), "percent total is greater than 100%");
        assert_eq!(message("* a; 1% b;"), "percent total is greater than 100%");
        assert_eq!(message("60 a;"), "invalid percent value \"60\"");
    }

    /// The first character of `$v` by nginx 1.22 for the keys `k0` … `k39`, with
    /// `0.5% z; 20% a; 33.3% b; * c;`.
    #[test]
    fn the_same_key_has_the_same_part_as_in_nginx() {
        let parts = read("0.5% z; 20% a; 33.3% b; * c;").unwrap();
        let ours: String = (0..40).map(|n| parts.find(format!("k{n}").as_bytes()).unwrap()).collect();
        assert_eq!(ours, "ccabcabcbabaacabccbcbacbbbabbcaabccccabc");
    }

    #[test]
    fn a_share_that_nobody_has_is_empty() {
        let parts = read("0.01% a;").unwrap();
        let found = (0..100).filter(|n| parts.find(format!("k{n}").as_bytes()).is_some()).count();
        assert!(found < 5, "{found}");
    }
}
