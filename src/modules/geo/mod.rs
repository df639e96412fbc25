//! nginx's geo module: a variable by the client's address.

mod intervals;
mod networks;
mod ranges;
mod source;

use super::map::{line, variable_name};
use crate::conf::cidr::{self, Cidr};
use crate::conf::{Builder, Command, ConfError, ConfResult, Directive, NoteLevel};
use crate::http::request::Request;
use crate::http::vars::Computed;
use bytes::Bytes;
use intervals::Intervals;
use networks::Networks;
use ranges::Ranges;
use source::Source;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The directives.
pub const COMMANDS: &[Command] = &[Command::works("geo", geo, "a variable by the client's address")];

/// A value: a position in the block's list, in which the first is empty.
type Value = u32;

/// Where an address that is none is looked up, as in nginx.
const NO_ADDRESS: u32 = u32::MAX;

/// A `geo` block, ready to be asked.
struct Geo {
    source: Source,
    values: Vec<Bytes>,
    v4: Intervals<u32>,
    /// Not asked with `ranges`, which know IPv4 only.
    v6: Option<Intervals<u128>>,
    volatile: bool,
}

impl Computed for Geo {
    fn compute(&self, rq: &Request, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(self.find(self.source.address(rq)));
        true
    }

    fn volatile(&self) -> bool {
        self.volatile
    }
}

impl Geo {
    fn find(&self, address: Option<IpAddr>) -> &[u8] {
        let value = match (address.map(cidr::unmapped), &self.v6) {
            (Some(IpAddr::V4(v4)), _) => self.v4.find(v4.into()),
            (Some(IpAddr::V6(v6)), Some(networks)) => networks.find(v6.into()),
            _ => self.v4.find(NO_ADDRESS),
        };
        &self.values[value as usize]
    }
}

/// A `geo` block while it is read.
struct Block {
    source: Source,
    values: Vec<Bytes>,
    /// The positions of values, so that equal ones share one.
    known: HashMap<Bytes, Value>,
    volatile: bool,
    entries: Entries,
}

enum Entries {
    /// Nothing yet that says which it will be.
    Undecided,
    Networks(Networks),
    Ranges(Ranges),
}

fn geo(b: &mut Builder, d: &Directive) -> ConfResult<()> {
    let (variable, name) = match d.args.as_slice() {
        [source, name] => {
            let source = variable_name(source)?.to_string();
            (Some(b.variable(&source)), variable_name(name)?)
        }
        _ => (None, variable_name(d.arg(0))?),
    };
    let mut block = Block::new(Source::new(variable));
    for item in d.block.as_deref().unwrap_or_default() {
        let line = line(item)?;
        b.here = line.at.clone();
        let warnings = block.read(line).map_err(|e| e.at(&line.at).text(|| line.summary()))?;
        for warning in warnings {
            b.note(NoteLevel::Warn, warning);
        }
    }
    b.here = d.at.clone();
    b.vars.computed(name, Arc::new(block.finish()))?;
    Ok(())
}

impl Block {
    fn new(source: Source) -> Block {
        let values = vec![Bytes::new()];
        Block { source, values, known: HashMap::new(), volatile: false, entries: Entries::Undecided }
    }

    /// Reads a line; returns what nginx would warn of.
    fn read(&mut self, line: &Directive) -> ConfResult<Vec<String>> {
        let mut warnings = Vec::new();
        match (line.name.as_str(), line.args.as_slice()) {
            ("ranges", []) => match self.entries {
                Entries::Networks(_) => {
                    return Err(ConfError::new(
                        "the \"ranges\" directive must be the first directive inside \"geo\" block",
                    ));
                }
                Entries::Undecided => self.entries = Entries::Ranges(Ranges::default()),
                Entries::Ranges(_) => {}
            },
            ("proxy_recursive", []) => self.source.recursive = true,
            ("volatile", []) => self.volatile = true,
            ("proxy", [network]) => {
                let network = read_network(network, &mut warnings)?;
                self.source.proxies.push(network);
            }
            (first, [second]) => self.entry(first, second, &mut warnings)?,
            _ => return Err(ConfError::new("invalid number of the geo parameters")),
        }
        Ok(warnings)
    }

    fn entry(&mut self, first: &str, second: &str, warnings: &mut Vec<String>) -> ConfResult<()> {
        if let Entries::Undecided = self.entries {
            self.entries = Entries::Networks(Networks::default());
        }
        let value = if first == "delete" { 0 } else { self.value(second) };
        let Block { entries, values, .. } = self;
        let mut duplicate = |what: &str, old: Value| {
            let (new, old) = (text(values, value), text(values, old));
            warnings.push(format!("duplicate network \"{what}\", value: \"{new}\", old value: \"{old}\""));
        };
        match entries {
            Entries::Networks(networks) => match first {
                "default" => {
                    for everything in [Cidr::V4(0, 0), Cidr::V6(0, 0)] {
                        if let Some(old) = networks.insert(everything, value) {
                            duplicate("default", old);
                        }
                    }
                }
                "delete" => {
                    let network = read_network(second, warnings)?;
                    if !networks.remove(network) {
                        warnings.push(format!("no network \"{second}\" to delete"));
                    }
                }
                _ => {
                    let mut low_bits = Vec::new();
                    let network = read_network(first, &mut low_bits)?;
                    if let Some(old) = networks.insert(network, value) {
                        duplicate(first, old);
                    }
                    warnings.extend(low_bits);
                }
            },
            Entries::Ranges(ranges) => match first {
                "default" => {
                    if let Some(old) = ranges.default.replace(value) {
                        let (new, old) = (text(values, value), text(values, old));
                        warnings.push(format!(
                            "duplicate default geo range value: \"{new}\", old value: \"{old}\""
                        ));
                    }
                }
                "delete" => {
                    if !ranges.remove(ranges::read(second)?) {
                        warnings.push(format!("no address range \"{second}\" to delete"));
                    }
                }
                _ => {
                    for old in ranges.insert(ranges::read(first)?, value, first)? {
                        let (new, old) = (text(values, value), text(values, old));
                        warnings.push(format!(
                            "duplicate range \"{first}\", value: \"{new}\", old value: \"{old}\""
                        ));
                    }
                }
            },
            Entries::Undecided => {}
        }
        Ok(())
    }

    /// The position of a value; equal values share one.
    fn value(&mut self, text: &str) -> Value {
        let text = Bytes::copy_from_slice(text.as_bytes());
        let values = &mut self.values;
        *self.known.entry(text).or_insert_with_key(|text| {
            values.push(text.clone());
            (values.len() - 1) as Value
        })
    }

    fn finish(self) -> Geo {
        let Block { source, values, volatile, entries, .. } = self;
        let (v4, v6) = match entries {
            Entries::Networks(networks) => {
                let (v4, v6) = networks.finish();
                (v4, Some(v6))
            }
            Entries::Ranges(ranges) => (ranges.finish(), None),
            Entries::Undecided => (Intervals::default(), None),
        };
        Geo { source, values, v4, v6, volatile }
    }
}

fn text(values: &[Bytes], value: Value) -> String {
    String::from_utf8_lossy(&values[value as usize]).into_owned()
}

fn read_network(text: &str, warnings: &mut Vec<String>) -> ConfResult<Cidr> {
    if text == "255.255.255.255" {
        return Ok(Cidr::V4(NO_ADDRESS, 32));
    }
    let parsed = cidr::parse(text).ok_or_else(|| ConfError::new(format!("invalid network \"{text}\"")))?;
    if parsed.low_bits {
        warnings.push(format!("low address bits of {text} are meaningless"));
    }
    Ok(parsed.cidr)
}

#[cfg(test)]
mod tests;
