//! Lists of media types, as `gzip_types`, `sub_filter_types` and others have them, and the type and
//! charset of a response as nginx tells them apart.

use crate::conf::{Builder, ConfResult, Directive, NoteLevel, Setting};
use crate::http::response::Response;
use crate::modules::LocConf;
use bytes::Bytes;

/// `text/html`, which stands in every list but the one that is `*`.
pub const HTML: Bytes = Bytes::from_static(b"text/html");

/// A list of media types.
#[derive(Clone, Debug)]
pub enum Types {
    /// `*`
    All,
    /// These, in lower case.
    These(Vec<Bytes>),
}

impl Types {
    /// The list that most directives have when nothing is configured.
    pub fn html() -> Types {
        Types::These(vec![HTML])
    }

    /// Whether a response's type is among them (ngx_http_test_content_type).
    pub fn has(&self, response: &Response) -> bool {
        match self {
            Types::All => true,
            Types::These(list) => {
                let kind = split(response).0;
                !kind.is_empty() && list.iter().any(|t| t.eq_ignore_ascii_case(kind))
            }
        }
    }
}

/// Reads such a directive; `field` is where its level keeps the list. What is named is added to
/// `text/html` (ngx_http_types_slot).
pub fn read(
    b: &mut Builder,
    d: &Directive,
    field: fn(&mut LocConf) -> &mut Setting<Types>,
) -> ConfResult<()> {
    if !field(b.loc()).is_set() {
        field(b.loc()).replace(Types::html());
    }
    for kind in &d.args {
        let types = field(b.loc()).edit();
        if kind == "*" {
            *types = Types::All;
        }
        let Types::These(list) = types else { return Ok(()) };
        let lower = Bytes::from(kind.to_ascii_lowercase());
        if list.contains(&lower) {
            b.note(NoteLevel::Warn, format!("duplicate MIME type \"{kind}\""));
        } else {
            list.push(lower);
        }
    }
    Ok(())
}

/// A response's media type without its charset, and its charset. Of what an upstream sent the type
/// ends where `charset` begins, whatever other parameters stand before it; of a type of ours all is
/// type (ngx_http_upstream_copy_content_type).
pub fn split(response: &Response) -> (&[u8], Option<&[u8]>) {
    let whole: &[u8] = response.content_type.as_deref().unwrap_or_default();
    match response.type_length {
        Some(length) => (&whole[..length], scan(&whole[length..]).1),
        None if response.upstream => scan(whole),
        None => (whole, None),
    }
}

/// How many bytes of an upstream's type are the type, for what is sent with it in place of its answer.
pub fn type_length(whole: &[u8]) -> usize {
    scan(whole).0.len()
}

fn scan(whole: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut from = 0;
    while let Some(semicolon) = memchr::memchr(b';', &whole[from..]).map(|at| from + at) {
        from = semicolon + 1;
        let blanks = whole[from..].iter().take_while(|b| **b == b' ').count();
        let parameter = &whole[from + blanks..];
        if parameter.len() >= 8 && parameter[..8].eq_ignore_ascii_case(b"charset=") {
            let charset = &parameter[8..];
            let charset = charset.strip_prefix(b"\"").unwrap_or(charset);
            return (&whole[..semicolon], Some(charset.strip_suffix(b"\"").unwrap_or(charset)));
        }
    }
    (whole, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &'static str, upstream: bool) -> Response {
        Response { content_type: Some(Bytes::from_static(text.as_bytes())), upstream, ..Response::default() }
    }

    #[test]
    fn type_and_charset_as_nginx_tells_them_apart() {
        for (text, kind, charset) in [
            ("text/html", "text/html", None),
            ("text/html; charset=utf-8", "text/html", Some("utf-8")),
            ("text/html;CHARSET=\"koi8-r\"", "text/html", Some("koi8-r")),
            ("text/html ; charset=x; y=z", "text/html ", Some("x; y=z")),
            ("text/html; a=b; charset=x", "text/html; a=b", Some("x")),
            ("text/html; a=b", "text/html; a=b", None),
            ("text/html;", "text/html;", None),
            ("", "", None),
        ] {
            let response = of(text, true);
            let got = split(&response);
            assert_eq!(got, (kind.as_bytes(), charset.map(str::as_bytes)), "{text}");
        }
        assert_eq!(split(&of("text/html; charset=utf-8", false)).1, None);
    }

    #[test]
    fn types_have_no_case_and_a_star_is_all() {
        let list = Types::These(vec![HTML, Bytes::from_static(b"text/css")]);
        assert!(list.has(&of("Text/CSS; charset=x", true)));
        assert!(!list.has(&of("text/css; a=b", true)));
        assert!(!list.has(&of("", true)));
        assert!(Types::All.has(&Response::default()));
    }
}
