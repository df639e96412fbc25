//! What a file says of its entry beside the body: key, head, times.
//!
//! Instants are good for one process; here times are milliseconds since 1970 by the machine's clock.
//! Numbers are little endian, texts have their length before them, what may be missing has a byte
//! before it that says whether it is there.

use super::clock::Clock;
use crate::cache::entry::{Entry, EntryBody, Meta, Times};
use crate::cache::vary::Vary;
use crate::http::response::Fields;
use bytes::{Buf, Bytes};
use std::time::Duration;

/// The largest description that is written or read: more than a head and a key may be.
pub const MOST: usize = 1 << 20;

/// A description.
#[derive(Debug)]
pub struct Described {
    /// The entry, with no body but the length of it.
    pub entry: Entry,
    /// Which variant of the response it is; `None` is the main one.
    pub variant: Option<u128>,
}

/// The description of an entry, as it is written; `None` when it is too large.
pub fn encode(entry: &Entry, variant: Option<u128>, clock: &Clock) -> Option<Vec<u8>> {
    // Every part of an entry is named, so that one that is added is not forgotten here.
    let Entry { key, status, reason, fields, body: _, length, vary, times, failure: _, meta } = entry;
    let Times { fresh_until, updating_until, error_until } = times;
    let Meta { received, initial_age, sequence, family, origin } = meta;
    let mut out = Out(Vec::with_capacity(key.len() + fields.size() + fields.len() * 8 + 256));
    out.text(key);
    out.option(variant, |out, n| out.0.extend_from_slice(&n.to_le_bytes()));
    out.0.extend_from_slice(&status.to_le_bytes());
    out.text(reason);
    out.number(*length);
    out.number(clock.millis);
    for at in [fresh_until, updating_until, error_until] {
        out.number(clock.millis_of(*at));
    }
    out.number(*received);
    out.number(initial_age.as_millis().try_into().unwrap_or(u64::MAX));
    out.number(*sequence);
    out.number(*family);
    out.text(origin);
    out.option(vary.as_ref(), |out, vary| {
        let (names, variant) = vary.parts();
        out.number(names.len() as u64);
        names.iter().for_each(|name| out.text(name.as_bytes()));
        out.0.extend_from_slice(&variant.to_le_bytes());
    });
    out.number(fields.len() as u64);
    for (name, value) in fields.iter() {
        out.text(name);
        out.text(value);
    }
    (out.0.len() <= MOST).then_some(out.0)
}

/// Reads a description. `None` when it is none; its texts share the memory of `bytes`.
pub fn decode(bytes: Bytes, clock: &Clock) -> Option<Described> {
    let mut from = In(bytes);
    let key = from.text()?;
    let variant = from.option(In::wide)?;
    let status = from.short()?;
    let reason = from.text()?;
    let length = from.number()?;
    let written = from.number()?;
    let mut at = || Some(clock.instant_of(from.number()?, written));
    let times = Times { fresh_until: at()?, updating_until: at()?, error_until: at()? };
    let meta = Meta {
        received: from.number()?,
        initial_age: Duration::from_millis(from.number()?),
        sequence: from.number()?,
        family: from.number()?,
        origin: from.text()?,
    };
    let vary = from.option(|from| {
        let names = from.count(4)?;
        let names = (0..names).map(|_| Some(std::str::from_utf8(&from.text()?).ok()?.into()));
        let names = names.collect::<Option<Box<[Box<str>]>>>()?;
        Some(Vary::from_parts(names, from.wide()?))
    })?;
    let mut fields = Fields::default();
    for _ in 0..from.count(8)? {
        let name = from.text()?;
        fields.add(name, from.text()?);
    }
    let body = EntryBody::default();
    let entry = Entry { key, status, reason, fields, body, length, vary, times, failure: None, meta };
    from.0.is_empty().then_some(Described { entry, variant })
}

struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        // What does not fit into 32 bits is larger than a description may be.
        self.0.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.0.extend_from_slice(text);
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Out, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

struct In(Bytes);

impl In {
    fn text(&mut self) -> Option<Bytes> {
        let length = self.0.try_get_u32_le().ok()? as usize;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn short(&mut self) -> Option<u16> {
        self.0.try_get_u16_le().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }

    fn wide(&mut self) -> Option<u128> {
        self.0.try_get_u128_le().ok()
    }

    /// How many follow, of at least `size` bytes each.
    fn count(&mut self, size: usize) -> Option<u64> {
        let count = self.number()?;
        (count <= (self.0.len() / size) as u64).then_some(count)
    }

    /// `None` is an error, `Some(None)` nothing.
    fn option<T>(&mut self, read: impl FnOnce(&mut In) -> Option<T>) -> Option<Option<T>> {
        match self.0.try_get_u8().ok()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness::Lifetime;
    use proptest::prelude::*;

    fn entry(key: &str, list: &[(String, String)], vary: Option<Vary>, clock: &Clock) -> Entry {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.add(name.clone(), value.clone());
        }
        let second = Duration::from_secs(1);
        Entry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            status: 203,
            reason: Bytes::from_static(b"Fine"),
            fields,
            body: EntryBody::default(),
            length: 77,
            vary,
            times: Times::new(clock.instant, Lifetime { fresh: 5 * second, updating: second, error: second }),
            failure: None,
            meta: Meta {
                received: 1,
                initial_age: second,
                sequence: 3,
                family: 2,
                origin: Bytes::from_static(b"h/p"),
            },
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            key in ".{0,20}",
            list in prop::collection::vec(("[A-Za-z-]{1,10}", ".{0,20}"), 0..6),
            variant: Option<u128>,
            vary in prop::option::of((prop::collection::vec("[a-z-]{1,9}", 1..4), any::<u128>())),
        ) {
            let clock = Clock::now();
            let vary = vary.map(|(names, n)| Vary::from_parts(names.into_iter().map(Into::into).collect(), n));
            let one = entry(&key, &list, vary, &clock);
            let bytes = encode(&one, variant, &clock).unwrap();
            let Described { entry: other, variant: read } = decode(bytes.into(), &clock).unwrap();
            prop_assert_eq!(read, variant);
            prop_assert_eq!((&other.key, other.status, &other.reason), (&one.key, one.status, &one.reason));
            prop_assert_eq!((other.length, &other.vary, &other.meta), (one.length, &one.vary, &one.meta));
            let list = |f: &Fields| f.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
            prop_assert_eq!(list(&other.fields), list(&one.fields));
            let times = |t: &Times| [t.fresh_until, t.updating_until, t.error_until];
            prop_assert_eq!(times(&other.times), times(&one.times));
        }

        #[test]
        fn any_bytes_are_a_description_or_not(bytes: Vec<u8>) {
            let _ = decode(bytes.into(), &Clock::now());
        }

        #[test]
        fn a_changed_description_does_no_harm(at in 0usize..200, byte: u8) {
            let clock = Clock::now();
            let list = [("Content-Type".to_string(), "text/plain".to_string())];
            let vary = Vary::from_parts(Box::new(["accept".into()]), 5);
            let mut bytes = encode(&entry("/a", &list, Some(vary), &clock), Some(1), &clock).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = decode(bytes.into(), &clock);
        }
    }

    #[test]
    fn too_large_a_head_is_not_written() {
        let clock = Clock::now();
        let list = [("X".to_string(), "x".repeat(MOST))];
        assert!(encode(&entry("/a", &list, None, &clock), None, &clock).is_none());
    }
}
