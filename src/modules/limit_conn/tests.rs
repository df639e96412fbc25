use super::*;
use crate::conf::Config;

const ZONE: &str = "limit_conn_zone $arg_k zone=z:1m;";

fn config(http: &str) -> ConfResult<Config> {
    let dir = tempfile::tempdir().unwrap();
    crate::conf::build::load_text(dir.path(), &format!("events {{}} http {{ {http} }}"))
}

fn join(http: &str, shared: &Shared) -> ConfResult<Runtime> {
    Runtime::build(&config(http).unwrap().http.unwrap(), shared)
}

#[test]
fn a_zone_may_be_used_before_it_is_declared() {
    let used_first = format!("server {{ limit_conn z 5; limit_conn_status 429; location / {{ }} }} {ZONE}");
    let http = config(&used_first).unwrap().http.unwrap();
    let inner = &http.levels[2].conf.limit_conn;
    assert_eq!((inner.limits[0].zone, inner.limits[0].most, *inner.status), (0, 5, 429));
    assert_eq!(http.conf.limit_conn[0].size, 1 << 20);
}

#[test]
fn mistakes_in_nginxs_words() {
    let z = |rest: &str| format!("{ZONE} {rest}");
    let cases = [
        (z("limit_conn z 1; limit_conn z 2;"), "\"limit_conn\" directive is duplicate"),
        (z("limit_conn z 0;"), "invalid number of connections \"0\""),
        (z("limit_conn z 65536;"), "connection limit must be less 65536"),
        (z("limit_conn other 1;"), "zero size shared memory zone \"other\""),
        (z("limit_conn_zone $args zone=z:1m;"), "limit_conn_zone \"z\" is already bound to key \"$arg_k\""),
        (z("limit_req zone=z;"), "the shared memory zone \"z\" is already declared for a different use"),
        ("limit_conn_zone $args rate=1;".to_string(), "invalid parameter \"rate=1\""),
        ("limit_conn_zone $args zone=z:1k;".to_string(), "zone \"zone=z:1k\" is too small"),
    ];
    for (text, message) in cases {
        assert_eq!(config(&text).err().map(|e| e.message).as_deref(), Some(message), "{text}");
    }
}

#[test]
fn who_is_under_way_counts_over_a_reload() {
    let shared = Shared::default();
    let first = join(ZONE, &shared).unwrap();
    let under_way = first.zones[0].enter(b"k", 1).unwrap();
    let second = join(ZONE, &shared).unwrap();
    drop(first);
    assert_eq!(second.zones[0].enter(b"k", 1).err(), Some(Refused::Over));
    drop(under_way);
    assert!(second.zones[0].enter(b"k", 1).is_ok());
    let error = join(&ZONE.replace("$arg_k", "$arg_l"), &shared).err().unwrap();
    assert_eq!(
        error.message,
        "limit_conn_zone \"z\" uses the \"$arg_l\" key while previously it used the \"$arg_k\" key"
    );
}
