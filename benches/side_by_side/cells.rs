//! What is measured: the cells of the table.

/// One cell: a protocol, where the answer comes from, and its size.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub protocol: Protocol,
    pub source: Source,
    /// Bytes of the body.
    pub size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Plain,
    Tls,
    /// HTTP/2 over TLS, ten streams on each connection.
    TlsH2,
    /// A new connection and a full TLS 1.3 handshake for each request.
    Handshake,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Static,
    Cached,
    Proxied,
}

impl Cell {
    pub fn name(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Plain => "h1",
            Protocol::Tls => "tls h1",
            Protocol::TlsH2 => "tls h2",
            Protocol::Handshake => "tls handshake",
        };
        let source = match self.source {
            Source::Static => "static",
            Source::Cached => "cached",
            Source::Proxied => "proxied",
        };
        format!("{protocol} {source} {}", self.size_name())
    }

    fn size_name(&self) -> &'static str {
        match self.size {
            SMALL => "1k",
            MEDIUM => "200k",
            _ => "1m",
        }
    }

    /// Whether Varnish has its part in it: what it does is answer from its memory, without TLS.
    pub fn is_varnishs(&self) -> bool {
        self.protocol == Protocol::Plain && self.source == Source::Cached
    }

    /// The path below which the answer is found.
    pub fn path(&self) -> String {
        let file = self.size_name();
        match self.source {
            Source::Static => format!("/{file}.bin"),
            Source::Cached => format!("/cached/{file}.bin"),
            Source::Proxied => format!("/proxied/{file}.bin"),
        }
    }
}

pub const SMALL: usize = 1024;
/// A segment of audio, or of a small picture.
pub const MEDIUM: usize = 200 * 1024;
pub const LARGE: usize = 1024 * 1024;

/// All cells, in the order of the table.
pub fn all() -> Vec<Cell> {
    let mut cells = vec![];
    for protocol in [Protocol::Plain, Protocol::Tls, Protocol::TlsH2] {
        for source in [Source::Static, Source::Cached] {
            let sizes: &[usize] = match (protocol, source) {
                (Protocol::Plain, Source::Cached) => &[SMALL, MEDIUM, LARGE],
                _ => &[SMALL, LARGE],
            };
            cells.extend(sizes.iter().map(|size| Cell { protocol, source, size: *size }));
        }
    }
    cells.extend([SMALL, LARGE].map(|size| Cell {
        protocol: Protocol::Plain,
        source: Source::Proxied,
        size,
    }));
    cells.push(Cell { protocol: Protocol::Handshake, source: Source::Static, size: SMALL });
    cells
}
