use super::*;
use proptest::prelude::*;

fn parse(values: &[&str]) -> CacheControl {
    CacheControl::parse(values.iter().map(|v| v.as_bytes()))
}

fn targeted(values: &[&str]) -> Option<CacheControl> {
    CacheControl::parse_targeted(values.iter().map(|v| v.as_bytes()))
}

fn names(list: &[&str]) -> Reach {
    Reach::Fields(list.iter().map(|n| Box::from(*n)).collect())
}

fn nothing() -> CacheControl {
    CacheControl::default()
}

#[test]
fn directives_are_read_in_every_form() {
    let age = |n| CacheControl { max_age: Some(n), ..nothing() };
    let table: &[(&[&str], CacheControl)] = &[
        (&[], nothing()),
        (&[""], nothing()),
        (&[" , ,"], nothing()),
        (&["max-age=5"], age(5)),
        (&["MAX-Age=5"], age(5)),
        (&["max-age=\"5\""], age(5)),
        (&["max-age=\"\\5\""], age(5)),
        (&["max-age = 5"], age(5)),
        (&["max-age=007"], age(7)),
        (&["max-age=4294967296"], age(MOST)),
        (&["max-age=99999999999999999999999"], age(MOST)),
        // What cannot be read is no freshness.
        (&["max-age"], age(0)),
        (&["max-age="], age(0)),
        (&["max-age=-5"], age(0)),
        (&["max-age=5.5"], age(0)),
        (&["max-age='5'"], age(0)),
        (&["max-age=five"], age(0)),
        // Of several the least.
        (&["max-age=9, max-age=5"], age(5)),
        (&["max-age=5", "max-age=9"], age(5)),
        (&["max-age=5, max-age=x"], age(0)),
        (&["s-maxage=3"], CacheControl { s_maxage: Some(3), ..nothing() }),
        (&["no-cache"], CacheControl { no_cache: Reach::Whole, ..nothing() }),
        (
            &["no-cache=\"Set-Cookie, X-A\""],
            CacheControl { no_cache: names(&["set-cookie", "x-a"]), ..nothing() },
        ),
        (&["no-cache=X-A"], CacheControl { no_cache: names(&["x-a"]), ..nothing() }),
        (&["no-cache=\"\""], CacheControl { no_cache: Reach::Whole, ..nothing() }),
        (&["no-cache=\"a\", no-cache"], CacheControl { no_cache: Reach::Whole, ..nothing() }),
        (&["private=\"a\"", "private=\"b\""], CacheControl { private: names(&["a", "b"]), ..nothing() }),
        // Nothing within quotes is a directive; whatever stands between directives, none is lost.
        (&["x=\"no-store\""], nothing()),
        (&["x=\"a\\\", no-store\""], nothing()),
        (&["x=\"no-store"], nothing()),
        (&["no-store max-age=5"], CacheControl { no_store: true, ..age(5) }),
        (&["max-age=5; no-store"], CacheControl { no_store: true, ..age(5) }),
        (&["=no-store"], CacheControl { no_store: true, ..nothing() }),
        (&["no-storey, xno-store"], nothing()),
        (&["no-store=x"], CacheControl { no_store: true, ..nothing() }),
        (&["max-stale"], CacheControl { max_stale: Some(MOST), ..nothing() }),
        (&["max-stale=5"], CacheControl { max_stale: Some(5), ..nothing() }),
        (&["max-stale=x"], CacheControl { max_stale: Some(0), ..nothing() }),
        (&["min-fresh=5, min-fresh=9"], CacheControl { min_fresh: Some(9), ..nothing() }),
        (
            &["stale-while-revalidate=2, stale-if-error=3"],
            CacheControl { stale_while_revalidate: Some(2), stale_if_error: Some(3), ..nothing() },
        ),
        (
            &["public, immutable, must-revalidate, proxy-revalidate, must-understand, only-if-cached"],
            CacheControl {
                public: true,
                immutable: true,
                must_revalidate: true,
                proxy_revalidate: true,
                must_understand: true,
                only_if_cached: true,
                ..nothing()
            },
        ),
    ];
    for (values, wanted) in table {
        assert_eq!(parse(values), *wanted, "{values:?}");
    }
}

#[test]
fn a_targeted_field_is_a_dictionary_or_nothing() {
    let age = |n| Some(CacheControl { max_age: Some(n), ..nothing() });
    let table: &[(&[&str], Option<CacheControl>)] = &[
        (&[], None),
        (&[""], None),
        (&["max-age=5"], age(5)),
        (&["max-age=5;x=y"], age(5)),
        (&["max-age=5", "no-store"], Some(CacheControl { no_store: true, ..age(5).unwrap() })),
        // The last of several holds: so says the dictionary.
        (&["max-age=9, max-age=5"], age(5)),
        (&["no-store=?0, max-age=5"], age(5)),
        // Values of another type than the directive's do not count.
        (&["max-age=5.5"], Some(nothing())),
        (&["max-age=\"5\""], Some(nothing())),
        (&["max-age"], Some(nothing())),
        (&["max-age=-1"], Some(nothing())),
        (&["no-store=5"], Some(nothing())),
        (&["no-cache=\"a, B\""], Some(CacheControl { no_cache: names(&["a", "b"]), ..nothing() })),
        (&["private=(a \"b\")"], Some(CacheControl { private: names(&["a", "b"]), ..nothing() })),
        // Malformed: nothing of it counts.
        (&["max-age=5,"], None),
        (&["max-age=5 no-store"], None),
        (&["Max-Age=5"], None),
        (&["max-age=5, &"], None),
    ];
    for (values, wanted) in table {
        assert_eq!(targeted(values), *wanted, "{values:?}");
    }
}

#[test]
fn an_age_is_the_first_number_of_its_value() {
    let table = [
        ("5", Some(5)),
        ("5, 9", Some(5)),
        (" 5 ", Some(5)),
        ("-5", None),
        ("x", None),
        ("", None),
        ("1.5", None),
    ];
    for (value, wanted) in table {
        assert_eq!(first_number(value.as_bytes()), wanted, "{value}");
    }
}

/// Writes what it says, in one of the ways it can be written.
fn write(cc: &CacheControl, quotes: bool) -> String {
    let quote = if quotes { "\"" } else { "" };
    let mut list = Vec::new();
    let times = [
        ("max-age", cc.max_age),
        ("s-maxage", cc.s_maxage),
        ("stale-while-revalidate", cc.stale_while_revalidate),
        ("stale-if-error", cc.stale_if_error),
        ("min-fresh", cc.min_fresh),
        ("max-stale", cc.max_stale),
    ];
    list.extend(times.iter().filter_map(|(name, n)| n.map(|n| format!("{name}={quote}{n}{quote}"))));
    for (name, reach) in [("no-cache", &cc.no_cache), ("private", &cc.private)] {
        match reach {
            Reach::Nothing => {}
            Reach::Whole => list.push(name.to_string()),
            Reach::Fields(names) => list.push(format!("{name}=\"{}\"", names.join(", "))),
        }
    }
    let flags = [
        ("no-store", cc.no_store),
        ("must-understand", cc.must_understand),
        ("must-revalidate", cc.must_revalidate),
        ("proxy-revalidate", cc.proxy_revalidate),
        ("public", cc.public),
        ("immutable", cc.immutable),
        ("only-if-cached", cc.only_if_cached),
    ];
    list.extend(flags.iter().filter(|(_, on)| *on).map(|(name, _)| name.to_string()));
    list.join(", ")
}

fn time() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(0..=MOST)
}

fn speaks_of() -> impl Strategy<Value = Reach> {
    let fields = prop::collection::vec("[a-z][a-z-]{0,8}".prop_map(Box::from), 1..4);
    prop_oneof![Just(Reach::Nothing), Just(Reach::Whole), fields.prop_map(Reach::Fields)]
}

fn any_directives() -> impl Strategy<Value = CacheControl> {
    let times = (time(), time(), time(), time(), time(), time());
    (times, speaks_of(), speaks_of(), any::<[bool; 7]>()).prop_map(|(times, no_cache, private, flags)| {
        CacheControl {
            max_age: times.0,
            s_maxage: times.1,
            stale_while_revalidate: times.2,
            stale_if_error: times.3,
            min_fresh: times.4,
            max_stale: times.5,
            no_cache,
            private,
            no_store: flags[0],
            must_understand: flags[1],
            must_revalidate: flags[2],
            proxy_revalidate: flags[3],
            public: flags[4],
            immutable: flags[5],
            only_if_cached: flags[6],
        }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(cc in any_directives(), quotes: bool) {
        prop_assert_eq!(parse(&[&write(&cc, quotes)]), cc);
    }

    #[test]
    fn no_value_panics(value in prop::collection::vec(any::<u8>(), 0..80)) {
        CacheControl::parse([&value[..]]);
        CacheControl::parse_targeted([&value[..]]);
        first_number(&value);
    }

    #[test]
    fn no_store_is_found_whatever_else_stands_there(before in "[ -~&&[^\"]]{0,20}", after in "[ -~]{0,20}") {
        let value = format!("{before},no-store,{after}");
        prop_assert!(parse(&[&value]).no_store);
    }
}
