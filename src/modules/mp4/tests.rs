use super::*;

/// A film with a track of three key frames, as small as one can be.
fn film() -> Vec<u8> {
    fn boxed(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&(8 + body.len() as u32).to_be_bytes()[..], name, &body].concat()
    }
    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }
    let samples = boxed(
        b"stbl",
        &[
            &boxed(b"stsd", &[&words(&[0, 1, 8, 0x6d70_3461])]),
            &boxed(b"stts", &[&words(&[0, 1, 30, 100])]),
            &boxed(b"stss", &[&words(&[0, 3, 1, 11, 21])]),
            &boxed(b"ctts", &[&words(&[0, 1, 30, 0])]),
            &boxed(b"stsc", &[&words(&[0, 1, 1, 5, 1])]),
            &boxed(b"stsz", &[&words(&[0, 0, 30]), &words(&[10; 30])]),
            &boxed(b"stco", &[&words(&[0, 6]), &words(&[1000, 1050, 1100, 1150, 1200, 1250])]),
        ],
    );
    let media = boxed(
        b"mdia",
        &[
            &boxed(b"mdhd", &[&words(&[0, 0, 0, 1000, 3000, 0])]),
            &boxed(b"minf", &[&boxed(b"vmhd", &[&[0; 12]]), &samples]),
        ],
    );
    let track = boxed(b"trak", &[&boxed(b"tkhd", &[&words(&[0, 0, 0, 1, 0, 3000]), &[0; 60]]), &media]);
    let moov = boxed(b"moov", &[&boxed(b"mvhd", &[&words(&[0, 0, 0, 1000, 3000]), &[0; 80]]), &track]);
    let mut file = [boxed(b"ftyp", &[b"isom"]), moov].concat();
    assert!(file.len() < 992);
    let free = 992 - file.len();
    file.extend(boxed(b"free", &[&vec![0; free - 8]]));
    file.extend(boxed(b"mdat", &[&(0..300u32).map(|n| n as u8).collect::<Vec<_>>()]));
    file
}

fn wanted(start: u64, length: u64, key_frame: bool) -> Wanted {
    let name = "f.mp4".into();
    Wanted { start, length, key_frame, buffer_size: 512 << 10, max_buffer_size: 10 << 20, name }
}

fn cut_film(start: u64, length: u64, key_frame: bool) -> Result<Cut, Fail> {
    cut(&Bytes::from(film()), &wanted(start, length, key_frame))
}

#[test]
fn a_film_is_cut_at_samples_and_chunks() {
    assert_eq!(cut_film(0, 0, false), Err(Fail::Whole));
    // Sample 12 is the third of the third chunk; ten bytes each.
    assert_eq!(cut_film(1200, 0, false).unwrap().media, 1120..1300);
    assert_eq!(cut_film(1200, 500, false).unwrap().media, 1120..1170);
    // The key frame before it is sample 10, which begins that chunk.
    let with_key = cut_film(1200, 500, true).unwrap();
    assert_eq!(with_key.media, 1100..1170);
    assert!(memchr::memmem::find(&with_key.head, b"elst").is_some());
    assert!(matches!(cut_film(3000, 0, false), Err(Fail::Error(text)) if text.contains("no mp4 trak")));
    assert!(matches!(cut_film(3001, 0, false), Err(Fail::Error(text)) if text.contains("exceeds")));
}

#[test]
fn offsets_of_chunks_are_those_of_what_is_sent() {
    let Cut { head, media } = cut_film(1200, 500, false).unwrap();
    let at = memchr::memmem::find(&head, b"stco").unwrap();
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    assert_eq!((word(at + 8), word(at + 12) as usize), (2, head.len()));
    assert_eq!(word(at + 16) as usize, head.len() + 30);
    assert_eq!(u64::from(word(head.len() - 8)), 8 + media.end - media.start);
    let moov = memchr::memmem::find(&head, b"moov").unwrap();
    assert_eq!(word(moov - 4) as usize, head.len() - 8 - (moov - 4));
}

#[test]
fn a_description_beyond_the_bound_is_refused() {
    let wanted = Wanted { buffer_size: 64, max_buffer_size: 100, ..wanted(1000, 0, false) };
    let failed = cut(&Bytes::from(film()), &wanted);
    assert!(matches!(failed, Err(Fail::Error(text)) if text.contains("mp4_max_buffer_size")));
}

#[test]
fn times_as_nginx_reads_them() {
    for (text, want) in [
        ("12", Some(12_000)),
        ("1.5", Some(1_500)),
        ("1.23456789", Some(1_234)),
        (".5", Some(500)),
        ("5.", Some(5_000)),
        (".", Some(0)),
        ("", None),
        ("1.2.3", None),
        ("-1", None),
        ("1e3", None),
        ("9223372036854775807", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(milliseconds(text.as_bytes()), want, "{text}");
    }
    assert_eq!(times(b"start=1&end=3"), Some((1000, 2000)));
    assert_eq!(times(b"end=3"), Some((0, 3000)));
    assert_eq!(times(b"start=3&end=1"), Some((3000, 0)));
    assert_eq!(times(b"end=0"), None);
    assert_eq!(times(b"start=x&end=2"), Some((0, 2000)));
    assert_eq!(times(b""), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]
    #[test]
    fn any_film_is_cut_or_refused(
        changes in proptest::collection::vec((0usize..1300, proptest::prelude::any::<u8>()), 0..8),
        keep in 0usize..1400,
        start in 0u64..4000,
        length in 0u64..4000,
        key_frame in proptest::prelude::any::<bool>(),
        buffer_size in 0u64..2000,
    ) {
        let mut film = film();
        for (at, byte) in changes {
            if let Some(place) = film.get_mut(at) { *place = byte; }
        }
        film.truncate(keep);
        let film = Bytes::from(film);
        if let Ok(cut) = cut(&film, &Wanted { buffer_size, ..wanted(start, length, key_frame) }) {
            // What is promised has to be there.
            proptest::prop_assert!(cut.media.start <= cut.media.end);
            proptest::prop_assert!(cut.media.end <= film.len() as u64);
            proptest::prop_assert!(cut.head.len() <= film.len() + 200);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let _ = cut(&Bytes::from(bytes), &wanted(1, 0, true));
    }
}
