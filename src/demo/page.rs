//! The page that plays the stream: files kept in the binary.

use super::response::Response;

/// A file of the page: its path, type and bytes.
type File = (&'static str, &'static str, &'static [u8]);

static FILES: [File; 4] = [
    ("/", "text/html; charset=utf-8", include_bytes!("page/index.html")),
    ("/player.js", "text/javascript; charset=utf-8", include_bytes!("page/player.js")),
    ("/player.css", "text/css; charset=utf-8", include_bytes!("page/player.css")),
    ("/favicon.svg", "image/svg+xml", include_bytes!("page/favicon.svg")),
];

/// The file at `path`; `None` if there is none.
pub fn file(path: &str) -> Option<Response> {
    let (_, content_type, bytes) = FILES.iter().find(|(name, ..)| *name == path)?;
    let response = Response::new(200, content_type, *bytes);
    Some(response.with("Cache-Control", "no-cache"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_page_refers_to_nothing_that_is_not_there() {
        let index = std::str::from_utf8(FILES[0].2).unwrap();
        let mut references = BTreeSet::new();
        for attribute in ["src=\"", "<link rel=\"stylesheet\" href=\"", "type=\"image/svg+xml\" href=\""] {
            for (at, _) in index.match_indices(attribute) {
                let target = index[at + attribute.len()..].split('"').next().unwrap();
                if target.starts_with("live/") {
                    continue;
                }
                assert!(file(&format!("/{target}")).is_some(), "{target}");
                references.insert(target);
            }
        }
        // All but the page itself.
        assert_eq!(references.len(), FILES.len() - 1);
    }

    #[test]
    fn the_page_needs_no_other_host() {
        for (name, _, bytes) in &FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            let namespace = "http://www.w3.org/2000/svg";
            assert!(!text.replace(namespace, "").contains("://"), "{name}");
        }
    }
}
