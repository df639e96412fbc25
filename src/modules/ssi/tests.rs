use super::parser::{Command, Parser, Token};
use bytes::Bytes;
use proptest::prelude::*;

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
