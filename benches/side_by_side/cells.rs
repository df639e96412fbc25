//! What is measured request by request: the cells of the table, and what each is to come to.

/// One cell: a protocol, where the answer comes from, and its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    pub protocol: Protocol,
    pub source: Source,
    /// Bytes of the body.
    pub size: usize,
    /// With `sendfile off`: nginx copies what it sends.
    pub copying: bool,
    /// The ratio of our CPU time to nginx's that is wanted, where one is set.
    pub target: Option<f64>,
    /// The one that is hoped for.
    pub stretch: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Plain,
    Tls,
    /// HTTP/2 over TLS.
    TlsH2,
    /// A new connection, with a TLS 1.3 handshake, for each request.
    Handshake {
        /// The certificate's key is RSA-2048, else P-256.
        rsa: bool,
        resumed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Static,
    Cached,
    Proxied,
    /// A static file that is compressed on the fly.
    Gzip,
}

pub const SMALL: usize = 1024;
/// A segment of audio, or of a small picture.
pub const MEDIUM: usize = 200 * 1024;
pub const LARGE: usize = 1024 * 1024;
/// A playlist.
const PLAYLIST: usize = 20 * 1024;

/// All cells, in the order of the table.
pub fn all() -> Vec<Cell> {
    use Protocol::{Handshake, Plain, Tls, TlsH2};
    use Source::{Cached, Gzip, Proxied, Static};
    vec![
        cell(Plain, Static, SMALL).target(0.65),
        cell(Plain, Static, LARGE),
        cell(Plain, Cached, SMALL).target(0.65),
        cell(Plain, Cached, MEDIUM),
        cell(Plain, Cached, LARGE).target(0.75),
        Cell { copying: true, ..cell(Plain, Cached, LARGE).target(0.45) },
        cell(Tls, Static, SMALL),
        cell(Tls, Static, LARGE),
        cell(Tls, Cached, SMALL).target(0.75),
        cell(Tls, Cached, LARGE).target(0.55),
        cell(TlsH2, Static, SMALL),
        cell(TlsH2, Static, LARGE),
        Cell { stretch: Some(0.25), ..cell(TlsH2, Cached, SMALL).target(0.35) },
        cell(TlsH2, Cached, MEDIUM).target(0.35),
        cell(TlsH2, Cached, LARGE),
        cell(Plain, Proxied, SMALL).target(1.0),
        cell(Plain, Proxied, LARGE).target(0.8),
        cell(TlsH2, Proxied, SMALL).target(0.9),
        cell(Plain, Gzip, PLAYLIST).target(0.8),
        cell(Handshake { rsa: false, resumed: false }, Static, SMALL).target(0.55),
        cell(Handshake { rsa: true, resumed: false }, Static, SMALL).target(0.55),
        cell(Handshake { rsa: false, resumed: true }, Static, SMALL).target(0.6),
    ]
}

fn cell(protocol: Protocol, source: Source, size: usize) -> Cell {
    Cell { protocol, source, size, copying: false, target: None, stretch: None }
}

impl Cell {
    fn target(self, target: f64) -> Cell {
        Cell { target: Some(target), ..self }
    }

    pub fn name(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Plain => "h1",
            Protocol::Tls => "tls h1",
            Protocol::TlsH2 => "tls h2",
            Protocol::Handshake { rsa, resumed } => {
                let kind = if resumed { "resumed" } else { "full" };
                let key = if rsa { "rsa-2048" } else { "p-256" };
                return format!("tls handshakes {kind} {key}");
            }
        };
        let source = match self.source {
            Source::Static => "static",
            Source::Cached => "cached",
            Source::Proxied => "proxied",
            Source::Gzip => return format!("{protocol} gzip playlist 20k"),
        };
        let copying = if self.copying { " sendfile off" } else { "" };
        format!("{protocol} {source} {}{copying}", self.size_name())
    }

    fn size_name(&self) -> &'static str {
        match self.size {
            SMALL => "1k",
            MEDIUM => "200k",
            _ => "1m",
        }
    }

    pub fn is_small(&self) -> bool {
        self.size == SMALL
    }

    /// The file whose bytes the answer has.
    pub fn file(&self) -> String {
        match self.source {
            Source::Gzip => "index.m3u8".into(),
            _ => format!("{}.bin", self.size_name()),
        }
    }

    /// The path below which the answer is found.
    pub fn path(&self) -> String {
        let folder = match self.source {
            Source::Static => "",
            Source::Cached => "/cached",
            Source::Proxied => "/proxied",
            Source::Gzip => "/gzip",
        };
        format!("{folder}/{}", self.file())
    }
}
