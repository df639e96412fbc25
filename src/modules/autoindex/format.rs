//! A listing as a page: HTML, XML, JSON, JSONP, byte for byte as nginx writes them.

use super::listing::{Entry, Kind, Listing};
use crate::http::body::{BodyError, BodyStream};
use crate::http::date::http_date;
use crate::http::html::append_escaped;
use crate::http::uri::{Escape, escape_into};
use bytes::Bytes;
use jiff::tz::TimeZone;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// `autoindex_format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Html,
    /// A list of `directory`, `file`, `other`.
    Xml,
    /// A list of objects.
    Json,
    /// The same, given to a function of the client's choice.
    Jsonp,
}

/// How a page for people looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Sizes in bytes rather than K, M, G.
    pub exact_size: bool,
    /// Local times rather than UTC.
    pub localtime: bool,
}

/// Bytes from which a piece of the page is sent on.
const PIECE: usize = 32 * 1024;

/// Characters of a name that is shown.
const NAME: usize = 50;

/// A page that is written as the client takes it.
pub struct Page {
    format: Format,
    style: Style,
    zone: TimeZone,
    uri: Bytes,
    callback: Bytes,
    /// The charset of the answer, which filters tell before anything is sent.
    charset: Arc<OnceLock<Bytes>>,
    listing: Listing,
    /// The entry that comes next; behind the last one, the end of the page.
    at: usize,
    done: bool,
}

impl Page {
    /// A page about `listing`, the directory of `uri`; `callback` is empty where there is none.
    pub fn new(
        format: Format,
        style: Style,
        uri: Bytes,
        callback: Bytes,
        charset: Arc<OnceLock<Bytes>>,
        listing: Listing,
    ) -> Page {
        let zone = if style.localtime { TimeZone::system() } else { TimeZone::UTC };
        Page { format, style, zone, uri, callback, charset, listing, at: 0, done: false }
    }

    fn next_piece(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PIECE + 4096);
        // Names are counted in characters where the page's reader will see characters.
        let utf8 = self.charset.get().is_some_and(|name| name.eq_ignore_ascii_case(b"utf-8"));
        if self.at == 0 {
            self.begin(&mut out);
        }
        while let Some(entry) = self.listing.entries.get(self.at)
            && out.len() < PIECE
        {
            let last = self.at + 1 == self.listing.entries.len();
            match self.format {
                Format::Html => html(entry, self.style, utf8, &self.zone, &mut out),
                Format::Xml => xml(entry, &mut out),
                Format::Json | Format::Jsonp => json(entry, last, &mut out),
            }
            self.at += 1;
        }
        if self.at >= self.listing.entries.len() {
            self.end(&mut out);
            self.done = true;
        }
        out
    }

    fn begin(&self, out: &mut Vec<u8>) {
        match self.format {
            Format::Html => {
                out.extend_from_slice(b"<html>\r\n<head><title>Index of ");
                append_escaped(&self.uri, out);
                out.extend_from_slice(b"</title></head>\r\n<body>\r\n<h1>Index of ");
                append_escaped(&self.uri, out);
                out.extend_from_slice(b"</h1><hr><pre><a href=\"../\">../</a>\r\n");
            }
            Format::Xml => out.extend_from_slice(b"<?xml version=\"1.0\"?>\r\n<list>\r\n"),
            Format::Json | Format::Jsonp => {
                if !self.callback.is_empty() {
                    out.extend_from_slice(b"/* callback */\r\n");
                    out.extend_from_slice(&self.callback);
                    out.push(b'(');
                }
                out.extend_from_slice(b"[\r\n");
            }
        }
    }

    fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.format {
            Format::Html => b"</pre><hr></body>\r\n</html>\r\n",
            Format::Xml => b"</list>\r\n",
            Format::Json | Format::Jsonp if self.callback.is_empty() => b"]",
            Format::Json | Format::Jsonp => b"]);",
        });
    }
}

impl BodyStream for Page {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready((!self.done).then(|| Ok(self.next_piece().into())))
    }
}

/// A line of a page for people. Writing to memory does not fail.
fn html(entry: &Entry, style: Style, utf8: bool, zone: &TimeZone, out: &mut Vec<u8>) {
    let directory = entry.kind == Kind::Directory;
    out.extend_from_slice(b"<a href=\"");
    escape_into(&entry.name, Escape::Component, out);
    out.extend_from_slice(if directory { b"/\">" } else { b"\">" });
    let text = std::str::from_utf8(&entry.name).ok().filter(|_| utf8);
    let length = text.map_or(entry.name.len(), |text| text.chars().count());
    if length > NAME {
        let shown = NAME - "..>".len();
        let end = match text {
            Some(text) => text.char_indices().nth(shown).map_or(text.len(), |(at, _)| at),
            None => shown,
        };
        append_escaped(&entry.name[..end], out);
        out.extend_from_slice(b"..&gt;</a>");
    } else {
        append_escaped(&entry.name, out);
        let slash = directory && length < NAME;
        out.extend_from_slice(if slash { b"/</a>" } else { b"</a>" });
        out.extend(std::iter::repeat_n(b' ', NAME - length - usize::from(slash)));
    }
    out.push(b' ');
    date(entry.modified, zone, out);
    let _ = match (directory, style.exact_size) {
        (true, true) => write!(out, " {:>19}", '-'),
        (true, false) => write!(out, " {:>7}", '-'),
        (false, true) => write!(out, " {:>19}", entry.size),
        (false, false) => match rounded(entry.size) {
            (size, Some(unit)) => write!(out, " {size:>6}{unit}"),
            (size, None) => write!(out, " {size:>7}"),
        },
    };
    out.extend_from_slice(b"\r\n");
}

/// `20-Nov-2026 14:35`
fn date(modified: i64, zone: &TimeZone, out: &mut Vec<u8>) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // Only a time outside of the calendar is none.
    let at = jiff::Timestamp::from_second(modified).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let at = zone.to_datetime(at);
    let month = MONTHS[at.month() as usize - 1];
    let _ = write!(out, "{:02}-{month}-{} {:02}:{:02}", at.day(), at.year(), at.hour(), at.minute());
}

/// A size in the largest unit in which it is some, rounded to the nearest.
fn rounded(size: u64) -> (u64, Option<char>) {
    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;
    let in_units_of = |unit: u64| size / unit + u64::from(size % unit >= unit / 2);
    match size {
        G.. => (in_units_of(G), Some('G')),
        M.. => (in_units_of(M), Some('M')),
        10_000.. => (in_units_of(K), Some('K')),
        _ => (size, None),
    }
}

fn xml(entry: &Entry, out: &mut Vec<u8>) {
    let kind = kind(entry);
    let at = jiff::Timestamp::from_second(entry.modified).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let _ = write!(out, "<{kind} mtime=\"{}\"", at.strftime("%Y-%m-%dT%H:%M:%SZ"));
    if entry.kind == Kind::File {
        let _ = write!(out, " size=\"{}\"", entry.size);
    }
    out.push(b'>');
    append_escaped(&entry.name, out);
    let _ = write!(out, "</{kind}>\r\n");
}

fn json(entry: &Entry, last: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{ \"name\":\"");
    escape_json(&entry.name, out);
    let modified = http_date(entry.modified.max(0) as u64);
    let _ = write!(out, "\", \"type\":\"{}\", \"mtime\":\"{modified}\"", kind(entry));
    if entry.kind == Kind::File {
        let _ = write!(out, ", \"size\":{}", entry.size);
    }
    out.extend_from_slice(if last { b" }\r\n" } else { b" },\r\n" });
}

fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        Kind::Directory => "directory",
        Kind::File => "file",
        Kind::Other => "other",
    }
}

/// Appends text for a string of JSON (ngx_escape_json).
fn escape_json(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            0..=0x1f => {
                let _ = write!(out, "\\u{byte:04X}");
            }
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], kind: Kind, size: u64, modified: i64) -> Entry {
        Entry { name: name.into(), kind, size, modified }
    }

    fn page(format: Format, entries: Vec<Entry>) -> Vec<u8> {
        let style = Style { exact_size: true, localtime: false };
        let uri = Bytes::from_static(b"/x/");
        let charset = Arc::new(OnceLock::from(Bytes::from_static(b"UTF-8")));
        let mut page = Page::new(format, style, uri, Bytes::new(), charset, Listing::of(entries));
        let mut whole = Vec::new();
        while !page.done {
            let piece = page.next_piece();
            assert!(piece.len() < PIECE + 4096, "{}", piece.len());
            whole.extend_from_slice(&piece);
        }
        whole
    }

    #[test]
    fn sizes_are_rounded_as_nginx_does() {
        for (size, want) in [
            (0, (0, None)),
            (9_999, (9_999, None)),
            (10_000, (10, Some('K'))),
            (10_751, (10, Some('K'))),
            (10_752, (11, Some('K'))),
            ((1 << 20) - 1, (1024, Some('K'))),
            (1 << 20, (1, Some('M'))),
            ((3 << 20) / 2, (2, Some('M'))),
            (5 << 30, (5, Some('G'))),
            (u64::MAX >> 1, (8_589_934_592, Some('G'))),
        ] {
            assert_eq!(rounded(size), want, "{size}");
        }
    }

    #[test]
    fn times_beyond_the_calendar() {
        for time in [i64::MIN, -1, 0, i64::MAX] {
            for format in [Format::Html, Format::Xml, Format::Json] {
                assert!(!page(format, vec![entry(b"a", Kind::File, 1, time)]).is_empty());
            }
        }
    }

    #[test]
    fn a_long_list_comes_in_pieces_and_is_json() {
        let entries = (0..5_000).map(|n| entry(format!("{n}\u{1}\"").as_bytes(), Kind::File, n, 0)).collect();
        let list: serde_json::Value = serde_json::from_slice(&page(Format::Json, entries)).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 5_000);
        assert_eq!(list[17]["name"], "17\u{1}\"");
        assert_eq!(list[17]["size"], 17);
    }

    proptest::proptest! {
        /// Whatever the names are, a line of the page is as wide as any other and the JSON is JSON.
        #[test]
        fn names_of_any_kind(name in "\\PC{1,60}") {
            let lines = page(Format::Html, vec![entry(name.as_bytes(), Kind::File, 1, 0)]);
            let lines = String::from_utf8(lines).unwrap();
            let line = lines.split("\r\n").nth(4).unwrap();
            let shown = line.split_once("\">").unwrap().1.replace("</a>", "");
            let shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
            proptest::prop_assert_eq!(shown.chars().count(), NAME + 1 + 17 + 20);
            let list: serde_json::Value =
                serde_json::from_slice(&page(Format::Json, vec![entry(name.as_bytes(), Kind::Other, 1, 0)])).unwrap();
            proptest::prop_assert_eq!(list[0]["name"].as_str(), Some(name.as_str()));
        }
    }
}
