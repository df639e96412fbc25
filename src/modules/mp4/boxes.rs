//! Reading the boxes of a file: which there are, where they lie, and what has to be known of each.
//!
//! All of `moov` is held in memory, within `mp4_max_buffer_size`; boxes are spans of it. What is
//! changed is changed there. Boxes that are not known are left out of what is sent, as by nginx.

use super::{Fail, Media, Wanted};

/// Where something lies in [`File::moov`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// A table of a track: the box up to the entries, and the entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub head: Span,
    pub data: Span,
    pub entries: u32,
}

/// A track.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    pub head: Span,
    pub tkhd: Option<Span>,
    pub mdia: Option<Span>,
    pub mdhd: Option<Span>,
    pub hdlr: Option<Span>,
    pub minf: Option<Span>,
    pub vmhd: Option<Span>,
    pub smhd: Option<Span>,
    pub dinf: Option<Span>,
    pub stbl: Option<Span>,
    pub stsd: Option<Span>,
    /// Samples and their durations.
    pub stts: Option<Table>,
    /// Samples that can be begun with.
    pub stss: Option<Table>,
    /// Offsets of composition.
    pub ctts: Option<Table>,
    /// Samples of the chunks.
    pub stsc: Option<Table>,
    /// Sizes of samples, without entries when all have the same.
    pub stsz: Option<Table>,
    /// Whether all samples have one size.
    pub same_size: bool,
    /// Offsets of chunks, with whether they have eight bytes.
    pub chunks: Option<(Table, bool)>,
    /// Units a second of the media.
    pub timescale: u32,
    /// What is left of it, in those units.
    pub duration: u64,
    /// What is left of it, in the movie's units.
    pub movie_duration: u64,
}

/// A file, as far as it is read.
#[derive(Debug, Default)]
pub(super) struct File {
    pub ftyp: Option<Vec<u8>>,
    /// `moov` as it stands in the file, with what else was read at once.
    pub moov: Vec<u8>,
    pub mvhd: Option<Span>,
    pub tracks: Vec<Track>,
    /// Where the content of `mdat` begins and ends.
    pub mdat: Option<(u64, u64)>,
    /// Units a second of the movie.
    pub timescale: u32,
}

/// Bytes read beyond a `moov` that comes first: what follows is mostly the head of `mdat`.
const BEYOND_MOOV: u64 = 4096;

/// The largest `ftyp`.
const MOST_FTYP: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    File,
    Moov,
    Track,
    Media,
    Information,
    Samples,
}

/// What a box led to.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Go on.
    Go,
    /// The track has nothing in the time that is wanted.
    SkipTrack,
}

/// A reader of boxes (ngx_http_mp4_read and its like).
pub(super) struct Reader<'a> {
    media: &'a dyn Media,
    wanted: &'a Wanted,
    end: u64,
    /// Where it has got to in the file, and in `buffer`.
    offset: u64,
    buffer: Vec<u8>,
    pos: u64,
    /// Bytes read at once.
    at_once: u64,
    /// Whether `buffer` is `moov`, of which nothing may be lost.
    in_moov: bool,
    has_moov: bool,
    file: File,
}

pub(super) fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn get64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(value);
    }
}

/// Reads what there is to know of a file. [`Fail::Whole`] when it is to be sent as it is.
pub(super) fn read(media: &dyn Media, wanted: &Wanted) -> Result<File, Fail> {
    let mut reader = Reader {
        media,
        wanted,
        end: media.size(),
        offset: 0,
        buffer: Vec::new(),
        pos: 0,
        at_once: wanted.buffer_size,
        in_moov: false,
        has_moov: false,
        file: File::default(),
    };
    let size = reader.end;
    reader.boxes(Level::File, size)?;
    Ok(reader.file)
}

impl Reader<'_> {
    fn name(&self) -> &str {
        &self.wanted.name
    }

    fn fail<T>(&self, text: impl std::fmt::Display) -> Result<T, Fail> {
        Err(Fail::Error(format!("\"{}\" {text}", self.name())))
    }

    fn twice<T>(&self, what: &str) -> Result<T, Fail> {
        Err(Fail::Error(format!("duplicate mp4 {what} atom in \"{}\"", self.name())))
    }

    fn small<T>(&self, what: &str) -> Result<T, Fail> {
        self.fail(format_args!("mp4 {what} atom too small"))
    }

    /// Sees to it that the next `size` bytes are in the buffer.
    fn need(&mut self, size: u64) -> Result<(), Fail> {
        if self.pos.saturating_add(size) <= self.buffer.len() as u64 {
            return Ok(());
        }
        self.at_once = self.at_once.min(self.end.saturating_sub(self.offset));
        if self.at_once < size || self.in_moov {
            return self.fail("mp4 file truncated");
        }
        // The configuration bounds what is read at once.
        self.buffer.resize(self.at_once as usize, 0);
        self.media.read(&mut self.buffer, self.offset).map_err(|e| {
            Fail::Critical(format!(
                "read() \"{}\" failed ({})",
                self.name(),
                crate::conf::values::os_error(&e)
            ))
        })?;
        self.pos = 0;
        Ok(())
    }

    fn skip(&mut self, size: u64) {
        self.offset = self.offset.saturating_add(size);
        self.pos = self.pos.saturating_add(size);
    }

    fn byte32(&self, at: u64) -> u32 {
        usize::try_from(self.pos.saturating_add(at)).ok().and_then(|at| get32(&self.buffer, at)).unwrap_or(0)
    }

    fn byte64(&self, at: u64) -> u64 {
        usize::try_from(self.pos.saturating_add(at)).ok().and_then(|at| get64(&self.buffer, at)).unwrap_or(0)
    }

    /// Reads the boxes in the next `size` bytes.
    fn boxes(&mut self, level: Level, size: u64) -> Result<Next, Fail> {
        let end = self.offset.saturating_add(size);
        while self.offset < end {
            self.need(4)?;
            let mut length = u64::from(self.byte32(0));
            let mut head = 8;
            match length {
                0 => return Ok(Next::Go),
                1 => {
                    self.need(16)?;
                    length = self.byte64(8);
                    head = 16;
                    if length < 16 {
                        return self.fail(format_args!("mp4 atom is too small:{length}"));
                    }
                }
                2..8 => return self.fail(format_args!("mp4 atom is too small:{length}")),
                _ => {}
            }
            self.need(8)?;
            let name = self.byte32(4).to_be_bytes();
            if length > i64::MAX as u64 - self.offset || self.offset + length > end {
                return self.fail(format_args!("mp4 atom too large:{length}"));
            }
            if !is_known(level, &name) {
                self.skip(length);
                continue;
            }
            self.skip(head);
            if let Next::SkipTrack = self.one(level, &name, length - head)? {
                return Ok(Next::SkipTrack);
            }
        }
        Ok(Next::Go)
    }

    fn one(&mut self, level: Level, name: &[u8; 4], size: u64) -> Result<Next, Fail> {
        match (level, name) {
            (Level::File, b"ftyp") => self.ftyp(size)?,
            (Level::File, b"moov") => self.moov(size)?,
            (Level::File, _) => self.mdat(size)?,
            (Level::Moov, b"mvhd") => self.mvhd(size)?,
            (Level::Moov, b"trak") => self.track(size)?,
            (Level::Moov, _) => return self.fail("mp4 compressed moov atom (cmov) is not supported"),
            (Level::Track, b"tkhd") => return self.tkhd(size),
            (Level::Track, _) => return self.container(|t| &mut t.mdia, "mdia", Level::Media, size),
            (Level::Media, b"mdhd") => return self.mdhd(size),
            (Level::Media, b"minf") => {
                return self.container(|t| &mut t.minf, "minf", Level::Information, size);
            }
            (Level::Information, b"stbl") => {
                return self.container(|t| &mut t.stbl, "stbl", Level::Samples, size);
            }
            (Level::Media, _) => self.whole(|t| &mut t.hdlr, "hdlr", size)?,
            (Level::Information, b"vmhd" | b"smhd") => {
                let track = self.track_mut();
                let has = track.vmhd.is_some() || track.smhd.is_some();
                if has {
                    return self.twice("vmhd/smhd");
                }
                match name {
                    b"vmhd" => self.whole(|t| &mut t.vmhd, "vmhd", size)?,
                    _ => self.whole(|t| &mut t.smhd, "smhd", size)?,
                }
            }
            (Level::Information, _) => self.whole(|t| &mut t.dinf, "dinf", size)?,
            (Level::Samples, b"stsd") => return self.stsd(size),
            (Level::Samples, b"stts") => self.table(|t| &mut t.stts, "stts", 8, size)?,
            (Level::Samples, b"stss") => self.table(|t| &mut t.stss, "stss", 4, size)?,
            (Level::Samples, b"ctts") => self.table(|t| &mut t.ctts, "ctts", 8, size)?,
            (Level::Samples, b"stsc") => self.table(|t| &mut t.stsc, "stsc", 12, size)?,
            (Level::Samples, b"stsz") => self.stsz(size)?,
            (Level::Samples, b"stco") => self.chunks(false, size)?,
            (Level::Samples, _) => self.chunks(true, size)?,
        }
        Ok(Next::Go)
    }

    fn ftyp(&mut self, size: u64) -> Result<(), Fail> {
        if self.file.ftyp.is_some() {
            return self.twice("ftyp");
        }
        if size > MOST_FTYP || self.pos.saturating_add(size) > self.buffer.len() as u64 {
            return self.fail(format_args!("mp4 ftyp atom is too large:{size}"));
        }
        let start = self.pos as usize;
        let mut ftyp = ((8 + size) as u32).to_be_bytes().to_vec();
        ftyp.extend_from_slice(b"ftyp");
        ftyp.extend_from_slice(&self.buffer[start..start + size as usize]);
        self.file.ftyp = Some(ftyp);
        self.skip(size);
        Ok(())
    }

    fn moov(&mut self, size: u64) -> Result<(), Fail> {
        let first = self.file.mdat.is_none();
        if first && self.wanted.start == 0 && self.wanted.length == 0 {
            return Err(Fail::Whole);
        }
        if self.has_moov {
            return self.twice("moov");
        }
        if size > self.at_once {
            if size > self.wanted.max_buffer_size {
                return self.fail(format_args!(
                    "mp4 moov atom is too large:{size}, you may want to increase mp4_max_buffer_size"
                ));
            }
            self.buffer = Vec::new();
            self.pos = 0;
            self.at_once = size + if first { BEYOND_MOOV } else { 0 };
        }
        self.need(size)?;
        self.has_moov = true;
        self.in_moov = true;
        self.boxes(Level::Moov, size)?;
        self.in_moov = false;
        self.file.moov = std::mem::take(&mut self.buffer);
        if first {
            self.pos = 0;
            self.at_once = BEYOND_MOOV;
        } else {
            self.offset = self.end;
        }
        Ok(())
    }

    fn mdat(&mut self, size: u64) -> Result<(), Fail> {
        if self.file.mdat.is_some() {
            return self.twice("mdat");
        }
        self.file.mdat = Some((self.offset, self.offset + size));
        if self.file.tracks.is_empty() {
            self.skip(size);
        } else {
            // What comes after both is of no interest.
            self.offset = self.end;
        }
        Ok(())
    }

    /// The box whose content, of so many bytes, comes next: its head as it is to be, and the content.
    fn span(&mut self, name: &[u8; 4], size: u64) -> Span {
        // Within `moov`, which is in memory whole; a head has eight bytes at least.
        let start = self.pos as usize - 8;
        put(&mut self.buffer, start, &((8 + size) as u32).to_be_bytes());
        put(&mut self.buffer, start + 4, name);
        Span { start, end: start + 8 + size as usize }
    }

    fn track_mut(&mut self) -> &mut Track {
        if self.file.tracks.is_empty() {
            // Not reached: these boxes are looked for inside a track only.
            self.file.tracks.push(Track::default());
        }
        let last = self.file.tracks.len() - 1;
        &mut self.file.tracks[last]
    }

    fn mvhd(&mut self, size: u64) -> Result<(), Fail> {
        if self.file.mvhd.is_some() {
            return self.twice("mvhd");
        }
        let Some((timescale, at, wide)) = self.times(size, 12, 108) else { return self.small("mvhd") };
        self.file.timescale = timescale;
        let duration = self.duration(at, wide);
        let start = self.wanted.start.wrapping_mul(u64::from(timescale)) / 1000;
        if duration < start {
            return self.fail("mp4 start time exceeds file duration");
        }
        let left = self.left(duration, start, timescale);
        self.set_duration(at, wide, left);
        let span = self.span(b"mvhd", size);
        self.file.mvhd = Some(span);
        self.skip(size);
        Ok(())
    }

    /// Of a box with times: its units, where the duration stands, and whether it has eight bytes.
    /// `least` is the size of the box with a narrow one; `None` when the box is smaller.
    fn times(&self, size: u64, units: u64, least: u64) -> Option<(u32, u64, bool)> {
        if size < least - 8 {
            return None;
        }
        let wide = self.byte32(0) >> 24 != 0;
        if wide && size < least + 12 - 8 {
            return None;
        }
        let units = if wide { units + 8 } else { units };
        Some((self.byte32(units), units + 4, wide))
    }

    fn duration(&self, at: u64, wide: bool) -> u64 {
        if wide { self.byte64(at) } else { u64::from(self.byte32(at)) }
    }

    fn set_duration(&mut self, at: u64, wide: bool, value: u64) {
        let at = (self.pos + at) as usize;
        if wide {
            put(&mut self.buffer, at, &value.to_be_bytes());
        } else {
            put(&mut self.buffer, at, &(value as u32).to_be_bytes());
        }
    }

    /// What is wanted of a duration after its beginning.
    fn left(&self, duration: u64, start: u64, timescale: u32) -> u64 {
        let left = duration - start;
        match self.wanted.length {
            0 => left,
            length => left.min(length.wrapping_mul(u64::from(timescale)) / 1000),
        }
    }

    fn track(&mut self, size: u64) -> Result<(), Fail> {
        let (end, offset) = (self.pos + size, self.offset + size);
        let head = self.span(b"trak", size);
        self.file.tracks.push(Track { head: Span { end: head.start + 8, ..head }, ..Track::default() });
        if let Next::SkipTrack = self.boxes(Level::Track, size)? {
            self.file.tracks.pop();
            (self.pos, self.offset) = (end, offset);
            return Ok(());
        }
        // It would be found out later; here the number of tracks stays small.
        let track = self.track_mut();
        let missing = if track.stts.is_none() {
            "stts"
        } else if track.stsc.is_none() {
            "stsc"
        } else if track.chunks.is_none() {
            "stco"
        } else {
            return Ok(());
        };
        Err(Fail::Error(format!("no mp4 {missing} atoms were found in \"{}\"", self.name())))
    }

    fn container(
        &mut self,
        place: fn(&mut Track) -> &mut Option<Span>,
        name: &'static str,
        level: Level,
        size: u64,
    ) -> Result<Next, Fail> {
        if place(self.track_mut()).is_some() {
            return self.twice(name);
        }
        let span = self.span(&four(name), size);
        *place(self.track_mut()) = Some(Span { end: span.start + 8, ..span });
        self.boxes(level, size)
    }

    /// A box that goes out as it is.
    fn whole(
        &mut self,
        place: fn(&mut Track) -> &mut Option<Span>,
        name: &'static str,
        size: u64,
    ) -> Result<(), Fail> {
        if place(self.track_mut()).is_some() {
            return self.twice(name);
        }
        let span = self.span(&four(name), size);
        *place(self.track_mut()) = Some(span);
        self.skip(size);
        Ok(())
    }

    fn tkhd(&mut self, size: u64) -> Result<Next, Fail> {
        // The units are the movie's; in their place stand a track's number and four bytes of nothing.
        let Some((_, at, wide)) = self.times(size, 16, 92) else { return self.small("tkhd") };
        let timescale = self.file.timescale;
        let duration = self.duration(at, wide);
        let start = self.wanted.start.wrapping_mul(u64::from(timescale)) / 1000;
        if duration <= start {
            return Ok(Next::SkipTrack);
        }
        if self.track_mut().tkhd.is_some() {
            return self.twice("tkhd");
        }
        let left = self.left(duration, start, timescale);
        self.set_duration(at, wide, left);
        let span = self.span(b"tkhd", size);
        let track = self.track_mut();
        track.movie_duration = left;
        track.tkhd = Some(span);
        self.skip(size);
        Ok(Next::Go)
    }

    fn mdhd(&mut self, size: u64) -> Result<Next, Fail> {
        let Some((timescale, at, wide)) = self.times(size, 12, 32) else { return self.small("mdhd") };
        let duration = self.duration(at, wide);
        let start = self.wanted.start.wrapping_mul(u64::from(timescale)) / 1000;
        if duration <= start {
            return Ok(Next::SkipTrack);
        }
        if self.track_mut().mdhd.is_some() {
            return self.twice("mdhd");
        }
        let left = self.left(duration, start, timescale);
        let span = self.span(b"mdhd", size);
        let track = self.track_mut();
        (track.timescale, track.duration, track.mdhd) = (timescale, left, Some(span));
        self.skip(size);
        Ok(Next::Go)
    }

    fn stsd(&mut self, size: u64) -> Result<Next, Fail> {
        if size < 16 {
            return self.small("stsd");
        }
        self.whole(|t| &mut t.stsd, "stsd", size)?;
        Ok(Next::Go)
    }

    fn table(
        &mut self,
        place: fn(&mut Track) -> &mut Option<Table>,
        name: &'static str,
        width: u64,
        size: u64,
    ) -> Result<(), Fail> {
        let table = self.read_table(name, width, size)?;
        if place(self.track_mut()).is_some() {
            return self.twice(name);
        }
        *place(self.track_mut()) = Some(table);
        self.skip(size);
        Ok(())
    }

    fn read_table(&mut self, name: &'static str, width: u64, size: u64) -> Result<Table, Fail> {
        if size < 8 {
            return self.small(name);
        }
        let entries = self.byte32(4);
        if 8 + u64::from(entries) * width > size {
            return self.small(name);
        }
        let span = self.span(&four(name), size);
        let head = Span { end: span.start + 16, ..span };
        let data = Span { start: head.end, end: head.end + (u64::from(entries) * width) as usize };
        Ok(Table { head, data, entries })
    }

    fn chunks(&mut self, wide: bool, size: u64) -> Result<(), Fail> {
        let table = self.read_table(if wide { "co64" } else { "stco" }, if wide { 8 } else { 4 }, size)?;
        if self.track_mut().chunks.is_some() {
            return self.twice("stco/co64");
        }
        self.track_mut().chunks = Some((table, wide));
        self.skip(size);
        Ok(())
    }

    fn stsz(&mut self, size: u64) -> Result<(), Fail> {
        if size < 12 {
            return self.small("stsz");
        }
        let (uniform, entries) = (self.byte32(4), self.byte32(8));
        if self.track_mut().stsz.is_some() {
            return self.twice("stsz");
        }
        if uniform == 0 && 12 + u64::from(entries) * 4 > size {
            return self.small("stsz");
        }
        let span = self.span(b"stsz", size);
        let head = Span { end: span.start + 20, ..span };
        let length = if uniform == 0 { entries as usize * 4 } else { 0 };
        let data = Span { start: head.end, end: head.end + length };
        let track = self.track_mut();
        track.same_size = uniform != 0;
        track.stsz = Some(Table { head, data, entries });
        self.skip(size);
        Ok(())
    }
}

fn four(name: &str) -> [u8; 4] {
    let mut four = [b' '; 4];
    four.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    four
}

fn is_known(level: Level, name: &[u8; 4]) -> bool {
    let known: &[&[u8; 4]] = match level {
        Level::File => &[b"ftyp", b"moov", b"mdat"],
        Level::Moov => &[b"mvhd", b"trak", b"cmov"],
        Level::Track => &[b"tkhd", b"mdia"],
        Level::Media => &[b"mdhd", b"hdlr", b"minf"],
        Level::Information => &[b"vmhd", b"smhd", b"dinf", b"stbl"],
        Level::Samples => &[b"stsd", b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco", b"co64"],
    };
    known.contains(&name)
}
