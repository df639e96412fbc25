//! Cutting the tables of a track to the time that is wanted (ngx_http_mp4_update_…_atom).
//!
//! The arithmetic is nginx's, its width included: files that say nonsense have the same answers.

use super::boxes::{File, Span, Table, Track, get32, get64, put};
use super::{Fail, Wanted};

/// What is sent: the bytes before the media, and the part of the file that is its media.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// `ftyp`, `moov` and the head of `mdat`.
    pub head: Vec<u8>,
    /// Where the media lies in the file.
    pub media: std::ops::Range<u64>,
}

/// What cutting a track found out.
#[derive(Debug, Default)]
struct TrackCut {
    start_sample: u64,
    end_sample: u64,
    start_chunk: u64,
    end_chunk: u64,
    /// Samples of the first chunk that are left out, and their bytes.
    start_chunk_samples: u32,
    start_chunk_bytes: u64,
    /// Samples of the last chunk that are kept, and their bytes.
    end_chunk_samples: u32,
    end_chunk_bytes: u64,
    /// Media between the key frame and the start, which is sent and not shown.
    prefix: u64,
    stsc_first: Option<[u32; 3]>,
    stsc_last: Option<[u32; 3]>,
    start_offset: u64,
    end_offset: u64,
    /// Bytes of the track's boxes.
    size: u64,
}

/// Cuts a file.
pub(super) fn cut(mut file: File, wanted: &Wanted, size: u64) -> Result<Cut, Fail> {
    let fail = |text: &str| Err(Fail::Error(format!("{text} \"{}\"", wanted.name)));
    if file.tracks.is_empty() {
        return fail("no mp4 trak atoms were found in");
    }
    let Some((_, mdat_end)) = file.mdat else { return fail("no mp4 mdat atom was found in") };
    let mut tracks = std::mem::take(&mut file.tracks);
    let mut moov_size = file.mvhd.map_or(0, Span::len) as u64;
    let (mut start, mut end) = (size, 0);
    let mut cuts = Vec::with_capacity(tracks.len());
    for track in &mut tracks {
        let mut cutter =
            Cutter { moov: &mut file.moov, track, wanted, size, mdat_end, cut: TrackCut::default() };
        cutter.run()?;
        let cut = cutter.cut;
        moov_size += cut.size;
        start = start.min(cut.start_offset);
        end = end.max(cut.end_offset);
        cuts.push(cut);
    }
    if end <= start {
        return fail("no data between start time and end time in");
    }
    moov_size += 8;
    if start > mdat_end {
        return fail("start time is out mp4 mdat atom in");
    }
    let media = end - start;
    let mut mdat = Vec::new();
    if media > u64::from(u32::MAX) {
        mdat.extend_from_slice(&1u32.to_be_bytes());
        mdat.extend_from_slice(b"mdat");
        mdat.extend_from_slice(&(16 + media).to_be_bytes());
    } else {
        mdat.extend_from_slice(&((8 + media) as u32).to_be_bytes());
        mdat.extend_from_slice(b"mdat");
    }
    let ftyp = file.ftyp.take().unwrap_or_default();
    let shift = (ftyp.len() as u64 + moov_size + mdat.len() as u64).wrapping_sub(start);
    let mut head = ftyp;
    head.extend_from_slice(&(moov_size as u32).to_be_bytes());
    head.extend_from_slice(b"moov");
    let moov = &mut file.moov;
    append(moov, file.mvhd, &mut head);
    for (track, cut) in tracks.iter().zip(&cuts) {
        shift_chunks(moov, track, shift);
        write_track(moov, track, cut, &mut head);
    }
    head.extend_from_slice(&mdat);
    Ok(Cut { head, media: start..end })
}

fn append(moov: &[u8], span: Option<Span>, out: &mut Vec<u8>) {
    if let Some(bytes) = span.and_then(|span| moov.get(span.start..span.end)) {
        out.extend_from_slice(bytes);
    }
}

/// Moves the offsets of chunks to where they are in what is sent.
fn shift_chunks(moov: &mut [u8], track: &Track, shift: u64) {
    let Some((table, wide)) = track.chunks else { return };
    for at in (table.data.start..table.data.end).step_by(if wide { 8 } else { 4 }) {
        if wide {
            let value = get64(moov, at).unwrap_or(0).wrapping_add(shift);
            put(moov, at, &value.to_be_bytes());
        } else {
            let value = get32(moov, at).unwrap_or(0).wrapping_add(shift as u32);
            put(moov, at, &value.to_be_bytes());
        }
    }
}

/// An edit list that has what comes before the start not shown.
fn edit_list(track: &Track, cut: &TrackCut) -> Vec<u8> {
    let mut edts = Vec::with_capacity(EDIT_LIST as usize);
    edts.extend_from_slice(&(EDIT_LIST as u32).to_be_bytes());
    edts.extend_from_slice(b"edts");
    edts.extend_from_slice(&(EDIT_LIST as u32 - 8).to_be_bytes());
    edts.extend_from_slice(b"elst");
    edts.extend_from_slice(&[1, 0, 0, 0]);
    edts.extend_from_slice(&1u32.to_be_bytes());
    edts.extend_from_slice(&track.movie_duration.to_be_bytes());
    edts.extend_from_slice(&cut.prefix.to_be_bytes());
    edts.extend_from_slice(&[0, 1, 0, 0]);
    edts
}

const EDIT_LIST: u64 = 44;

fn write_track(moov: &[u8], track: &Track, cut: &TrackCut, out: &mut Vec<u8>) {
    append(moov, Some(track.head), out);
    append(moov, track.tkhd, out);
    if cut.prefix > 0 {
        out.extend_from_slice(&edit_list(track, cut));
    }
    for span in [
        track.mdia, track.mdhd, track.hdlr, track.minf, track.vmhd, track.smhd, track.dinf, track.stbl,
        track.stsd,
    ] {
        append(moov, span, out);
    }
    let mut table = |table: &Option<Table>, first: Option<[u32; 3]>, last: Option<[u32; 3]>| {
        let Some(table) = table else { return };
        append(moov, Some(table.head), out);
        for value in first.iter().flatten() {
            out.extend_from_slice(&value.to_be_bytes());
        }
        append(moov, Some(table.data), out);
        for value in last.iter().flatten() {
            out.extend_from_slice(&value.to_be_bytes());
        }
    };
    table(&track.stts, None, None);
    table(&track.stss, None, None);
    table(&track.ctts, None, None);
    table(&track.stsc, cut.stsc_first, cut.stsc_last);
    table(&track.stsz, None, None);
    table(&track.chunks.map(|(table, _)| table), None, None);
}

struct Cutter<'a> {
    moov: &'a mut Vec<u8>,
    track: &'a mut Track,
    wanted: &'a Wanted,
    /// Bytes of the file.
    size: u64,
    mdat_end: u64,
    cut: TrackCut,
}

impl Cutter<'_> {
    fn run(&mut self) -> Result<(), Fail> {
        self.cut.size = self.track.stsd.map_or(0, Span::len) as u64;
        self.stts()?;
        self.stss();
        self.ctts();
        self.stsc()?;
        self.stsz()?;
        self.chunks()?;
        let track = &*self.track;
        let whole = |span: Option<Span>| span.map_or(0, Span::len) as u64;
        self.cut.size += 8;
        let stbl = self.cut.size;
        self.cut.size += 8 + whole(track.vmhd) + whole(track.smhd) + whole(track.dinf);
        let minf = self.cut.size;
        self.cut.size += whole(track.mdhd) + whole(track.hdlr);
        self.cut.size += 8;
        let mdia = self.cut.size;
        self.cut.size += whole(track.tkhd);
        if self.cut.prefix > 0 {
            self.cut.size += EDIT_LIST;
        }
        self.cut.size += 8;
        let (head, boxes) = (track.head, [(track.stbl, stbl), (track.minf, minf), (track.mdia, mdia)]);
        self.put_size(head, self.cut.size);
        for (span, size) in boxes {
            if let Some(span) = span {
                self.put_size(span, size);
            }
        }
        self.mdhd();
        Ok(())
    }

    fn fail<T>(&self, text: impl std::fmt::Display) -> Result<T, Fail> {
        Err(Fail::Error(format!("{text} \"{}\"", self.wanted.name)))
    }

    fn at(&self, at: usize) -> u32 {
        get32(self.moov, at).unwrap_or(0)
    }

    fn put(&mut self, at: usize, value: u32) {
        put(self.moov, at, &value.to_be_bytes());
    }

    fn put_size(&mut self, span: Span, size: u64) {
        self.put(span.start, size as u32);
    }

    /// Writes a table's new size and number of entries, and counts it.
    fn close(&mut self, table: Table, entries: u32) {
        let size = (table.head.len() + table.data.len()) as u64;
        self.count(table, size, entries);
    }

    fn count(&mut self, table: Table, size: u64, entries: u32) {
        self.cut.size += size;
        self.put_size(table.head, size);
        self.put(table.head.end - 4, entries);
    }

    fn mdhd(&mut self) {
        let Some(span) = self.track.mdhd else { return };
        let wide = self.moov.get(span.start + 8).is_some_and(|version| *version != 0);
        let duration = self.track.duration.wrapping_add(self.cut.prefix);
        if wide {
            put(self.moov, span.start + 32, &duration.to_be_bytes());
        } else {
            self.put(span.start + 24, duration as u32);
        }
    }

    fn stts(&mut self) -> Result<(), Fail> {
        let Some(mut table) = self.track.stts else { return self.fail("no mp4 stts atoms were found in") };
        self.crop_stts(&mut table, true)?;
        self.crop_stts(&mut table, false)?;
        self.close(table, table.entries);
        self.track.stts = Some(table);
        Ok(())
    }

    /// Finds the sample at the start, or at the end, of what is wanted.
    fn crop_stts(&mut self, table: &mut Table, start: bool) -> Result<(), Fail> {
        let at = if start { self.wanted.start } else { self.wanted.length };
        if !start && at == 0 {
            return Ok(());
        }
        let mut time =
            (at.wrapping_mul(u64::from(self.track.timescale)) / 1000).wrapping_add(self.cut.prefix);
        let mut entries = table.entries;
        let mut sample = 0u64;
        let mut entry = table.data.start;
        while entry < table.data.end {
            let (count, duration) = (self.at(entry), self.at(entry + 4));
            let all = u64::from(count) * u64::from(duration);
            if time < all {
                let rest = (time / u64::from(duration)) as u32;
                sample += u64::from(rest);
                if start {
                    return self.begin_stts(table, entry, entries, rest, sample);
                }
                self.put(entry, rest);
                table.data.end = entry + 8;
                table.entries = table.entries.wrapping_sub(entries.wrapping_sub(1));
                self.cut.end_sample = self.cut.start_sample + sample;
                return Ok(());
            }
            sample += u64::from(count);
            time -= all;
            entries = entries.wrapping_sub(1);
            entry += 8;
        }
        if start {
            return self.fail("start time is out mp4 stts samples in");
        }
        self.cut.end_sample = self.cut.start_sample + sample;
        Ok(())
    }

    /// Begins at a sample, or with `mp4_start_key_frame` at the key frame before it.
    fn begin_stts(
        &mut self,
        table: &mut Table,
        mut entry: usize,
        mut entries: u32,
        mut rest: u32,
        sample: u64,
    ) -> Result<(), Fail> {
        let back = self.back_to_key_frame(sample);
        let mut left = back;
        while rest < left {
            let time = u64::from(rest) * u64::from(self.at(entry + 4));
            self.cut.prefix = self.cut.prefix.wrapping_add(time);
            left -= rest;
            if entry < table.data.start + 8 {
                return self.fail("start time is out mp4 stts samples in");
            }
            entry -= 8;
            entries = entries.wrapping_add(1);
            rest = self.at(entry);
        }
        let time = u64::from(left) * u64::from(self.at(entry + 4));
        self.cut.prefix = self.cut.prefix.wrapping_add(time);
        rest -= left;
        let count = self.at(entry);
        self.put(entry, count.wrapping_sub(rest));
        table.data.start = entry;
        table.entries = entries;
        self.cut.start_sample = sample.saturating_sub(u64::from(back));
        Ok(())
    }

    /// Samples from the key frame up to `sample`.
    fn back_to_key_frame(&self, sample: u64) -> u32 {
        let Some(stss) = self.track.stss.filter(|_| self.wanted.key_frame) else { return 0 };
        // Samples are counted from 1 there.
        let sample = (sample + 1) as u32;
        let mut back = 0;
        for at in (stss.data.start..stss.data.end).step_by(4) {
            let key = self.at(at);
            if key > sample {
                break;
            }
            back = sample - key;
        }
        back
    }

    fn stss(&mut self) {
        let Some(mut table) = self.track.stss else { return };
        let first = (self.cut.start_sample + 1) as u32;
        let find = |this: &Self, table: &Table, sample: u32| {
            let mut at = table.data.start;
            let mut entries = table.entries;
            while at < table.data.end && this.at(at) < sample {
                at += 4;
                entries = entries.wrapping_sub(1);
            }
            (at, entries)
        };
        let (at, entries) = find(self, &table, first);
        table.data.start = at;
        table.entries = entries;
        if self.wanted.length > 0 {
            let (at, entries) = find(self, &table, (self.cut.end_sample + 1) as u32);
            table.data.end = at;
            table.entries = table.entries.wrapping_sub(entries);
        }
        for at in (table.data.start..table.data.end).step_by(4) {
            let sample = self.at(at).wrapping_sub(self.cut.start_sample as u32);
            self.put(at, sample);
        }
        self.close(table, table.entries);
        self.track.stss = Some(table);
    }

    fn ctts(&mut self) {
        let Some(mut table) = self.track.ctts else { return };
        self.crop_ctts(&mut table, (self.cut.start_sample + 1) as u32, true);
        if self.wanted.length > 0 {
            let sample = (self.cut.end_sample.wrapping_sub(self.cut.start_sample) + 1) as u32;
            self.crop_ctts(&mut table, sample, false);
        }
        if table.entries == 0 {
            self.track.ctts = None;
            return;
        }
        self.close(table, table.entries);
        self.track.ctts = Some(table);
    }

    fn crop_ctts(&mut self, table: &mut Table, mut sample: u32, start: bool) {
        let mut entries = table.entries;
        let mut entry = table.data.start;
        while entry < table.data.end {
            let count = self.at(entry);
            if sample <= count {
                let rest = sample.wrapping_sub(1);
                if start {
                    self.put(entry, count.wrapping_sub(rest));
                    table.data.start = entry;
                    table.entries = entries;
                } else {
                    self.put(entry, rest);
                    table.data.end = entry + 8;
                    table.entries = table.entries.wrapping_sub(entries.wrapping_sub(1));
                }
                return;
            }
            sample -= count;
            entries = entries.wrapping_sub(1);
            entry += 8;
        }
        if start {
            table.data.start = table.data.end;
            table.entries = 0;
        }
    }

    fn stsc(&mut self) -> Result<(), Fail> {
        let Some(mut table) = self.track.stsc else { return self.fail("no mp4 stsc atoms were found in") };
        if table.entries == 0 {
            return self.fail("zero number of entries in stsc atom in");
        }
        self.crop_stsc(&mut table, true)?;
        if self.wanted.length > 0 {
            self.crop_stsc(&mut table, false)?;
        }
        for at in (table.data.start..table.data.end).step_by(12) {
            let chunk = self.at(at).wrapping_sub(self.cut.start_chunk as u32);
            self.put(at, chunk);
        }
        let added = 12 * (u64::from(self.cut.stsc_first.is_some()) + u64::from(self.cut.stsc_last.is_some()));
        let size = (table.head.len() + table.data.len()) as u64 + added;
        self.count(table, size, table.entries);
        self.track.stsc = Some(table);
        Ok(())
    }

    /// Finds the chunk of the first sample, or of the one after the last.
    fn crop_stsc(&mut self, table: &mut Table, start: bool) -> Result<(), Fail> {
        let which = if start { "start" } else { "end" };
        let mut entries = table.entries.wrapping_sub(1);
        let mut sample = if start {
            self.cut.start_sample as u32
        } else {
            let mut sample = self.cut.end_sample.wrapping_sub(self.cut.start_sample) as u32;
            if let Some(first) = &mut self.cut.stsc_first {
                entries = entries.wrapping_sub(1);
                first[1] = first[1].min(sample);
                sample -= first[1];
            }
            sample
        };
        let mut entry = table.data.start;
        let (mut chunk, mut samples, mut id) = (self.at(entry), self.at(entry + 4), self.at(entry + 8));
        let mut before = 0;
        entry += 12;
        let mut next;
        loop {
            let last = entry >= table.data.end;
            next = if last { self.chunk_count().wrapping_add(1) } else { self.at(entry) };
            if next < chunk {
                return self.fail("unordered mp4 stsc chunks in");
            }
            let all = (next - chunk).wrapping_mul(samples);
            if sample < all || last && sample == all {
                break;
            }
            if last {
                return self.fail(format_args!("{which} time is out mp4 stsc chunks in"));
            }
            sample -= all;
            before = samples;
            (chunk, samples, id) = (next, self.at(entry + 4), self.at(entry + 8));
            entries = entries.wrapping_sub(1);
            entry += 12;
        }
        entries = entries.wrapping_add(1);
        entry -= 12;
        if samples == 0 {
            return self.fail("zero number of samples in");
        }
        let target = u64::from(chunk.wrapping_sub(1)) + u64::from(sample / samples);
        let part = sample % samples;
        let kept;
        if start {
            table.data.start = entry;
            table.entries = entries;
            self.cut.start_chunk = target;
            self.cut.start_chunk_samples = part;
            self.put(entry, (target + 1) as u32);
            kept = samples - part;
        } else {
            if sample > 0 {
                table.data.end = entry + 12;
                table.entries = table.entries.wrapping_sub(entries.wrapping_sub(1));
                self.cut.end_chunk_samples = samples;
            } else {
                table.data.end = entry;
                table.entries = table.entries.wrapping_sub(entries);
                self.cut.end_chunk_samples = before;
            }
            self.cut.end_chunk = target;
            if part > 0 {
                self.cut.end_chunk = target + 1;
                self.cut.end_chunk_samples = part;
            }
            kept = part;
            next = chunk.wrapping_add(1);
        }
        if part > 0 && u64::from(next).wrapping_sub(target) == 2 {
            self.put(entry + 4, kept);
        } else if part > 0 && start {
            self.cut.stsc_first = Some([1, kept, id]);
            self.put(entry, (target + 2) as u32);
            table.entries = table.entries.wrapping_add(1);
        } else if part > 0 {
            let chunk = self.cut.end_chunk.wrapping_sub(self.cut.start_chunk) as u32;
            self.cut.stsc_last = Some([chunk, kept, id]);
            table.entries = table.entries.wrapping_add(1);
        }
        Ok(())
    }

    fn chunk_count(&self) -> u32 {
        self.track.chunks.map_or(0, |(table, _)| table.entries)
    }

    fn stsz(&mut self) -> Result<(), Fail> {
        let Some(mut table) = self.track.stsz else { return Ok(()) };
        if self.track.same_size {
            // nginx counts what may stand after it as well, and promises bytes that it does not send.
            let size = table.head.len() as u64;
            self.cut.size += size;
            self.put_size(table.head, size);
            return Ok(());
        }
        if self.cut.start_sample > u64::from(table.entries) {
            return self.fail("start time is out mp4 stsz samples in");
        }
        let first = table.data.start;
        let mut entries = table.entries - self.cut.start_sample as u32;
        table.data.start += self.cut.start_sample as usize * 4;
        let sum = |this: &Self, end: usize, samples: u32| {
            let start = end.checked_sub(samples as usize * 4).filter(|start| *start >= first)?;
            Some((start..end).step_by(4).map(|at| u64::from(this.at(at))).sum::<u64>())
        };
        let too_large = |which: &str| format!("too large mp4 {which} samples size in");
        self.cut.start_chunk_bytes = match sum(self, table.data.start, self.cut.start_chunk_samples) {
            Some(bytes) if bytes <= self.size => bytes,
            _ => return self.fail(too_large("start")),
        };
        if self.wanted.length > 0 {
            let samples = self.cut.end_sample.wrapping_sub(self.cut.start_sample);
            if samples > u64::from(entries) {
                return self.fail("end time is out mp4 stsz samples in");
            }
            entries = samples as u32;
            table.data.end = table.data.start + entries as usize * 4;
            self.cut.end_chunk_bytes = match sum(self, table.data.end, self.cut.end_chunk_samples) {
                Some(bytes) if bytes <= self.size => bytes,
                _ => return self.fail(too_large("end")),
            };
        }
        self.close(table, entries);
        self.track.stsz = Some(table);
        Ok(())
    }

    fn chunks(&mut self) -> Result<(), Fail> {
        let Some((mut table, wide)) = self.track.chunks else {
            return self.fail("no mp4 stco atoms were found in");
        };
        let (name, width) = if wide { ("co64", 8) } else { ("stco", 4) };
        if self.cut.start_chunk > u64::from(table.entries) {
            return self.fail(format_args!("start time is out mp4 {name} chunks in"));
        }
        let all = u64::from(table.entries);
        table.data.start += self.cut.start_chunk as usize * width;
        self.cut.start_offset = self.chunk_end(table.data.start, wide, self.cut.start_chunk_bytes)?;
        self.put_offset(table.data.start, wide, self.cut.start_offset);
        let entries;
        if self.wanted.length > 0 {
            if self.cut.end_chunk > all {
                return self.fail(format_args!("end time is out mp4 {name} chunks in"));
            }
            entries = self.cut.end_chunk.wrapping_sub(self.cut.start_chunk);
            if entries > all - self.cut.start_chunk {
                return self.fail(format_args!("end time is out mp4 {name} chunks in"));
            }
            table.data.end = table.data.start + entries as usize * width;
            if entries > 0 {
                let last = table.data.end - width;
                self.cut.end_offset = self.chunk_end(last, wide, self.cut.end_chunk_bytes)?;
            }
        } else {
            entries = all - self.cut.start_chunk;
            self.cut.end_offset = self.mdat_end;
        }
        if entries == 0 {
            self.cut.start_offset = self.size;
            self.cut.end_offset = 0;
        }
        self.close(table, entries as u32);
        self.track.chunks = Some((table, wide));
        Ok(())
    }

    /// Where a chunk's samples of so many bytes end.
    fn chunk_end(&self, at: usize, wide: bool, bytes: u64) -> Result<u64, Fail> {
        let offset = if wide {
            get64(self.moov, at).unwrap_or(0)
        } else {
            u64::from(get32(self.moov, at).unwrap_or(0))
        };
        if offset > self.size.saturating_sub(bytes) || !wide && offset + bytes > u64::from(u32::MAX) {
            return self.fail("too large chunk offset in");
        }
        Ok(offset + bytes)
    }

    fn put_offset(&mut self, at: usize, wide: bool, offset: u64) {
        if wide {
            put(self.moov, at, &offset.to_be_bytes());
        } else {
            self.put(at, offset as u32);
        }
    }
}
