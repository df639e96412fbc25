//! Against a name server that says what its names tell it to.

use super::*;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A name server on a port of its own. It ends with its value.
struct Stand {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stand {
    fn start() -> Stand {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let addr = socket.local_addr().unwrap();
        let (asked, ends) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (list, end) = (asked.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 512];
            while !end.load(Ordering::Relaxed) {
                let Ok((size, from)) = socket.recv_from(&mut packet) else { continue };
                if let Some(answer) = answer(&packet[..size], &list) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Stand { addr, asked, ends, thread: Some(thread) }
    }

    fn resolver(&self, valid: Option<Duration>, families: (bool, bool)) -> Resolver {
        Resolver::new(vec![self.addr], valid, families)
    }

    /// How often this was asked, as in `a.test 1`.
    fn asked(&self, question: &str) -> usize {
        self.asked.lock().iter().filter(|q| *q == question).count()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(packet: &[u8], asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while packet[at] > 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = packet[at + 2];
    let name = labels.join(".");
    asked.lock().push(format!("{name} {kind}"));
    const A: u8 = 1;
    const SRV: u8 = 33;
    let record = |owner: &[u8], kind: u8, ttl: u8, data: &[u8]| {
        [owner, &[0, kind, 0, 1, 0, 0, 0, ttl, 0, data.len() as u8], data].concat()
    };
    let this = [0xc0, 12];
    let a = |last: u8, ttl: u8| record(&this, A, ttl, &[127, 0, 0, last]);
    let (code, records) = match (name.as_str(), kind) {
        ("silent.test", _) => return None,
        ("a.test", A) => (0, vec![a(1, 60)]),
        ("short.test", A) => (0, vec![a(1, 0)]),
        ("many.test", A) => (0, (1..=20).map(|n| a(n, 60)).collect()),
        ("alias.test", A) => {
            let real = b"\x01a\x04test\0";
            let target = record(real, A, 60, &[127, 0, 0, 1]);
            (0, vec![record(&this, 5, 60, real), target])
        }
        ("_http._tcp.svc.test", SRV) => {
            let target = |priority: u8, weight: u8, port: u8, name: &[u8]| {
                let data = [&[0, priority, 0, weight, 31, port], name].concat();
                record(&this, SRV, 60, &data)
            };
            let records = [
                target(20, 0, 3, b"\x05short\x04test\0"),
                target(10, 7, 2, b"\x01a\x04test\0"),
                target(5, 1, 1, b"\x04none\x04test\0"),
            ];
            (0, records.to_vec())
        }
        ("broken.test", _) => (2, vec![]),
        ("none.test", _) => (3, vec![]),
        ("unknown.test", _) => (4, vec![]),
        ("refused.test", _) => (5, vec![]),
        _ => (0, vec![]),
    };
    let head = [packet[0], packet[1], 0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
    Some([&head[..], &packet[12..at + 5], &records.concat()].concat())
}

const PATIENCE: Duration = Duration::from_secs(20);

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[tokio::test]
async fn names_have_addresses_aliases_too() {
    let stand = Stand::start();
    let resolver = stand.resolver(None, (true, true));
    assert_eq!(resolver.lookup("a.test", PATIENCE).await, Ok(vec![v4(1)]));
    assert_eq!(resolver.lookup("ALIAS.test", PATIENCE).await, Ok(vec![v4(1)]));
    let mut many = resolver.lookup("many.test", PATIENCE).await.unwrap();
    many.sort();
    assert_eq!(many, (1..=20).map(v4).collect::<Vec<_>>());
}

#[tokio::test]
async fn failures_in_nginx_s_words() {
    let stand = Stand::start();
    let resolver = stand.resolver(None, (true, true));
    for (name, why) in [
        ("none.test", "3: Host not found"),
        ("empty.test", "3: Host not found"),
        ("broken.test", "2: Server failure"),
        ("unknown.test", "4: Unimplemented"),
        ("refused.test", "5: Operation refused"),
    ] {
        let error = resolver.lookup(name, PATIENCE).await.unwrap_err();
        assert_eq!(error, format!("{name} could not be resolved ({why})"));
    }
    let error = resolver.lookup("silent.test", Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error, "silent.test could not be resolved (110: Operation timed out)");
    assert!(resolver.underway.lock().is_empty());
}

#[tokio::test]
async fn a_server_that_is_dead_is_one_that_does_not_answer() {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let resolver = Resolver::new(vec![addr], None, (true, true));
    let error = resolver.lookup("a.test", Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error, "a.test could not be resolved (110: Operation timed out)");
}

#[tokio::test]
async fn answers_are_kept_as_long_as_they_say_or_as_is_configured() {
    let stand = Stand::start();
    let own = stand.resolver(None, (true, false));
    for _ in 0..3 {
        own.lookup("a.test", PATIENCE).await.unwrap();
        own.lookup("short.test", PATIENCE).await.unwrap();
        own.lookup("none.test", PATIENCE).await.unwrap_err();
    }
    assert_eq!((stand.asked("a.test 1"), stand.asked("short.test 1")), (1, 3));
    assert_eq!(stand.asked("none.test 1"), 3, "that there is none is not kept");
    let told = stand.resolver(Some(Duration::from_secs(60)), (true, false));
    for _ in 0..3 {
        told.lookup("short.test", PATIENCE).await.unwrap();
    }
    assert_eq!(stand.asked("short.test 1"), 4);
}

#[tokio::test]
async fn only_the_families_that_are_wanted_are_asked_for() {
    let stand = Stand::start();
    stand.resolver(None, (true, false)).lookup("a.test", PATIENCE).await.unwrap();
    assert_eq!((stand.asked("a.test 1"), stand.asked("a.test 28")), (1, 0));
    stand.resolver(None, (false, true)).lookup("a.test", PATIENCE).await.unwrap_err();
    assert_eq!((stand.asked("a.test 1"), stand.asked("a.test 28")), (1, 1));
}

#[tokio::test]
async fn who_asks_for_the_same_name_waits_for_one_answer() {
    let stand = Stand::start();
    let resolver = Arc::new(stand.resolver(None, (true, false)));
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.lookup("short.test", PATIENCE).await })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap(), Ok(vec![v4(1)]));
    }
    assert_eq!(stand.asked("short.test 1"), 1);
    assert!(resolver.underway.lock().is_empty());
}

#[tokio::test]
async fn a_service_has_the_first_of_its_targets_that_have_addresses() {
    let stand = Stand::start();
    let resolver = stand.resolver(None, (true, false));
    let answer = resolver.service("_http._tcp.svc.test", PATIENCE).await.unwrap();
    let found = |port: u16, weight, later| Found {
        ip: v4(1),
        port: Some(31 * 256 + port),
        weight: Some(weight),
        later,
    };
    assert_eq!(answer.found, [found(2, 7, false), found(3, 1, true)]);
    assert_eq!(answer.ttl, Duration::ZERO, "the shortest of all");
    assert_eq!(resolver.service("none.test", PATIENCE).await, Err(Failed::NotFound));
}

#[tokio::test]
async fn an_answer_says_how_long_it_holds() {
    let stand = Stand::start();
    let told = stand.resolver(Some(Duration::from_secs(7)), (true, false));
    let answer = told.addresses("a.test", PATIENCE).await.unwrap();
    assert!(answer.ttl > Duration::from_secs(6) && answer.ttl <= Duration::from_secs(7), "{:?}", answer.ttl);
    let own = stand.resolver(None, (true, false));
    let answer = own.addresses("a.test", PATIENCE).await.unwrap();
    assert!(
        answer.ttl > Duration::from_secs(59) && answer.ttl <= Duration::from_secs(60),
        "{:?}",
        answer.ttl
    );
}
