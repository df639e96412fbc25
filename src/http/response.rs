//! A response on its way to the client: status, fields, body, and what filters need to know.

use super::body::Body;
use super::date;
use bytes::Bytes;

/// Names and values in order. Names are compared without regard to case.
///
/// Some fields are kept elsewhere and yet have a place among these, the one they had in an
/// upstream's answer, say: see [`Fields::mark`].
#[derive(Clone, Debug)]
pub struct Fields {
    list: Vec<(Bytes, Bytes)>,
    /// The marked fields, in their order, which is that of their places.
    marks: [Mark; 4],
    /// Before which of the list each of these stands.
    places: [u16; 4],
    /// How many there are.
    marked: u8,
}

/// A field that is kept elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `ETag`; first unless marked.
    ETag,
    /// `Last-Modified`; not among these unless marked, as are the others.
    LastModified,
    /// An upstream's `Server`.
    Server,
    /// An upstream's `Date`.
    Date,
}

impl Mark {
    /// The field's name.
    pub fn name(self) -> &'static str {
        match self {
            Mark::ETag => "ETag",
            Mark::LastModified => "Last-Modified",
            Mark::Server => "Server",
            Mark::Date => "Date",
        }
    }

    /// Notes how an upstream writes the name, in [`Response::names`], where it is not as here.
    pub fn note_name(self, written: &Bytes, names: &mut Option<Box<[Bytes; 4]>>) {
        if written[..] != *self.name().as_bytes() {
            names.get_or_insert_default()[self as usize] = written.clone();
        }
    }
}

/// What stands at a place of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A name and its value.
    Field(&'a Bytes, &'a Bytes),
    /// A field that is kept elsewhere.
    Mark(Mark),
}

/// What becomes of a field that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sifted {
    /// It stays.
    Kept,
    /// It is taken away.
    Gone,
    /// It is kept elsewhere, and has its place here.
    Marked(Mark),
}

impl Default for Fields {
    #[inline]
    fn default() -> Fields {
        Fields { list: Vec::new(), marks: [Mark::ETag; 4], places: [0; 4], marked: 1 }
    }
}

impl Fields {
    /// None, with room for so many.
    #[inline]
    pub fn with_capacity(number: usize) -> Fields {
        Fields { list: Vec::with_capacity(number), marks: [Mark::ETag; 4], places: [0; 4], marked: 1 }
    }

    /// Adds a field after the others.
    pub fn add(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.list.push((name.into(), value.into()));
    }

    /// Adds a field whose name is known when compiling.
    pub fn add_static(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.list.push((Bytes::from_static(name.as_bytes()), value.into()));
    }

    /// Adds a field before the others.
    pub fn add_first(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.list.insert(0, (Bytes::from_static(name.as_bytes()), value.into()));
        self.shift(1);
    }

    /// Adds these fields, in their order, before the others.
    pub fn prepend(&mut self, fields: impl IntoIterator<Item = (Bytes, Bytes)>) {
        let before = self.list.len();
        self.list.splice(..0, fields);
        self.shift(self.list.len() - before);
    }

    /// So many were added before the others.
    fn shift(&mut self, added: usize) {
        // A head has bounds far below.
        let added = u16::try_from(added).unwrap_or(u16::MAX);
        self.places.iter_mut().for_each(|place| *place = place.saturating_add(added));
    }

    /// Says that a field that is kept elsewhere comes before all.
    pub fn mark_first(&mut self, mark: Mark) {
        self.forget(mark);
        self.marks.rotate_right(1);
        self.places.rotate_right(1);
        (self.marks[0], self.places[0]) = (mark, 0);
        self.marked += 1;
    }

    /// Says that a field that is kept elsewhere comes after those that are here now.
    pub fn mark(&mut self, mark: Mark) {
        self.mark_at(mark, self.list.len());
    }

    /// Says that a field that is kept elsewhere comes after so many, behind all that are.
    fn mark_at(&mut self, mark: Mark, place: usize) {
        self.forget(mark);
        let last = usize::from(self.marked);
        self.marks[last] = mark;
        self.places[last] = u16::try_from(place).unwrap_or(u16::MAX);
        self.marked += 1;
    }

    /// Decides of each field, given its name, its value and the fields behind it. What had been marked is so no more.
    pub fn sift(&mut self, mut decide: impl FnMut(&Bytes, &mut Bytes, &[(Bytes, Bytes)]) -> Sifted) {
        (self.places[0], self.marks[0], self.marked) = (0, Mark::ETag, 1);
        let mut kept = 0;
        for at in 0..self.list.len() {
            let Some(((name, value), behind)) = self.list[at..].split_first_mut() else { break };
            match decide(name, value, behind) {
                Sifted::Gone => {}
                Sifted::Marked(mark) => self.mark_at(mark, kept),
                Sifted::Kept => {
                    self.list.swap(kept, at);
                    kept += 1;
                }
            }
        }
        self.list.truncate(kept);
    }

    /// Takes its place from a field that is kept elsewhere, if it has one.
    fn forget(&mut self, mark: Mark) {
        let mut kept = 0;
        for at in 0..usize::from(self.marked) {
            if self.marks[at] != mark {
                (self.marks[kept], self.places[kept]) = (self.marks[at], self.places[at]);
                kept += 1;
            }
        }
        self.marked = kept as u8;
    }

    /// Whether a field that is kept elsewhere has a place here.
    pub fn is_marked(&self, mark: Mark) -> bool {
        self.marks[..usize::from(self.marked)].contains(&mark)
    }

    /// Shows every field in order, with the places of those that are kept elsewhere.
    pub fn each_place<'a>(&'a self, mut each: impl FnMut(Place<'a>)) {
        let (mut next, marked) = (0, usize::from(self.marked));
        for (at, (name, value)) in self.list.iter().enumerate() {
            while next < marked && usize::from(self.places[next]) <= at {
                each(Place::Mark(self.marks[next]));
                next += 1;
            }
            each(Place::Field(name, value));
        }
        self.marks[next..marked].iter().for_each(|mark| each(Place::Mark(*mark)));
    }

    /// Replaces every field of this name by one after the others.
    pub fn set(&mut self, name: &'static str, value: impl Into<Bytes>) {
        self.remove(name);
        self.add_static(name, value);
    }

    /// Replaces every field of this name by one in the place of the first; after the others when
    /// there was none.
    pub fn put(&mut self, name: &'static str, value: impl Into<Bytes>) {
        let Some(first) = self.list.iter().position(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())) else {
            return self.add_static(name, value);
        };
        let mut at = 0;
        self.retain(|n, _| {
            at += 1;
            at - 1 == first || !n.eq_ignore_ascii_case(name.as_bytes())
        });
        self.list[first] = (Bytes::from_static(name.as_bytes()), value.into());
    }

    /// Removes every field of this name.
    pub fn remove(&mut self, name: &str) {
        self.retain(|n, _| !n.eq_ignore_ascii_case(name.as_bytes()));
    }

    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.list.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
    }

    /// Every field of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.list.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.list.iter().map(|(n, v)| (n, v))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Keeps those for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&Bytes, &Bytes) -> bool) {
        let (mut at, mut gone) = (0u16, [0u16; 4]);
        let places = self.places;
        self.list.retain(|(n, v)| {
            let keep = keep(n, v);
            if !keep {
                gone.iter_mut().zip(places).for_each(|(gone, place)| *gone += u16::from(at < place));
            }
            at = at.saturating_add(1);
            keep
        });
        self.places.iter_mut().zip(gone).for_each(|(place, gone)| *place -= gone);
    }

    /// Room for more bytes than this would take, for bounds: names, values, and separators.
    pub fn size(&self) -> usize {
        self.list.iter().map(|(n, v)| n.len() + v.len() + 4).sum()
    }
}

/// A validator's time: seconds since 1970.
pub type Seconds = u64;

/// `Last-Modified`.
#[derive(Clone, Debug)]
pub enum Modified {
    /// A time, written as it usually is.
    At(Seconds),
    /// What an upstream or the configuration writes, which is passed on as it is.
    Written(Bytes),
}

impl Modified {
    /// The time, if it is one. What is written is read only when somebody asks.
    pub fn time(&self) -> Option<Seconds> {
        match self {
            Modified::At(at) => Some(*at),
            Modified::Written(text) => date::parse_http_date(text),
        }
    }

    /// Shows the value of the field.
    pub fn show<T>(&self, to: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Modified::At(at) => to(&date::text(*at)),
            Modified::Written(text) => to(text),
        }
    }

    /// The same, with nothing larger held in memory.
    pub fn own(&self) -> Modified {
        match self {
            Modified::At(at) => Modified::At(*at),
            Modified::Written(text) => Modified::Written(Bytes::copy_from_slice(text)),
        }
    }
}

/// A response.
///
/// `Content-Type`, `Content-Length`, `Last-Modified`, `ETag`, `Accept-Ranges`, `Date`, `Server`,
/// `Connection` and `Transfer-Encoding` never stand in `fields`: the first five have a place of
/// their own here, and the connection writes the rest.
pub struct Response {
    /// The status. 0 closes the connection without an answer (nginx's 444).
    pub status: u16,
    /// An upstream's reason phrase, with the status it belongs to.
    pub reason: Option<(u16, Bytes)>,
    /// Whether conditions of the request are for the upstream alone (it answered, and not the cache).
    pub unconditional: bool,
    /// Whether a `Location` that is a path is to be completed; an upstream's own is not.
    pub complete_location: bool,
    /// Whether it was: then it stands before the other fields.
    pub location_completed: bool,
    /// The other fields.
    pub fields: Fields,
    /// `Content-Type`, complete.
    pub content_type: Option<Bytes>,
    /// How many bytes of it are the type, when a charset was added or came with it from elsewhere.
    pub type_length: Option<usize>,
    /// The charset that an upstream asks for by `X-Accel-Charset`.
    pub charset_override: Option<Bytes>,
    /// `Content-Length`, when it is known; taken from the body when `None` and the body knows it.
    pub length: Option<u64>,
    /// `Last-Modified`.
    pub last_modified: Option<Modified>,
    /// `ETag` with its quotes and, when weak, its `W/`.
    pub etag: Option<Bytes>,
    /// How an upstream writes the names of the fields that are kept apart, by [`Mark`], where it is not as here.
    pub names: Option<Box<[Bytes; 4]>>,
    /// Whether ranges may be cut from the body (it is whole and its length known).
    pub ranges: bool,
    /// Whether only one range may be cut at a time.
    pub single_range: bool,
    /// Whether the upstream's own `Accept-Ranges` or our `bytes` is announced.
    pub accept_ranges: bool,
    /// Whether another client might get another coding: `Vary` says so where `gzip_vary` is on.
    pub vary: bool,
    /// The upstream's `Server` or `Date`, when `proxy_pass_header` lets them through.
    pub server: Option<Bytes>,
    /// See `server`.
    pub date: Option<Bytes>,
    /// The body.
    pub body: Body,
    /// A protocol switch: what to do with the connection after a 101.
    pub tunnel: Option<Box<dyn Tunnel>>,
    /// Whether the connection is closed without a word; the status is for the log.
    pub silent: bool,
    /// Whether the connection must close after this.
    pub close: bool,
    /// Whether fields follow the body (`add_trailer`).
    pub trailers: bool,
    /// Whether this came from an upstream (for `gzip_proxied` and `proxy_intercept_errors`).
    pub upstream: bool,
}

impl Response {
    /// The name of a field that is kept apart from the others, as it is sent.
    pub fn name_of(&self, mark: Mark) -> &[u8] {
        match self.names.as_ref().map_or(&b""[..], |names| &names[mark as usize][..]) {
            b"" => mark.name().as_bytes(),
            written => written,
        }
    }

    /// Says that a field that is kept apart is ours, and not an upstream's any more.
    pub fn write_usual_name(&mut self, mark: Mark) {
        if let Some(names) = &mut self.names {
            names[mark as usize] = Bytes::new();
        }
    }

    /// A response without a body.
    pub fn new(status: u16) -> Response {
        Response::with_fields(status, Fields::default())
    }

    /// A response with these fields and without a body.
    pub fn with_fields(status: u16, fields: Fields) -> Response {
        Response {
            status,
            reason: None,
            unconditional: false,
            complete_location: false,
            location_completed: false,
            fields,
            content_type: None,
            type_length: None,
            charset_override: None,
            length: None,
            last_modified: None,
            etag: None,
            names: None,
            ranges: false,
            single_range: false,
            accept_ranges: false,
            vary: false,
            server: None,
            date: None,
            body: Body::Empty,
            tunnel: None,
            silent: false,
            close: false,
            trailers: false,
            upstream: false,
        }
    }

    /// A response with a body in memory.
    pub fn with_body(status: u16, content_type: impl Into<Bytes>, body: impl Into<Bytes>) -> Response {
        let body: Bytes = body.into();
        Response {
            status,
            content_type: Some(content_type.into()),
            length: Some(body.len() as u64),
            body: body.into(),
            ..Response::default()
        }
    }

    /// The time of `Last-Modified`.
    pub fn modified(&self) -> Option<Seconds> {
        self.last_modified.as_ref().and_then(Modified::time)
    }

    /// The length of the body, when it is known.
    pub fn content_length(&self) -> Option<u64> {
        self.length.or_else(|| self.body.known_length())
    }

    /// The value of a response field, wherever it is kept; what `$sent_http_…` reads.
    pub fn field(&self, name: &str) -> Option<Bytes> {
        match name {
            "content-type" => self.content_type.clone(),
            "content-length" => self.content_length().map(|n| Bytes::from(n.to_string())),
            "last-modified" => self.last_modified.as_ref().map(|at| at.show(Bytes::copy_from_slice)),
            "etag" => self.etag.clone(),
            _ => self.fields.get(name).cloned(),
        }
    }
}

impl Default for Response {
    fn default() -> Response {
        Response::new(0)
    }
}

/// What happens on a connection after it has switched protocols: bytes both ways until one side
/// ends. Boxed because it is once per connection.
pub trait Tunnel: Send {
    /// Carries bytes between the client's connection and the other side; returns the bytes sent to
    /// the client.
    fn run<'a>(
        self: Box<Self>,
        client: &'a mut super::io::Io,
        already_read: bytes::BytesMut,
    ) -> std::pin::Pin<Box<dyn Future<Output = u64> + Send + 'a>>;
}

/// The reason phrase nginx sends with a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Time-out",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Large",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(fields: &Fields) -> String {
        let mut shown = Vec::new();
        fields.each_place(|place| {
            shown.push(match place {
                Place::Field(name, _) => String::from_utf8_lossy(name).into_owned(),
                Place::Mark(mark) => format!("<{mark:?}>"),
            });
        });
        shown.join(" ")
    }

    #[test]
    fn fields_marked_side_by_side_stay_in_their_order() {
        let mut fields = Fields::default();
        fields.mark(Mark::LastModified);
        fields.mark(Mark::ETag);
        fields.add_static("A", "1");
        assert_eq!(shown(&fields), "<LastModified> <ETag> A");
        fields.mark_first(Mark::ETag);
        assert_eq!(shown(&fields), "<ETag> <LastModified> A");
    }

    #[test]
    fn marked_fields_keep_their_places() {
        let mut fields = Fields::default();
        fields.add_static("A", "1");
        fields.add_static("B", "1");
        assert_eq!(shown(&fields), "<ETag> A B");
        fields.mark(Mark::LastModified);
        fields.add_static("a", "2");
        fields.mark(Mark::Server);
        assert_eq!(shown(&fields), "<ETag> A B <LastModified> a <Server>");
        fields.add_first("Vary", "x");
        assert_eq!(shown(&fields), "Vary <ETag> A B <LastModified> a <Server>");
        let before = fields.clone();
        fields.remove("a");
        assert_eq!(shown(&fields), "Vary <ETag> B <LastModified> <Server>");
        fields = before;
        fields.put("B", "2");
        fields.put("A", "3");
        assert_eq!(shown(&fields), "Vary <ETag> A B <LastModified> <Server>");
        fields.put("C", "1");
        assert_eq!(shown(&fields), "Vary <ETag> A B <LastModified> <Server> C");
        fields.mark(Mark::ETag);
        fields.set("Vary", "y");
        assert_eq!(shown(&fields), "A B <LastModified> <Server> C <ETag> Vary");
    }

    #[test]
    fn sifted_fields_stay_in_order() {
        let mut fields = Fields::default();
        for name in ["A", "Date", "B", "X", "etag", "ETag", "X", "C", "Server"] {
            fields.add_static(name, "1");
        }
        fields.mark(Mark::LastModified);
        fields.sift(|name, value, behind| match &name[..] {
            b"A" | b"B" => {
                *value = Bytes::from(behind.len().to_string());
                Sifted::Kept
            }
            b"X" => Sifted::Gone,
            b"Date" => Sifted::Marked(Mark::Date),
            b"Server" => Sifted::Marked(Mark::Server),
            b"ETag" => Sifted::Marked(Mark::ETag),
            _ => Sifted::Kept,
        });
        assert_eq!(shown(&fields), "A <Date> B etag <ETag> C <Server>");
        assert_eq!(fields.get("b").map(|value| &value[..]), Some(&b"6"[..]));
    }
}
