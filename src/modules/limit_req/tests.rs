use super::*;
use crate::conf::Config;

const ZONE: &str = "limit_req_zone $arg_k zone=z:1m rate=10r/s;";

fn config(http: &str) -> ConfResult<Config> {
    let dir = tempfile::tempdir().unwrap();
    crate::conf::build::load_text(dir.path(), &format!("events {{}} http {{ {http} }}"))
}

fn join(http: &str, shared: &Shared) -> ConfResult<Runtime> {
    Runtime::build(&config(http).unwrap().http.unwrap(), shared)
}

/// Counts a request of `key` with no burst; whether it passes.
fn ask(runtime: &Runtime, rate: u64) -> bool {
    let step = Step { zone: &runtime.zones[0], rate, burst: 0, delay: 0, key: b"key" };
    judge(&[step], 1_000) == Judgement::Pass
}

#[test]
fn rates_as_nginx_reads_them() {
    for (text, thousandths) in [("10r/s", 10_000), ("30r/m", 500), ("1r/m", 16), ("5", 5_000)] {
        assert_eq!(rate(text), Some(thousandths), "{text}");
    }
    for bad in ["0r/s", "r/s", "-1r/s", "1.5r/s", "1r/h", "1R/s", "", "99999999999999999999r/s"] {
        assert_eq!(rate(bad), None, "{bad}");
    }
}

#[test]
fn a_zone_may_be_used_before_it_is_declared() {
    let used_first = format!("server {{ limit_req zone=z burst=5 delay=3; }} {ZONE}");
    let http = config(&used_first).unwrap().http.unwrap();
    let limit = http.levels[1].conf.limit_req.limits[0];
    assert_eq!((limit.zone, limit.burst, limit.delay), (0, 5_000, 3_000));
    assert_eq!((http.conf.limit_req[0].rate, http.conf.limit_req[0].size), (10_000, 1 << 20));
}

#[test]
fn a_level_with_limits_has_none_of_the_outer_levels() {
    let two = "limit_req_zone $uri zone=y:1m rate=1r/s;";
    let levels = |inner: &str| {
        let text = format!("{ZONE} {two} server {{ limit_req zone=z; location / {{ {inner} }} }}");
        config(&text).unwrap().http.unwrap().levels.pop().unwrap().conf.limit_req
    };
    let zones = |conf: &Conf| conf.limits.iter().map(|l| l.zone).collect::<Vec<_>>();
    assert_eq!(zones(&levels("")), [0]);
    assert_eq!(zones(&levels("limit_req zone=y;")), [1]);
    let other = levels("limit_req_status 429; limit_req_dry_run on; limit_req_log_level info;");
    assert_eq!((*other.status, *other.dry_run, *other.log_level), (429, true, Level::Info));
    assert_eq!(zones(&other), [0]);
}

#[test]
fn mistakes_in_nginxs_words() {
    let z = |rest: &str| format!("{ZONE} {rest}");
    let cases = [
        (z("limit_req zone=z; limit_req zone=z burst=2;"), "\"limit_req\" directive is duplicate"),
        (z("limit_req zone=z burst=0;"), "invalid burst value \"burst=0\""),
        (z("limit_req zone=z delay=x;"), "invalid delay value \"delay=x\""),
        (z("limit_req zone=z foo;"), "invalid parameter \"foo\""),
        (z("limit_req burst=1;"), "\"limit_req\" must have \"zone\" parameter"),
        (z("limit_req zone=other;"), "zero size shared memory zone \"other\""),
        (
            z("limit_req_zone $args zone=z:1m rate=1r/s;"),
            "limit_req_zone \"z\" is already bound to key \"$arg_k\"",
        ),
        (
            z("limit_req_zone $args zone=z:2m rate=1r/s;"),
            "the size 2097152 of shared memory zone \"z\" conflicts with already declared size 1048576",
        ),
        (
            z("limit_conn_zone $args zone=z:1m;"),
            "the shared memory zone \"z\" is already declared for a different use",
        ),
        (z("limit_req_status 200;"), "value must be between 400 and 599"),
        ("limit_req_zone $args zone=z:1m rate=0r/s;".to_string(), "invalid rate \"rate=0r/s\""),
        (
            "limit_req_zone $args rate=1r/s rate=1r/s;".to_string(),
            "\"limit_req_zone\" must have \"zone\" parameter",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(config(&text).err().map(|e| e.message).as_deref(), Some(message), "{text}");
    }
}

#[test]
fn a_zone_outlives_a_reload_and_its_rate_may_change() {
    let shared = Shared::default();
    let first = join(ZONE, &shared).unwrap();
    assert!(ask(&first, 1));
    assert!(!ask(&first, 1));
    let second = join(&ZONE.replace("10r/s", "99r/s"), &shared).unwrap();
    drop(first);
    assert!(!ask(&second, 1), "what was counted before the reload is remembered");
    let larger = join(&ZONE.replace("1m", "2m"), &shared).unwrap();
    assert!(ask(&larger, 1), "a zone of another size is a new one");
}

#[test]
fn a_zone_keeps_its_key() {
    let shared = Shared::default();
    let running = join(ZONE, &shared).unwrap();
    let error = join(&ZONE.replace("$arg_k", "$arg_l"), &shared).err().unwrap();
    assert_eq!(
        error.message,
        "limit_req \"z\" uses the \"$arg_l\" key while previously it used the \"$arg_k\" key"
    );
    // The failure left nothing behind.
    let again = join(ZONE, &shared).unwrap();
    assert!(Arc::ptr_eq(&running.zones[0], &again.zones[0]));
}

#[test]
fn each_result_is_counted_where_it_was_decided() {
    let (wide, narrow) = (Zone::new("wide", 1 << 20, ""), Zone::new("narrow", 1 << 20, ""));
    let step = |zone| Step { zone, rate: 1, burst: 0, delay: 0, key: b"k" };
    let steps = [step(&wide), step(&narrow)];
    count(&steps, &Judgement::Pass, false);
    count(&steps, &Judgement::Delay { step: 1, excess: 0, millis: 1 }, false);
    count(&steps, &Judgement::Reject { step: 1, excess: 0 }, false);
    count(&steps, &Judgement::Reject { step: 1, excess: 0 }, true);
    count(&steps, &Judgement::Delay { step: 0, excess: 0, millis: 1 }, true);
    let results = |zone: &Zone| {
        let r = &zone.results;
        [&r.passed, &r.delayed, &r.rejected, &r.delayed_dry_run, &r.rejected_dry_run].map(|c| c.get())
    };
    assert_eq!(results(&wide), [2, 0, 0, 1, 0]);
    assert_eq!(results(&narrow), [2, 1, 1, 0, 1]);
}
