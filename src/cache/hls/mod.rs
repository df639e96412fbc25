//! HLS: playlists are read, and what they say is heeded.
//!
//! Where a location says so, the body of an answer that looks like a [`playlist`] is held back until it is
//! whole, for it is small ([`watch`]); then it is known how long it lives ([`life`]) and what it lists. What a
//! zone knows of its streams from one version to the next is in [`super::streams`], and whether an encoder
//! began anew is decided in [`rewind`]. So nobody sees a list of names before what these names meant earlier
//! is gone.

pub mod decode;
pub mod judge;
pub mod life;
pub mod playlist;
pub mod reference;
pub mod rewind;
pub mod watch;

use super::entry::Entry;
use super::streams::Source;
use bytes::Bytes;
use life::{Directives, Rules};

/// What a request brings along where playlists are known.
#[derive(Clone, Debug)]
pub struct Hls {
    /// What its location wants.
    pub rules: Rules,
    /// Which stream it is, should it turn out to be for a playlist.
    pub source: Source,
    /// What it asks the server to wait for.
    pub asked: Directives,
    /// Host and path, by which resources are known.
    pub origin: Bytes,
}

impl Hls {
    /// Whether the path is that of a playlist.
    pub fn is_named_so(&self) -> bool {
        let end = self.origin.len().saturating_sub(5);
        self.origin[end..].eq_ignore_ascii_case(b".m3u8")
    }

    /// The query, as sent.
    pub fn query(&self) -> &[u8] {
        memchr::memchr(b'?', &self.source.target).map_or(&[], |at| &self.source.target[at + 1..])
    }
}

/// Whether a status says that something is not there, perhaps not yet. Some object stores say 403.
pub fn says_absent(status: u16) -> bool {
    matches!(status, 403 | 404 | 410)
}

/// Whether an entry says, where playlists are known, that something is not there. It is nothing to fall back on
/// when it is over: by then it may be there.
pub fn is_absence(entry: &Entry) -> bool {
    says_absent(entry.status) && !entry.meta.origin.is_empty()
}
