//! What a playlist says, as far as a cache needs it: its kind, how long it holds, what it lists.
//!
//! The grammar of lines and tags is the `quick-m3u8` crate's. Tags are those of RFC 8216 and of the second
//! edition's draft (`draft-pantos-hls-rfc8216bis`), whose section names stand beside what comes of them.

use jiff::Timestamp;
use quick_m3u8::config::{ParsingOptions, ParsingOptionsBuilder};
use quick_m3u8::tag::{HlsPlaylistType, KnownTag, UnknownTag, hls};
use quick_m3u8::{HlsLine, Reader};
use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The largest playlist that is read, in bytes, whatever it is compressed to.
pub const LARGEST: usize = 1 << 20;

/// So many of the URIs that a playlist lists are remembered: the last ones.
pub const MOST_LISTED: usize = 20_000;

/// The longest target duration that is believed.
const LONGEST_TARGET: Duration = Duration::from_secs(3600);

/// The two kinds of playlists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A multivariant playlist, formerly master: it names others.
    Master,
    /// A media playlist: it names segments.
    Media,
}

impl Kind {
    /// Both, in the order of their numbers.
    pub const ALL: [Kind; 2] = [Kind::Master, Kind::Media];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Master => "master",
            Kind::Media => "media",
        }
    }
}

/// What something that a playlist lists is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A media segment.
    Segment,
    /// A part of one (`EXT-X-PART`, or hinted at).
    Part,
    /// What comes before segments (`EXT-X-MAP`).
    Init,
    /// A key (`EXT-X-KEY`).
    Key,
}

impl Role {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Segment => "segment",
            Role::Part => "part",
            Role::Init => "init",
            Role::Key => "key",
        }
    }
}

/// Something that a playlist lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The reference, as it stands there with its variables replaced.
    pub uri: String,
    /// What it is.
    pub role: Role,
    /// The media sequence number of the segment it belongs to.
    pub number: u64,
}

/// The figures of a playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its kind.
    pub kind: Kind,
    /// `EXT-X-TARGETDURATION`; zero for a master playlist.
    pub target: Duration,
    /// `EXT-X-PART-INF`
    pub part_target: Option<Duration>,
    /// Whether the server holds a request until the playlist has what it asks for (`CAN-BLOCK-RELOAD`).
    pub blocks: bool,
    /// Whether it will not change any more.
    pub ended: bool,
    /// `EXT-X-MEDIA-SEQUENCE`: the number of its first segment.
    pub first: u64,
    /// The number of the segment after its last whole one.
    pub next: u64,
    /// Parts of that segment that are there.
    pub parts: u64,
    /// Segments that a delta update leaves out (`EXT-X-SKIP`).
    pub skipped: u64,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`
    pub discontinuity: u64,
    /// The last `EXT-X-PROGRAM-DATE-TIME`: the number of its segment, and milliseconds since 1970.
    pub dated: Option<(u64, i64)>,
}

impl Facts {
    /// Whether it has segment `number`, or part `part` of it.
    pub fn has(&self, number: u64, part: Option<u64>) -> bool {
        number < self.next || (number == self.next && part.is_some_and(|part| part < self.parts))
    }
}

/// A playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playlist {
    /// Its figures.
    pub facts: Facts,
    /// What it lists, in its order; of a master playlist nothing.
    pub listed: Vec<Listed>,
}

/// Why something is no playlist; the words are the `reason` label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It does not begin with `#EXTM3U`.
    NotOne,
    /// It is larger than [`LARGEST`].
    TooLarge,
    /// It is compressed in a way that is not known, or broken.
    Encoding,
    /// It is not UTF-8, or a line is none.
    Syntax,
    /// A media playlist without `EXT-X-TARGETDURATION`, or neither kind.
    NoTarget,
}

impl Mistake {
    /// All of them, in the order of their numbers.
    pub const ALL: [Mistake; 5] =
        [Mistake::NotOne, Mistake::TooLarge, Mistake::Encoding, Mistake::Syntax, Mistake::NoTarget];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mistake::NotOne => "not_a_playlist",
            Mistake::TooLarge => "too_large",
            Mistake::Encoding => "encoding",
            Mistake::Syntax => "syntax",
            Mistake::NoTarget => "no_target_duration",
        }
    }

    /// What to tell an operator.
    pub fn told(self) -> &'static str {
        match self {
            Mistake::NotOne => "it does not begin with #EXTM3U",
            Mistake::TooLarge => "it is larger than 1 MB",
            Mistake::Encoding => "its Content-Encoding is not known, or broken",
            Mistake::Syntax => "it is not UTF-8, or a line of it is no tag and no URI",
            Mistake::NoTarget => "it has no valid EXT-X-TARGETDURATION",
        }
    }
}

/// Reads a playlist that was asked for with `query`.
pub fn parse(text: &[u8], query: &[u8]) -> Result<Playlist, Mistake> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if !text.starts_with(b"#EXTM3U") {
        return Err(Mistake::NotOne);
    }
    if text.len() > LARGEST {
        return Err(Mistake::TooLarge);
    }
    let text = std::str::from_utf8(text).map_err(|_| Mistake::Syntax)?;
    // A defect of the grammar must not end a fill: the text is what an upstream wrote.
    catch_unwind(AssertUnwindSafe(|| Draft::read(text, query))).unwrap_or(Err(Mistake::Syntax))
}

/// What was read so far.
#[derive(Default)]
struct Draft<'a> {
    master: bool,
    target: Option<Duration>,
    part_target: Option<Duration>,
    blocks: bool,
    ended: bool,
    first: u64,
    segments: u64,
    parts: u64,
    skipped: u64,
    discontinuity: u64,
    dated: Option<(u64, i64)>,
    defined: HashMap<String, String>,
    listed: Vec<Listed>,
    /// Bytes of text that were made of variables.
    made: usize,
    /// Whether the URI of the next line is that of a variant.
    variant: bool,
    query: &'a [u8],
}

impl Draft<'_> {
    fn read(text: &str, query: &[u8]) -> Result<Playlist, Mistake> {
        let mut draft = Draft { query, ..Draft::default() };
        let mut reader = Reader::from_str(text, options());
        loop {
            match reader.read_line() {
                Ok(Some(HlsLine::KnownTag(KnownTag::Hls(tag)))) => draft.tag(&tag)?,
                Ok(Some(HlsLine::UnknownTag(tag))) => draft.other(&tag)?,
                Ok(Some(HlsLine::Uri(uri))) => draft.uri(uri.trim_end()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Err(Mistake::Syntax),
            }
        }
        draft.finish()
    }

    fn tag(&mut self, tag: &hls::Tag<'_>) -> Result<(), Mistake> {
        match tag {
            hls::Tag::Targetduration(tag) => {
                self.target = Some(Duration::from_secs(tag.target_duration()).min(LONGEST_TARGET));
            }
            hls::Tag::MediaSequence(tag) => self.first = tag.media_sequence(),
            hls::Tag::DiscontinuitySequence(tag) => self.discontinuity = tag.discontinuity_sequence(),
            hls::Tag::Skip(tag) => self.skipped = tag.skipped_segments(),
            hls::Tag::Endlist(_) => self.ended = true,
            hls::Tag::PlaylistType(tag) => {
                // It may not change then (RFC 8216, 4.3.3.5).
                self.ended |= tag.playlist_type() == HlsPlaylistType::Vod;
            }
            hls::Tag::PartInf(tag) => self.part_target = seconds(tag.part_target()),
            hls::Tag::ServerControl(tag) => self.blocks = tag.can_block_reload(),
            hls::Tag::StreamInf(_) => (self.master, self.variant) = (true, true),
            hls::Tag::IFrameStreamInf(_) | hls::Tag::Media(_) => self.master = true,
            hls::Tag::Part(tag) => {
                self.parts += 1;
                self.list(tag.uri(), Role::Part);
            }
            hls::Tag::PreloadHint(tag) => self.list(tag.uri(), Role::Part),
            hls::Tag::Map(tag) => self.list(tag.uri(), Role::Init),
            hls::Tag::Key(tag) => {
                if let Some(uri) = tag.uri() {
                    self.list(uri, Role::Key);
                }
            }
            hls::Tag::Define(tag) => self.define(tag),
            _ => {}
        }
        Ok(())
    }

    /// A tag that the grammar leaves to us, or whose value is not what it should be.
    fn other(&mut self, tag: &UnknownTag<'_>) -> Result<(), Mistake> {
        let line = std::str::from_utf8(tag.as_bytes()).unwrap_or_default();
        let value = line.split_once(':').map_or("", |(_, value)| value).trim();
        match tag.name() {
            "-X-PROGRAM-DATE-TIME" => {
                if let Ok(time) = value.parse::<Timestamp>() {
                    self.dated = Some((self.number(), time.as_millisecond()));
                }
            }
            // Older encoders write it with a fraction.
            "-X-TARGETDURATION" => {
                let target = value.parse().ok().and_then(seconds).ok_or(Mistake::NoTarget)?;
                self.target = Some(target.min(LONGEST_TARGET));
            }
            "-X-MEDIA-SEQUENCE" | "-X-SKIP" => return Err(Mistake::Syntax),
            _ => {}
        }
        Ok(())
    }

    fn uri(&mut self, uri: &str) {
        if uri.is_empty() || std::mem::take(&mut self.variant) {
            return;
        }
        self.list(uri, Role::Segment);
        self.segments += 1;
        self.parts = 0;
    }

    fn list(&mut self, uri: &str, role: Role) {
        let Some(uri) = self.replaced(uri) else { return };
        // A short line may stand for a long text, again and again.
        if let Cow::Owned(text) = &uri {
            self.made += text.len();
            if self.made > LARGEST {
                return;
            }
        }
        // Segments that are ranges of one file.
        if self.listed.last().is_some_and(|last| last.uri == uri && last.role == role) {
            return;
        }
        let number = self.number();
        self.listed.push(Listed { uri: uri.into_owned(), role, number });
        if self.listed.len() >= 2 * MOST_LISTED {
            self.listed.drain(..MOST_LISTED);
        }
    }

    /// The number of the segment whose URI is yet to come.
    fn number(&self) -> u64 {
        self.first.saturating_add(self.skipped).saturating_add(self.segments)
    }

    /// `EXT-X-DEFINE`. What is imported from the master playlist is not known here.
    fn define(&mut self, tag: &hls::Define<'_>) {
        if let (Some(name), Some(value)) = (tag.name(), tag.value()) {
            self.defined.insert(name.to_string(), value.to_string());
        } else if let Some(name) = tag.queryparam()
            && let Some(value) = crate::http::uri::arg(self.query, name.as_bytes())
        {
            let value = crate::http::uri::unescape(value);
            self.defined.insert(name.to_string(), String::from_utf8_lossy(&value).into_owned());
        }
    }

    /// A reference with its variables replaced; `None` when one is not known, or it becomes too long.
    fn replaced<'a>(&self, uri: &'a str) -> Option<Cow<'a, str>> {
        /// Longer than any request line that is taken.
        const LONGEST: usize = 8192;
        if uri.len() > LONGEST {
            return None;
        }
        if !uri.contains("{$") {
            return Some(Cow::Borrowed(uri));
        }
        let (mut out, mut rest) = (String::new(), uri);
        while let Some((before, after)) = rest.split_once("{$") {
            let (name, after) = after.split_once('}')?;
            let value = self.defined.get(name)?;
            if out.len() + before.len() + value.len() > LONGEST {
                return None;
            }
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
        out.push_str(rest);
        Some(Cow::Owned(out))
    }

    fn finish(mut self) -> Result<Playlist, Mistake> {
        let kind = if self.master { Kind::Master } else { Kind::Media };
        let target = match (kind, self.target) {
            (Kind::Master, _) => Duration::ZERO,
            (Kind::Media, Some(target)) => target,
            (Kind::Media, None) => return Err(Mistake::NoTarget),
        };
        if kind == Kind::Master {
            self.listed.clear();
        }
        let excess = self.listed.len().saturating_sub(MOST_LISTED);
        self.listed.drain(..excess);
        let facts = Facts {
            kind,
            target,
            part_target: self.part_target,
            blocks: self.blocks,
            ended: self.ended,
            first: self.first,
            next: self.number(),
            parts: self.parts,
            skipped: self.skipped,
            discontinuity: self.discontinuity,
            dated: self.dated,
        };
        Ok(Playlist { facts, listed: self.listed })
    }
}

/// The tags that mean anything here.
fn options() -> ParsingOptions {
    ParsingOptionsBuilder::new()
        .with_parsing_for_targetduration()
        .with_parsing_for_media_sequence()
        .with_parsing_for_discontinuity_sequence()
        .with_parsing_for_skip()
        .with_parsing_for_endlist()
        .with_parsing_for_playlist_type()
        .with_parsing_for_part_inf()
        .with_parsing_for_server_control()
        .with_parsing_for_stream_inf()
        .with_parsing_for_i_frame_stream_inf()
        .with_parsing_for_media()
        .with_parsing_for_part()
        .with_parsing_for_preload_hint()
        .with_parsing_for_map()
        .with_parsing_for_key()
        .with_parsing_for_define()
        .build()
}

/// A number of seconds that is one.
fn seconds(n: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(n).ok()?;
    (!duration.is_zero()).then_some(duration.min(LONGEST_TARGET))
}

#[cfg(test)]
#[path = "playlist_tests.rs"]
mod tests;
