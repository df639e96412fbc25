//! The names of request fields by which answers are told apart, as numbers below 64.

/// The names, lower case, the shortest first; a name's number is its place.
const KNOWN: [&str; 57] = [
    "te",
    "dnt",
    "via",
    "date",
    "from",
    "host",
    "depth",
    "range",
    "accept",
    "cookie",
    "expect",
    "origin",
    "pragma",
    "referer",
    "trailer",
    "upgrade",
    "if-match",
    "if-range",
    "priority",
    "forwarded",
    "save-data",
    "sec-ch-ua",
    "x-api-key",
    "x-real-ip",
    "connection",
    "keep-alive",
    "user-agent",
    "destination",
    "content-type",
    "max-forwards",
    "authorization",
    "cache-control",
    "content-range",
    "if-none-match",
    "accept-charset",
    "content-length",
    "http2-settings",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "accept-datetime",
    "accept-encoding",
    "accept-language",
    "x-forwarded-for",
    "content-encoding",
    "proxy-connection",
    "x-forwarded-host",
    "x-requested-with",
    "if-modified-since",
    "transfer-encoding",
    "x-forwarded-proto",
    "if-unmodified-since",
    "proxy-authorization",
    "x-playback-session-id",
    "upgrade-insecure-requests",
    "access-control-request-method",
    "access-control-request-headers",
];

/// The longest of them.
const LONGEST: usize = 30;

/// Where the names of each length begin.
const STARTS: [u8; LONGEST + 2] = starts();

const fn starts() -> [u8; LONGEST + 2] {
    let mut starts = [0; LONGEST + 2];
    let (mut length, mut at) = (0, 0);
    while length < LONGEST + 2 {
        while at < KNOWN.len() && KNOWN[at].len() < length {
            at += 1;
        }
        starts[length] = at as u8;
        length += 1;
    }
    starts
}

/// The number of a name, however it is written; `None` for one that is not among them.
pub fn number(name: &[u8]) -> Option<u8> {
    if name.len() > LONGEST {
        return None;
    }
    let (start, end) = (STARTS[name.len()], STARTS[name.len() + 1]);
    let ends = ends(name);
    let number = (start..end).find(|n| ENDS[usize::from(*n)] == ends)?;
    // What is between them, where anything is.
    let known = KNOWN[usize::from(number)].as_bytes();
    (name.len() <= 16 || known[8..].eq_ignore_ascii_case(&name[8..])).then_some(number)
}

/// The ends of each name.
const ENDS: [(u64, u64); KNOWN.len()] = {
    let mut all = [(0, 0); KNOWN.len()];
    let mut n = 0;
    while n < KNOWN.len() {
        all[n] = ends(KNOWN[n].as_bytes());
        n += 1;
    }
    all
};

/// The first eight bytes of a name and its last eight, in lower case; of a shorter one all that there are.
const fn ends(name: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        return (lower(u64::from_le_bytes(*first)), lower(u64::from_le_bytes(*last)));
    }
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let both = (u32::from_le_bytes(*first) as u64) << 32 | u32::from_le_bytes(*last) as u64;
        return (lower(both), 0);
    }
    let (mut all, mut at) = (0, 0);
    while at < name.len() {
        all = all << 8 | name[at] as u64;
        at += 1;
    }
    (lower(all), 0)
}

/// Eight bytes in lower case.
const fn lower(word: u64) -> u64 {
    const ALL: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * ALL);
    let from_a = low + (0x80 - b'A' as u64) * ALL;
    let behind_z = low + (0x80 - (b'Z' + 1) as u64) * ALL;
    word | ((from_a & !behind_z & !word & (0x80 * ALL)) >> 2)
}

/// The name with this number; empty where there is none.
pub fn name(number: u8) -> &'static str {
    KNOWN.get(usize::from(number)).copied().unwrap_or_default()
}

/// The number of a name that is known when compiling; another does not compile where this is constant.
#[allow(clippy::panic, reason = "it is evaluated when compiling")]
pub const fn known(name: &str) -> u8 {
    let mut n = 0;
    while n < KNOWN.len() {
        if same(KNOWN[n].as_bytes(), name.as_bytes()) {
            return n as u8;
        }
        n += 1;
    }
    panic!("a name that is not among the known")
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_number_is_that_of_the_same_name_only(at in 0..KNOWN.len(), change in 0usize..40, to in proptest::num::u8::ANY) {
            let mut name = KNOWN[at].as_bytes().to_vec();
            if let Some(byte) = name.get_mut(change) {
                *byte = to;
            }
            let same = KNOWN.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(&name));
            proptest::prop_assert_eq!(number(&name).map(usize::from), same);
        }
    }

    #[test]
    fn every_name_is_found_by_its_number_only() {
        for (at, name) in KNOWN.iter().enumerate() {
            assert_eq!(number(name.as_bytes()), Some(at as u8), "{name}");
            assert_eq!(number(name.to_ascii_uppercase().as_bytes()), Some(at as u8));
            assert!(at < 63 && (at == 0 || KNOWN[at - 1].len() <= name.len()));
        }
        for other in ["", "x", "hosts", "x-forwarded-foo", "a-name-that-is-longer-than-all-the-others"] {
            assert_eq!(number(other.as_bytes()), None, "{other}");
        }
        assert_eq!(known("host"), number(b"Host").unwrap());
    }
}
