//! RFC 9111, and what belongs to it, clause by clause; each test's name begins with its section.
//!
//! A [`Row`] is one exchange that may be stored, some time, and a request: whether that is served from
//! the cache, validated, or forwarded, and which `Age` it gets. Where RFC 9111 leaves a choice, the test's
//! name or a comment says which was made.

mod age;
mod requests;
mod responses;
mod stale;
mod storing;
mod targeted;
mod validating;
mod vary;

use super::*;
use crate::cache::freshness::wall;
use crate::cache::policy::Rfc9111;
use crate::http::date::http_date;
use std::time::Duration as D;

type List = &'static [(&'static str, &'static str)];

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// `HIT`, with this `Age`; the origin is not asked.
    Served(u64),
    /// `STALE`, with this `Age`; the origin is not asked first.
    Stale(u64),
    /// The origin is asked with validators; it says 304: `REVALIDATED`, with the `Age` that the 304 has.
    Validated,
    /// The origin is asked without any: `MISS`, or `EXPIRED` where something was kept.
    Forwarded(CacheStatus),
    /// 504: `only-if-cached`.
    Refused,
}

/// What was stored, or not, and who asks.
struct Row {
    policy: fn(&mut Policy),
    first: List,
    status: u16,
    stored: List,
    delay: D,
    after: D,
    asks: List,
    came: Came,
}

/// An answer with these fields and `ETag: "1"`. A value `@-5` is the date five seconds before the answer.
fn row(stored: List) -> Row {
    Row {
        policy: |_| {},
        first: &[],
        status: 200,
        stored,
        delay: D::ZERO,
        after: D::ZERO,
        asks: &[],
        came: Came::Validated,
    }
}

impl Row {
    /// The location wants this, besides `proxy_cache_rfc9111 on`.
    fn with(self, policy: fn(&mut Policy)) -> Row {
        Row { policy, ..self }
    }
    /// The request that brought the answer said this.
    fn asked_by(self, first: List) -> Row {
        Row { first, ..self }
    }
    /// The answer's status.
    fn status(self, status: u16) -> Row {
        Row { status, ..self }
    }
    /// The answer took so many seconds to come.
    fn delayed(self, seconds: u64) -> Row {
        Row { delay: D::from_secs(seconds), ..self }
    }
    /// So many seconds later comes the request that is looked at.
    fn after(self, seconds: u64) -> Row {
        Row { after: D::from_secs(seconds), ..self }
    }
    /// What that says.
    fn asks(self, asks: List) -> Row {
        Row { asks, ..self }
    }
    fn came(self, came: Came) -> Row {
        Row { came, ..self }
    }
    fn served(self, age: u64) -> Row {
        self.came(Came::Served(age))
    }
    fn stale(self, age: u64) -> Row {
        self.came(Came::Stale(age))
    }
    fn validated(self) -> Row {
        self.came(Came::Validated)
    }
    /// Nothing was stored.
    fn forwarded(self) -> Row {
        self.came(Came::Forwarded(CacheStatus::Miss))
    }
    fn refused(self) -> Row {
        self.came(Came::Refused)
    }
}

/// A site of the table, and a location that keeps to the RFC.
struct Origin(Site);

/// What a request got.
#[derive(Debug)]
struct Got {
    status: CacheStatus,
    code: u16,
    fields: Fields,
    body: String,
}

impl Got {
    fn field(&self, name: &str) -> Option<String> {
        self.fields.get(name).map(|v| String::from_utf8_lossy(v).into_owned())
    }

    fn age(&self) -> Option<u64> {
        self.field("age").map(|age| age.parse().unwrap())
    }
}

/// A request under way: answered, or with the origin.
enum Way {
    Answered(Got),
    Asked(Call, JoinHandle<Served>),
}

impl Way {
    fn answered(self) -> Got {
        match self {
            Way::Answered(got) => got,
            Way::Asked(..) => panic!("the origin was asked"),
        }
    }

    fn asked(self) -> (Call, JoinHandle<Served>) {
        match self {
            Way::Asked(call, request) => (call, request),
            Way::Answered(got) => panic!("the origin was not asked: {got:?}"),
        }
    }
}

impl Origin {
    fn new() -> Origin {
        let mut site = Site::new();
        site.policy.valid.clear();
        site.policy.rfc9111 = Rfc9111::On;
        site.policy.revalidate = true;
        Origin(site)
    }

    fn with(policy: fn(&mut Policy)) -> Origin {
        let mut origin = Origin::new();
        policy(&mut origin.0.policy);
        origin
    }

    /// Sends a request and waits until it is answered, or the origin is asked.
    async fn get(&mut self, asks: List) -> Way {
        let request = self.0.get_with("/a", With { fields: asks.to_vec(), ..With::default() });
        for _ in 0..1000 {
            settle().await;
            if request.is_finished() {
                return Way::Answered(got(request).await);
            }
            if let Ok(call) = self.0.calls.try_recv() {
                return Way::Asked(call, request);
            }
        }
        panic!("neither answered nor asked");
    }

    /// Has the origin answer a request like this with a body `old`.
    async fn stores(&mut self, asks: List, status: u16, fields: List) -> Got {
        let (call, request) = self.get(asks).await.asked();
        call.whole(status, &as_list(&dated(fields)), "old");
        let got = got(request).await;
        self.0.idle().await;
        got
    }

    /// Has the origin confirm what is kept, by a 304 with these fields.
    async fn confirms(&mut self, asks: List, fields: List) -> Got {
        let (call, request) = self.get(asks).await.asked();
        assert!(call.validators.is_some(), "asked without validators");
        call.whole(304, &as_list(&dated(fields)), "");
        let got = got(request).await;
        self.0.idle().await;
        got
    }
}

async fn got(request: JoinHandle<Served>) -> Got {
    let Served { status, result } = request.await.unwrap();
    match result {
        Ok(mut answer) => {
            let (code, fields) = (answer.status, std::mem::take(&mut answer.fields));
            Got { status, code, fields, body: whole(answer).await.unwrap() }
        }
        Err(failure) => Got { status, code: failure.status, fields: Fields::default(), body: String::new() },
    }
}

fn dated(list: List) -> Vec<(&'static str, String)> {
    let value = |value: &str| match value.strip_prefix('@') {
        Some(offset) => http_date(wall().as_secs().saturating_add_signed(offset.parse().unwrap())),
        None => value.to_string(),
    };
    list.iter().map(|(name, v)| (*name, value(v))).collect()
}

fn as_list<'a>(list: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    list.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

async fn pass(seconds: u64) {
    tokio::time::advance(D::from_secs(seconds)).await;
}

/// Looks at each row by itself.
async fn table(rows: impl IntoIterator<Item = Row>) {
    for (n, row) in rows.into_iter().enumerate() {
        let came = run(&row).await;
        assert_eq!(
            came, row.came,
            "row {n}: {:?} {} {:?}, after {:?} {:?}",
            row.first, row.status, row.stored, row.after, row.asks
        );
    }
}

async fn run(row: &Row) -> Came {
    let mut origin = Origin::with(row.policy);
    let (call, request) = origin.get(row.first).await.asked();
    tokio::time::advance(row.delay).await;
    let mut fields = dated(row.stored);
    if !fields.iter().any(|(name, _)| *name == "ETag") {
        fields.push(("ETag", "\"1\"".into()));
    }
    call.whole(row.status, &as_list(&fields), "old");
    let first = got(request).await;
    assert_eq!((first.status, first.code, first.body.as_str()), (CacheStatus::Miss, row.status, "old"));
    assert_eq!(
        first.field("age").is_some(),
        fields.iter().any(|(name, _)| *name == "Age"),
        "Age of what was fetched"
    );
    origin.0.idle().await;
    tokio::time::advance(row.after).await;
    match origin.get(row.asks).await {
        Way::Answered(got) if got.code == 504 => Came::Refused,
        Way::Answered(got) => {
            assert_eq!((got.code, got.body.as_str()), (row.status, "old"));
            let age = got.age().expect("what is served from the cache has an Age");
            match got.status {
                CacheStatus::Hit => Came::Served(age),
                CacheStatus::Stale => Came::Stale(age),
                other => panic!("{other:?}"),
            }
        }
        Way::Asked(call, request) if call.validators.is_some() => {
            call.whole(304, &[], "");
            let got = got(request).await;
            assert_eq!(
                (got.status, got.code, got.body.as_str()),
                (CacheStatus::Revalidated, row.status, "old")
            );
            assert_eq!(got.age(), None, "it was validated for this request");
            Came::Validated
        }
        Way::Asked(call, request) => {
            call.whole(200, &[], "new");
            let got = got(request).await;
            assert_eq!((got.code, got.body.as_str()), (200, "new"));
            Came::Forwarded(got.status)
        }
    }
}
