use super::body::{Processed, Settings};
use super::page::Page;
use super::parser::{Command, Parser, Token};
use crate::http::body::{Body, BodyStream};
use crate::observe::testing::Running;
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What a page comes to when it arrives in pieces cut at `cuts`; neighbouring texts are one.
fn tokens(page: &[u8], cuts: &[usize]) -> Vec<Token> {
    let mut parser = Parser::new(20);
    let mut found: Vec<Token> = Vec::new();
    let mut add = |token: Token| match (found.last_mut(), token) {
        (Some(Token::Text(before)), Token::Text(text)) => *before = [&before[..], &text].concat().into(),
        (_, token) => found.push(token),
    };
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (page.len() + 1)).collect();
    cuts.extend([0, page.len()]);
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let mut input = Bytes::copy_from_slice(&page[pair[0]..pair[1]]);
        while let Some(token) = parser.next(&mut input) {
            add(token);
        }
    }
    found
}

fn command(name: &str, parameters: &[(&str, &str)]) -> Token {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let parameters = parameters.iter().map(|(key, value)| (bytes(key), bytes(value))).collect();
    Token::Command(Command { name: bytes(name), parameters })
}

fn text(text: &'static str) -> Token {
    Token::Text(Bytes::from_static(text.as_bytes()))
}

#[test]
fn commands_are_found_in_text() {
    for (page, want) in [
        ("plain", vec![text("plain")]),
        ("a<!--#echo var=\"x\" -->b", vec![text("a"), command("echo", &[("var", "x")]), text("b")]),
        ("<!--# if\texpr = '$a = \"b\"'-->", vec![command("if", &[("expr", "$a = \"b\"")])]),
        ("<!--#echo var=\"a\\\"b\" -->", vec![command("echo", &[("var", "a\\\"b")])]),
        ("<<!--#else-->", vec![text("<"), command("else", &[])]),
        ("<!-<!--#else--><!-- # --><!--", vec![text("<!-"), command("else", &[]), text("<!-- # -->")]),
        ("a<!--#echo var=\"x\"", vec![text("a")]),
        (
            "<!--#echo var=x --> b",
            vec![
                Token::Broken(
                    "unexpected \"x\" symbol before value of \"var\" parameter in \"echo\" SSI command"
                        .into(),
                ),
                text(" b"),
            ],
        ),
    ] {
        assert_eq!(tokens(page.as_bytes(), &[]), want, "{page}");
    }
}

#[test]
fn text_with_tags_comes_in_one_piece() {
    let page = "<html><b>a</b> <!-- b --><i>c</i><!--".repeat(2);
    let mut input = Bytes::from(page + "#echo var=\"x\" --><p>d</p><");
    let mut parser = Parser::new(20);
    let found: Vec<Token> = std::iter::from_fn(|| parser.next(&mut input)).collect();
    let first = "<html><b>a</b> <!-- b --><i>c</i><!--<html><b>a</b> <!-- b --><i>c</i>";
    assert_eq!(found, [text(first), command("echo", &[("var", "x")]), text("<p>d</p>")]);
}

/// All that comes of a page of one location, and how often others had their turn meanwhile.
fn pull(running: &Running, page: Vec<u8>) -> (Vec<u8>, usize) {
    let page_of = Page::new(running.request("/"), Arc::default(), false);
    let settings = Settings { value_length: 256, set_length: 4096 };
    let pieces = page.chunks(64 * 1024).map(Bytes::copy_from_slice).collect();
    let mut body = Processed::new(Body::Pieces(pieces), page_of, settings);
    let mut cx = Context::from_waker(Waker::noop());
    let (mut out, mut turns) = (Vec::new(), 0);
    loop {
        match body.poll_next(&mut cx) {
            Poll::Pending => turns += 1,
            Poll::Ready(None) => return (out, turns),
            Poll::Ready(Some(piece)) => out.extend_from_slice(&piece.unwrap()),
        }
    }
}

#[test]
fn a_page_of_which_nothing_is_seen_is_read_in_turns() {
    let running = Running::start("server { listen LISTEN; ssi on; }");
    let page = [&b"<!--#if expr=\"\" -->"[..], &b"<p>".repeat(1 << 20), b"<!--#endif -->."].concat();
    let (out, turns) = pull(&running, page);
    assert_eq!(out, b".");
    assert!(turns >= 8, "{turns}");
    let (out, turns) = pull(&running, b"<!--#set var=\"a\" value=\"b\" -->".repeat(1000));
    assert_eq!(out, b"");
    assert!(turns >= 20, "{turns}");
}

#[test]
fn variables_that_are_made_of_themselves_do_not_grow_on() {
    let running = Running::start("server { listen LISTEN; ssi on; }");
    let mut page = format!("<!--#set var=\"a\" value=\"{}\" -->", "x".repeat(200)).into_bytes();
    page.extend(b"<!--#set var=\"a\" value=\"$a$a\" -->".repeat(12));
    page.extend(b"<!--#echo var=\"a\" -->");
    let (out, _) = pull(&running, page.clone());
    assert_eq!(out.iter().filter(|b| **b == b'x').count(), 200 << 8);
    assert!(out.starts_with(b"[an error occurred"));
    // Nor do many of them.
    let all = (0..100).flat_map(|n| format!("<!--#set var=\"b{n}\" value=\"$a\" -->").into_bytes());
    page.extend(all);
    page.extend(b"<!--#echo var=\"b5\" --><!--#echo var=\"b99\" -->");
    let (out, _) = pull(&running, page);
    assert_eq!(out.iter().filter(|b| **b == b'x').count(), (200 << 8) * 2);
    assert!(out.ends_with(b"(none)"));
}

#[test]
fn what_is_written_again_is_read_the_same() {
    for page in ["<!--#a b=\"c\" d='e \"f\"' -->", "<!--#a -->", "<!--#a b='\\'' -->"] {
        let first = tokens(page.as_bytes(), &[]);
        let [Token::Command(command)] = &first[..] else { panic!("{page}: {first:?}") };
        let mut again = Vec::new();
        command.rewritten(&mut again);
        assert_eq!(tokens(&again, &[]), first, "{page}");
    }
}

proptest! {
    #[test]
    fn cuts_make_no_difference(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("<!--#"), Just("<!--# "), Just("echo"), Just(" var=\"x\""), Just(" -->"), Just("-->"),
                Just("<!"), Just("--"), Just("<"), Just("text"), Just("\\\""), Just("'"), Just("="), Just(" "),
                Just("a very long value that is too long"),
            ],
            0..20,
        ),
        cuts in proptest::collection::vec(0usize..1000, 0..12),
    ) {
        let page = pieces.concat();
        prop_assert_eq!(tokens(page.as_bytes(), &cuts), tokens(page.as_bytes(), &[]));
    }

    #[test]
    fn any_bytes_are_read(page in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = tokens(&page, &[3, 50]);
    }

    #[test]
    fn text_without_commands_is_left_alone(page in "[<!\\-a# ]{0,60}a") {
        prop_assume!(!page.contains("<!--#"));
        let found = tokens(page.as_bytes(), &[7]);
        let whole: Vec<u8> = found.iter().flat_map(|t| match t { Token::Text(t) => t.to_vec(), _ => vec![b'?'] }).collect();
        prop_assert_eq!(whole, page.into_bytes());
    }
}
