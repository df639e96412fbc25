//! `zone=name:size`, and the zones of a configuration by name, declared before or after their use.

use crate::conf::values::{number, parameter};
use crate::conf::{ConfError, ConfResult};
use crate::http::template::Template;
use std::sync::Arc;

/// nginx's page: a zone has at least eight.
pub const PAGE: u64 = 4096;

/// A zone as configured; without a key as long as it is only used.
#[derive(Clone, Default)]
pub struct Declared {
    /// Its name.
    pub name: Arc<str>,
    /// Bytes, as configured; 0 when nothing declares it.
    pub size: u64,
    /// What is counted.
    pub key: Template,
    /// Thousandths of a request a second, for `limit_req`.
    pub rate: u64,
}

/// All zones of a module; their positions are what limits refer to.
#[derive(Clone, Default)]
pub struct Zones(Vec<Declared>);

impl std::ops::Deref for Zones {
    type Target = [Declared];
    fn deref(&self) -> &[Declared] {
        &self.0
    }
}

impl Zones {
    /// The position of a zone that is used, perhaps before it is declared.
    pub fn position(&mut self, name: &str) -> usize {
        if let Some(known) = self.0.iter().position(|zone| &*zone.name == name) {
            return known;
        }
        self.0.push(Declared { name: name.into(), ..Declared::default() });
        self.0.len() - 1
    }

    /// Declares a zone.
    pub fn declare(&mut self, zone: Declared) -> ConfResult<()> {
        let position = self.position(&zone.name);
        let known = &mut self.0[position];
        if known.size != 0 {
            if known.size != zone.size {
                return Err(ConfError::new(format!(
                    "the size {} of shared memory zone \"{}\" conflicts with already declared size {}",
                    zone.size, zone.name, known.size
                )));
            }
            let (name, key) = (&zone.name, &known.key.source);
            return Err(ConfError::new(format!("{{}} \"{name}\" is already bound to key \"{key}\"")));
        }
        *known = zone;
        Ok(())
    }

    /// An error when the zone was used and never declared.
    pub fn check(&self, position: usize) -> ConfResult<()> {
        let zone = &self.0[position];
        if zone.size > 0 {
            return Ok(());
        }
        Err(ConfError::new(format!("zero size shared memory zone \"{}\"", zone.name))
            .hint("no directive declares a zone of this name"))
    }
}

/// The error for a name that another kind of zone has.
pub fn other_use(name: &str) -> ConfError {
    ConfError::new(format!("the shared memory zone \"{name}\" is already declared for a different use"))
}

/// The size of a zone, in bytes. No `g` here, as in nginx.
pub fn zone_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit)
}

/// Reads `zone=name:size`; `None` when `arg` is another parameter.
pub fn zone_parameter(arg: &str) -> Option<ConfResult<(&str, u64)>> {
    let value = parameter(arg, "zone")?;
    let Some((name, size)) = value.split_once(':').and_then(|(name, text)| Some((name, zone_size(text)?)))
    else {
        return Some(Err(ConfError::new(format!("invalid zone size \"{arg}\""))
            .hint("a zone has a name and a size, as in zone=name:10m")));
    };
    if size < 8 * PAGE {
        return Some(Err(
            ConfError::new(format!("zone \"{arg}\" is too small")).hint("a zone has at least 32k")
        ));
    }
    Some(Ok((name, size)))
}

/// The error for a directive without `zone=`.
pub fn zone_missing() -> ConfError {
    ConfError::new("\"{}\" must have \"zone\" parameter")
}

/// Bytes of a zone that hold keys in nginx, which keeps them in pages: each page has 24 bytes of
/// accounts, the zone a head of less than a page, and of the rest one page holds the zone's name
/// and one slab of the smallest entries the zone's root.
pub fn room(size: u64, entry: usize) -> usize {
    let pages = (size.saturating_sub(PAGE / 4) / (PAGE + 24)).saturating_sub(1).max(1);
    usize::try_from(pages * PAGE).unwrap_or(usize::MAX) - slab(entry)
}

/// Bytes of an entry of `bytes` in nginx's slabs, whose sizes are powers of two up to half a page
/// and whole pages above.
pub fn slab(bytes: usize) -> usize {
    let page = PAGE as usize;
    if bytes <= page / 2 { bytes.next_power_of_two().max(8) } else { bytes.div_ceil(page) * page }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_as_nginx_reads_them() {
        let read = |arg| zone_parameter(arg).unwrap().map(|(n, s)| (n.to_string(), s)).map_err(|e| e.message);
        assert_eq!(read("zone=a:10m"), Ok(("a".to_string(), 10 << 20)));
        assert_eq!(read("zone=a:32k"), Ok(("a".to_string(), 32 << 10)));
        assert_eq!(read("zone=a"), Err("invalid zone size \"zone=a\"".to_string()));
        assert_eq!(read("zone=a:1g"), Err("invalid zone size \"zone=a:1g\"".to_string()));
        assert_eq!(read("zone=a:31k"), Err("zone \"zone=a:31k\" is too small".to_string()));
        assert!(zone_parameter("rate=1r/s").is_none());
    }

    #[test]
    fn a_megabyte_holds_what_nginx_says() {
        // "about 16 thousand 64-byte states or about 8 thousand 128-byte states"
        assert!((8_000..8_192).contains(&(room(1 << 20, 80) / 128)));
        assert!((16_000..16_384).contains(&(room(1 << 20, 36) / 64)));
        // Counted in nginx 1.22: keys that `limit_req` remembers.
        assert_eq!(room(32 << 10, 80) / 128, 191);
        assert_eq!(room(64 << 10, 80) / 128, 447);
    }

    #[test]
    fn entries_take_slabs() {
        assert_eq!((slab(1), slab(84), slab(129), slab(2048)), (8, 128, 256, 2048));
        assert_eq!((slab(2049), slab(4097)), (4096, 8192));
    }
}
