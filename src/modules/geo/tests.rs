use super::*;
use crate::conf::parser::parse_globals;

fn read(block: &str) -> ConfResult<(Geo, Vec<String>)> {
    let mut geo = Block::new(Source::new(None));
    let mut warnings = Vec::new();
    for item in &parse_globals(block) {
        warnings.extend(geo.read(line(item)?)?);
    }
    Ok((geo.finish(), warnings))
}

fn ask(geo: &Geo, address: &str) -> String {
    String::from_utf8(geo.find(address.parse().ok()).to_vec()).unwrap()
}

#[test]
fn the_longest_network_wins() {
    let (geo, warnings) = read(
        "default d; 10.0.0.0/8 eight; 10.1.0.0/16 sixteen; 10.1.2.3 host; \
         2001:db8::/32 six; ::1 loop; 127.0.0.0/8 local;",
    )
    .unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    for (address, value) in [
        ("11.0.0.1", "d"),
        ("10.9.9.9", "eight"),
        ("10.1.9.9", "sixteen"),
        ("10.1.2.3", "host"),
        ("::ffff:10.1.2.3", "host"),
        ("2001:db8:9::1", "six"),
        ("2001:db9::", "d"),
        ("::1", "loop"),
        ("no address", "d"),
    ] {
        assert_eq!(ask(&geo, address), value, "{address}");
    }
}

#[test]
fn without_a_default_it_is_empty() {
    let (geo, _) = read("10.0.0.0/8 a;").unwrap();
    assert_eq!((ask(&geo, "1.1.1.1"), ask(&geo, "::1")), (String::new(), String::new()));
}

#[test]
fn no_address_is_the_broadcast_address() {
    let (geo, _) = read("default d; 255.255.255.255 none;").unwrap();
    assert_eq!(ask(&geo, "unix:"), "none");
    let (geo, _) = read("ranges; default d; 10.0.0.0-10.0.0.9 a;").unwrap();
    assert_eq!(
        (ask(&geo, "unix:"), ask(&geo, "::1"), ask(&geo, "10.0.0.9")),
        ("d".into(), "d".into(), "a".into())
    );
}

#[test]
fn deleted_and_repeated_networks() {
    let (geo, warnings) =
        read("10.0.0.0/8 a; 10.0.0.0/8 b; delete 11.0.0.0/8; 12.0.0.1/8 c; delete 12.0.0.0/8;").unwrap();
    assert_eq!((ask(&geo, "10.0.0.1"), ask(&geo, "12.0.0.1")), ("b".to_string(), String::new()));
    assert_eq!(
        warnings,
        [
            "duplicate network \"10.0.0.0/8\", value: \"b\", old value: \"a\"",
            "no network \"11.0.0.0/8\" to delete",
            "low address bits of 12.0.0.1/8 are meaningless",
        ]
    );
}

#[test]
fn mistakes_in_nginxs_words() {
    let message = |block| read(block).err().unwrap().message;
    assert_eq!(message("x y;"), "invalid network \"x\"");
    assert_eq!(message("10.0.0.0/33 y;"), "invalid network \"10.0.0.0/33\"");
    assert_eq!(message("a b c;"), "invalid number of the geo parameters");
    assert_eq!(
        message("default 1; ranges;"),
        "the \"ranges\" directive must be the first directive inside \"geo\" block"
    );
    assert_eq!(message("ranges; 10.0.0.0/8 a;"), "invalid range \"10.0.0.0/8\"");
    assert_eq!(message("proxy x;"), "invalid network \"x\"");
}

#[test]
fn values_are_text() {
    let (geo, _) = read("default \"$remote_addr\";").unwrap();
    assert_eq!(ask(&geo, "1.1.1.1"), "$remote_addr");
}
