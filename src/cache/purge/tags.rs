//! Tags: what an upstream calls its answer by besides its key, so that all that shows one article,
//! say, can be purged together.

use crate::http::response::Fields;

/// The fields of an answer that hold its tags: Cloudflare's name and Fastly's.
const FIELDS: [&str; 2] = ["cache-tag", "surrogate-key"];

/// The longest tag that is heeded, in bytes.
pub const LONGEST: usize = 1024;

/// The most tags of an answer that are heeded.
pub const MOST: usize = 1000;

/// The tags in a value, which stand apart by commas, blanks, or both.
pub fn split(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| matches!(b, b',' | b' ' | b'\t')).filter(|tag| !tag.is_empty())
}

/// The tags of an answer with these fields, as far as they are heeded.
pub fn of(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    let values = FIELDS.iter().flat_map(|name| fields.all(name));
    values.flat_map(|value| split(value)).filter(|tag| tag.len() <= LONGEST).take(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn list(fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut all = Fields::default();
        for (name, value) in fields {
            all.add_static(name, Bytes::copy_from_slice(value.as_bytes()));
        }
        of(&all).map(|tag| String::from_utf8_lossy(tag).into_owned()).collect()
    }

    #[test]
    fn tags_stand_in_both_fields_apart_by_commas_or_blanks() {
        let fields = [("Cache-Tag", "a, b,,c"), ("surrogate-key", " d\te "), ("CACHE-TAG", "f"), ("X", "g")];
        assert_eq!(list(&fields), ["a", "b", "c", "f", "d", "e"]);
        assert!(list(&[("Cache-Tag", ""), ("Surrogate-Key", " , ")]).is_empty());
    }

    #[test]
    fn too_long_and_too_many_are_not_heeded() {
        let (long, fits) = ("x".repeat(LONGEST + 1), "y".repeat(LONGEST));
        assert_eq!(list(&[("Cache-Tag", &format!("{long},{fits},z"))]), [fits.as_str(), "z"]);
        let many: Vec<String> = (0..MOST + 5).map(|n| n.to_string()).collect();
        assert_eq!(list(&[("Surrogate-Key", &many.join(" "))]).len(), MOST);
    }
}
