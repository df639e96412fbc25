//! Answers come from a list, the clock stands still between them.

use super::super::balance::Method;
use super::super::conf::{GroupConf, PeerAddr, PeerConf};
use super::super::resolve::Found;
use super::*;
use crate::http::template::Template;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::time::Instant;

type Answers = Mutex<VecDeque<Result<Answer, Failed>>>;

fn at(last: u8) -> Found {
    Found { ip: [127, 0, 0, last].into(), port: None, weight: None, later: false }
}

fn answer(lasts: &[u8], ttl: u64) -> Result<Answer, Failed> {
    Ok(Answer { found: lasts.iter().map(|last| at(*last)).collect(), ttl: Duration::from_secs(ttl) })
}

fn server(addr: &str) -> PeerConf {
    PeerConf {
        addr: PeerAddr::Inet(addr.parse().unwrap()),
        server: addr.into(),
        weight: 1,
        max_conns: 0,
        max_fails: 1,
        fail_timeout: Duration::from_secs(10),
        backup: false,
        down: false,
    }
}

fn name(host: &str) -> NameConf {
    NameConf {
        host: host.into(),
        port: 80,
        service: None,
        template: server("0.0.0.0:1"),
        resolver: None,
        timeout: Duration::from_secs(30),
    }
}

fn group(method: Method) -> Arc<Group> {
    let names = vec![name("a.test"), name("b.test")];
    Arc::new(Group::new(GroupConf { names, method, zone: Some("u".into()), ..GroupConf::new("u") }))
}

fn peers(group: &Group) -> Vec<String> {
    group.peers().list.iter().map(|peer| peer.name.to_string()).collect()
}

/// What a name is asked for and what its group has then, by second.
async fn course(answers: Vec<Result<Answer, Failed>>) -> Vec<(u64, Vec<String>)> {
    let group = group(Method::RoundRobin);
    let course = Arc::new(Mutex::new(Vec::new()));
    let answers: Arc<Answers> = Arc::new(Mutex::new(answers.into()));
    let (start, weak, list) = (Instant::now(), Arc::downgrade(&group), course.clone());
    let ask = move |conf: NameConf| {
        assert_eq!(conf.host, "a.test");
        let next = answers.lock().pop_front();
        let (weak, list) = (weak.clone(), list.clone());
        async move {
            let Some(group) = weak.upgrade() else { return Err(Failed::Server) };
            list.lock().push((start.elapsed().as_secs(), peers(&group)));
            match next {
                Some(next) => next,
                None => std::future::pending().await,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3600), follow(Arc::downgrade(&group), 0, ask)).await;
    std::mem::take(&mut *course.lock())
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_when_its_answer_ends() {
    let two = vec!["127.0.0.1:80".to_string(), "127.0.0.2:80".into()];
    let other = vec!["127.0.0.2:80".to_string(), "127.0.0.3:80".into()];
    let course = course(vec![
        Err(Failed::TimedOut),
        answer(&[1, 2, 2], 5),
        answer(&[3, 2], 0),
        Err(Failed::Server),
        Err(Failed::NotFound),
        answer(&[1, 2], 60),
    ])
    .await;
    let want = [
        (0, vec![]),
        (10, vec![]),
        (15, two.clone()),
        (16, other.clone()),
        (26, other),
        (36, vec![]),
        (96, two),
    ];
    assert_eq!(course, want);
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_name_ends_with_its_group() {
    let group = group(Method::RoundRobin);
    let task = tokio::spawn(follow(Arc::downgrade(&group), 0, |_| async { answer(&[1], 1) }));
    drop(group);
    task.await.unwrap();
}

#[test]
fn those_that_stay_are_the_same() {
    let group = group(Method::RoundRobin);
    assert!(group.selection(None, None).take().is_none(), "there is nobody yet");
    assert!(group.update(0, &[at(1), at(2)]));
    assert!(!group.update(0, &[at(2), at(1)]), "nothing has changed");
    group.update(1, &[at(9)]);
    let before = group.peers();
    let mut selection = group.selection(None, None);
    let mut first = selection.take().unwrap();
    assert_eq!(&*first.name(), "127.0.0.1:80");
    first.failed();
    let gone = selection.take().unwrap();
    assert_eq!(&*gone.name(), "127.0.0.2:80");
    group.update(0, &[at(1), at(3)]);
    assert_eq!(peers(&group), ["127.0.0.1:80", "127.0.0.9:80", "127.0.0.3:80"]);
    assert!(Arc::ptr_eq(&before.list[0], &group.peers().list[0]));
    assert_eq!(first.metrics().active.get(), 1);
    // What failed rests still, what is new is asked, and who left may yet end.
    let asked: Vec<_> = (0..4).map(|_| group.selection(None, None).take().unwrap().name()).collect();
    assert!(
        !asked.contains(&first.name()) && asked.iter().any(|name| &**name == "127.0.0.3:80"),
        "{asked:?}"
    );
    drop((first, gone));
    assert!(selection.take().is_some(), "the list it began with has one more");
}

#[test]
fn names_that_come_and_go_take_no_room() {
    let group = group(Method::LeastConn);
    for n in 0..1000u32 {
        group.update(0, &[at((n % 2) as u8 + 1), at((n % 7) as u8 + 10)]);
        let taken = group.selection(None, None).take().unwrap();
        assert_eq!(taken.peer.metrics.active.get(), 1);
    }
    assert!(group.slots() <= 4, "{}", group.slots());
    for peer in &group.peers().list {
        assert_eq!(peer.metrics.active.get(), 0);
    }
}

#[test]
fn every_method_takes_what_there_is() {
    for method in [
        Method::RoundRobin,
        Method::LeastConn,
        Method::IpHash,
        Method::Hash(Template::literal("k")),
        Method::ConsistentHash(Template::literal("k")),
        Method::Random { two: true },
    ] {
        let group = group(method);
        let take = || group.selection(Some("k".into()), Some([10, 0, 0, 1].into())).take().map(|t| t.name());
        assert_eq!(take(), None);
        group.update(1, &[at(5)]);
        assert_eq!(take().as_deref(), Some("127.0.0.5:80"));
        group.update(1, &[at(6), at(7)]);
        assert!(["127.0.0.6:80", "127.0.0.7:80"].contains(&&*take().unwrap()));
        group.update(1, &[]);
        assert_eq!(take(), None);
    }
}

#[test]
fn a_reload_begins_with_the_addresses_that_are_known() {
    let old = group(Method::RoundRobin);
    old.update(0, &[at(1)]);
    old.update(1, &[at(2)]);
    let names = vec![name("b.test"), name("c.test")];
    let new = Group::new(GroupConf { names, peers: vec![server("127.0.0.9:81")], ..GroupConf::new("u") });
    new.adopt(&old);
    assert_eq!(peers(&new), ["127.0.0.9:81", "127.0.0.2:80"]);
}

#[test]
fn a_service_has_ports_weights_and_those_for_later() {
    let mut conf = name("a.test");
    conf.service = Some("_http._tcp.a.test".into());
    let group = Group::new(GroupConf { names: vec![conf], ..GroupConf::new("u") });
    let found = |last: u8, weight, later| Found { port: Some(8080), weight: Some(weight), later, ..at(last) };
    group.update(0, &[found(1, 5, false), found(2, 1, true)]);
    let peers = group.peers();
    let shown: Vec<_> = peers.list.iter().map(|p| (&*p.name, p.conf.weight, p.conf.backup)).collect();
    assert_eq!(shown, [("127.0.0.1:8080", 5, false), ("127.0.0.2:8080", 1, true)]);
}
