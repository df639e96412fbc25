//! The search for texts in a body that comes in pieces.
//!
//! As in nginx, the leftmost place at which a text begins decides, and at the same place the text
//! that is named first. A text of which only the beginning has come is waited for, even where one
//! named after it is already whole; if the body ends meanwhile, nothing of its end is replaced.

use crate::http::body::{Body, BodyError, BodyStream};
use bytes::{Buf, Bytes, BytesMut};
use std::sync::Arc;
use std::task::{Context, Poll};

/// Texts to look for, without regard to the case of ASCII letters.
#[derive(Debug)]
pub struct Matcher {
    /// In lower case, none of them empty.
    texts: Vec<Vec<u8>>,
    /// The bytes with which they begin, in either case.
    first: Vec<u8>,
    begins: [bool; 256],
}

impl Matcher {
    /// Texts in the order in which they are tried.
    pub fn new(texts: impl IntoIterator<Item = Bytes>) -> Matcher {
        let texts: Vec<Vec<u8>> = texts.into_iter().map(|t| t.to_ascii_lowercase()).collect();
        let mut begins = [false; 256];
        for byte in texts.iter().filter_map(|text| text.first()) {
            begins[usize::from(*byte)] = true;
            begins[usize::from(byte.to_ascii_uppercase())] = true;
        }
        let first = (0..=255u8).filter(|b| begins[usize::from(*b)]).collect();
        Matcher { texts, first, begins }
    }

    /// The next place at which a text may begin.
    fn candidate(&self, data: &[u8]) -> Option<usize> {
        match *self.first.as_slice() {
            [] => None,
            [a] => memchr::memchr(a, data),
            [a, b] => memchr::memchr2(a, b, data),
            [a, b, c] => memchr::memchr3(a, b, c, data),
            _ => data.iter().position(|byte| self.begins[usize::from(*byte)]),
        }
    }
}

/// What is at the beginning of some bytes.
enum At {
    Nothing,
    /// This text.
    Text(usize),
    /// The beginning of a text, whose rest has not come.
    Beginning,
}

/// Bytes that are looked at before others on the worker have their turn.
const TURN: usize = 256 * 1024;
/// Bytes that are worth sending.
const WORTH: usize = 16 * 1024;
/// Bytes that are sent as they are rather than copied together with others.
const LARGE: usize = 4 * 1024;

/// A body in which texts are replaced as it is taken. Its memory is bounded by a piece of the body,
/// the longest text, and a piece of output with one replacement.
pub struct Replaced {
    inner: Body,
    matcher: Arc<Matcher>,
    /// What replaces each text.
    replacements: Vec<Bytes>,
    /// With `sub_filter_once`: the texts that were replaced.
    used: Option<Vec<bool>>,
    /// What has come and is not yet decided about.
    data: Bytes,
    /// Whether `data` is the beginning of a text and more is needed.
    waiting: bool,
    /// Bytes left of this turn.
    turn: usize,
    ended: bool,
}

impl Replaced {
    /// `replacements` are in the order of the matcher's texts.
    pub fn new(inner: Body, matcher: Arc<Matcher>, replacements: Vec<Bytes>, once: bool) -> Replaced {
        let used = once.then(|| vec![false; replacements.len()]);
        let data = Bytes::new();
        Replaced { inner, matcher, replacements, used, data, waiting: false, turn: TURN, ended: false }
    }

    fn is_used(&self, text: usize) -> bool {
        self.used.as_ref().is_some_and(|used| used[text])
    }

    /// What `data` begins with.
    fn at(&mut self, from: usize) -> At {
        let data = &self.data[from..];
        for (i, text) in self.matcher.texts.iter().enumerate() {
            if self.is_used(i) {
                continue;
            }
            let same = text.iter().zip(data).take_while(|(t, d)| **t == d.to_ascii_lowercase()).count();
            // One that does not even begin alike was looked at too, and there may be many.
            self.turn = self.turn.saturating_sub(same + 1);
            if same == text.len() {
                return At::Text(i);
            }
            if same == data.len() {
                return At::Beginning;
            }
        }
        At::Nothing
    }

    /// Decides about what is at hand, up to a piece of output.
    fn replace(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        // What lies before `from` is no text.
        let mut from = 0;
        while !self.data.is_empty() && out.len() < WORTH {
            if self.used.as_ref().is_some_and(|used| used.iter().all(|used| *used)) {
                if out.is_empty() {
                    return std::mem::take(&mut self.data);
                }
                return out.freeze();
            }
            let found = self.matcher.candidate(&self.data[from..]).map_or(self.data.len(), |at| from + at);
            self.turn = self.turn.saturating_sub(found - from);
            from = found;
            let at = if from == self.data.len() { At::Beginning } else { self.at(from) };
            let replacement = match at {
                At::Nothing => {
                    from += 1;
                    if self.turn > 0 {
                        continue;
                    }
                    None
                }
                At::Text(i) => {
                    if let Some(used) = &mut self.used {
                        used[i] = true;
                    }
                    Some(i)
                }
                At::Beginning => {
                    self.waiting = from < self.data.len();
                    None
                }
            };
            let before = self.data.split_to(from);
            from = 0;
            if let Some(i) = replacement {
                self.data.advance(self.matcher.texts[i].len());
                out.extend_from_slice(&before);
                out.extend_from_slice(&self.replacements[i]);
            } else if out.is_empty() && before.len() >= LARGE {
                return before;
            } else {
                out.extend_from_slice(&before);
            }
            if self.waiting || self.turn == 0 {
                break;
            }
        }
        out.freeze()
    }
}

impl BodyStream for Replaced {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.ended {
                let rest = std::mem::take(&mut self.data);
                return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
            }
            if self.turn == 0 {
                self.turn = TURN;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.waiting && !self.data.is_empty() {
                let out = self.replace();
                if !out.is_empty() {
                    return Poll::Ready(Some(Ok(out)));
                }
                continue;
            }
            match self.inner.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) if self.waiting => {
                    self.data = [&self.data[..], &piece[..]].concat().into();
                    self.waiting = false;
                }
                Poll::Ready(Some(Ok(piece))) => self.data = piece,
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                Poll::Ready(None) => self.ended = true,
            }
        }
    }

    fn flush_each(&self) -> bool {
        self.inner.flush_each()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    fn matcher(texts: &[&str]) -> Arc<Matcher> {
        Arc::new(Matcher::new(texts.iter().map(|t| Bytes::copy_from_slice(t.as_bytes()))))
    }

    fn run(pieces: VecDeque<Bytes>, pairs: &[(&str, &str)], once: bool) -> String {
        let texts: Vec<&str> = pairs.iter().map(|(text, _)| *text).collect();
        let with = pairs.iter().map(|(_, with)| Bytes::copy_from_slice(with.as_bytes())).collect();
        let mut body = Replaced::new(Body::Pieces(pieces), matcher(&texts), with, once);
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => {}
                Poll::Ready(None) => return String::from_utf8(out).unwrap(),
                Poll::Ready(Some(piece)) => out.extend_from_slice(&piece.unwrap()),
            }
        }
    }

    fn whole(text: &str, pairs: &[(&str, &str)], once: bool) -> String {
        run([Bytes::copy_from_slice(text.as_bytes())].into(), pairs, once)
    }

    #[test]
    fn the_leftmost_and_then_the_first_named() {
        let always = |text, pairs: &[(&str, &str)]| whole(text, pairs, false);
        assert_eq!(always("a b A", &[("a", "x")]), "x b x");
        assert_eq!(always("abc abd", &[("abd", "1"), ("ab", "2")]), "2c 1");
        assert_eq!(always("abd.", &[("ab", "2"), ("abd", "1")]), "2d.");
        assert_eq!(always("xaab", &[("aab", "1"), ("a", "2")]), "x1");
        assert_eq!(always("aaa", &[("aa", "")]), "a");
        assert_eq!(always("", &[("a", "b")]), "");
        // nginx waits for the rest of the first, and the body ends.
        assert_eq!(always("ab ab", &[("abc", "1"), ("ab", "2")]), "2 ab");
    }

    #[test]
    fn once_is_once_for_each() {
        assert_eq!(whole("a b a b", &[("a", "1"), ("b", "2")], true), "1 2 a b");
        assert_eq!(whole("a a a", &[("a", "1"), ("a", "2")], true), "1 2 a");
    }

    /// The definition, on the whole.
    fn defined(text: &str, pairs: &[(String, String)], once: bool) -> String {
        let (mut out, mut rest) = (String::new(), text);
        let mut used = vec![false; pairs.len()];
        'place: while !rest.is_empty() {
            for (i, (text, with)) in pairs.iter().enumerate() {
                if once && used[i] {
                    continue;
                }
                let lower = rest.to_ascii_lowercase();
                if lower.starts_with(text.as_str()) {
                    out.push_str(with);
                    rest = &rest[text.len()..];
                    used[i] = true;
                    continue 'place;
                }
                if text.starts_with(lower.as_str()) {
                    break 'place;
                }
            }
            out.push_str(&rest[..1]);
            rest = &rest[1..];
        }
        out + rest
    }

    proptest::proptest! {
        #[test]
        fn pieces_make_no_difference(
            pieces in proptest::collection::vec("[abAB]{0,6}", 0..12),
            pairs in proptest::collection::vec(("[ab]{1,5}", "[xy]{0,2}"), 1..4),
            once: bool,
        ) {
            let text = pieces.concat();
            let want = defined(&text, &pairs, once);
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let pieces = pieces.iter().map(|p| Bytes::copy_from_slice(p.as_bytes())).collect();
            proptest::prop_assert_eq!(run(pieces, &pairs, once), want);
        }

        #[test]
        fn large_bodies(step in 1usize..40_000, gap in 1usize..30_000) {
            let text = format!("{}needle", "x".repeat(gap)).repeat(300_000 / gap + 1);
            let pieces = text.as_bytes().chunks(step).map(Bytes::copy_from_slice).collect();
            let want = text.replace("needle", "thread!");
            proptest::prop_assert!(run(pieces, &[("needle", "thread!")], false) == want);
        }
    }

    #[test]
    fn a_large_body_is_searched_in_turns_and_passed_on_uncopied() {
        let text = Bytes::from(vec![b'x'; 4 << 20]);
        let mut body = Replaced::new(Body::Bytes(text.clone()), matcher(&["yy"]), vec![Bytes::new()], false);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(piece))) = body.poll_next(&mut cx) else { panic!("a piece") };
        assert_eq!(piece.as_ptr(), text.as_ptr());
        // A text of which every byte is nearly one costs turns.
        let texts = ["a".repeat(2000) + "b"];
        let data = Bytes::from(vec![b'a'; 10_000]);
        let mut body = Replaced::new(Body::Bytes(data), matcher(&[&texts[0]]), vec![Bytes::new()], false);
        let mut turns = 0;
        loop {
            match body.poll_next(&mut cx) {
                Poll::Pending => turns += 1,
                Poll::Ready(None) => break,
                Poll::Ready(Some(_)) => {}
            }
        }
        assert!(turns >= 7_000 * 2_000 / TURN, "{turns}");
    }
}
