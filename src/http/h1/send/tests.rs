//! What may go at which time, on a clock that stands still.

use super::*;
use crate::cache::pack::pages::Filling;
use crate::http::body::BodyStream;
use crate::http::router::{Located, locate};
use crate::observe::testing::Running;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// A client that has read everything there is, and its connection's other end.
fn connection() -> (std::net::TcpStream, H1Body) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    let io = Io::Tcp(TcpStream::from_std(server).unwrap());
    (client, H1Body::new(io))
}

fn received(client: &mut std::net::TcpStream) -> usize {
    let (mut all, mut part) = (0, vec![0; 1 << 20]);
    while let Ok(n @ 1..) = client.read(&mut part) {
        all += n;
    }
    all
}

/// What has come in all at these milliseconds of the sending, which is seen to every ten, and whether it is over.
async fn arrived<T>(
    client: &mut std::net::TcpStream,
    sending: impl Future<Output = T>,
    at: &[u64],
) -> (Vec<usize>, Option<T>) {
    let mut sending = std::pin::pin!(sending);
    let (mut all, mut seen, mut result) = (0, Vec::new(), None);
    for now in (0..=*at.last().unwrap()).step_by(10) {
        // The socket's readiness and timers take a turn of the runtime each.
        for _ in 0..10 {
            if result.is_none()
                && let Poll::Ready(done) =
                    std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await
            {
                result = Some(done);
            }
            tokio::task::yield_now().await;
        }
        all += received(client);
        if at.contains(&now) {
            seen.push(all);
        }
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    (seen, result)
}

fn plan(length: u64) -> Plan {
    Plan { body: true, chunked: false, length: Some(length), closes: false }
}

fn pace(rate: u64) -> Option<Box<Pace>> {
    Some(Box::new(Pace::new(rate, 0, Instant::now(), 2 << 20)))
}

#[tokio::test(start_paused = true)]
async fn head_and_body_go_by_the_second() {
    let running = Running::start("server { listen LISTEN; limit_rate 1k; }");
    let mut rq = running.request("/");
    let (mut client, mut h1) = connection();
    let mut response = Response::with_body(200, "text/plain", vec![b'x'; 3000]);
    let (plan, head) = (plan(3000), vec![b'h'; 100]);
    let sending = send(&mut rq, &mut h1, head, &mut response, &plan, false);
    let (seen, result) = arrived(&mut client, sending, &[500, 1500, 2500, 3500]).await;
    assert_eq!(seen, [1024, 2048, 3072, 3100]);
    assert!(result.unwrap().is_ok());
    assert_eq!((rq.sent.bytes, rq.sent.body_bytes), (3100, 3000));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_long_for_a_second_goes_in_parts() {
    let running = Running::start("server { listen LISTEN; limit_rate 1k; limit_rate_after 10; }");
    let mut rq = running.request("/");
    let (mut client, mut h1) = connection();
    let mut response = Response::new(200);
    let plan = plan(0);
    let sending = send(&mut rq, &mut h1, vec![b'h'; 2000], &mut response, &plan, false);
    let (seen, result) = arrived(&mut client, sending, &[500, 1500]).await;
    assert_eq!(seen, [1034, 2000]);
    assert!(result.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_goes_past_the_process_goes_by_the_second_too() {
    const LENGTH: usize = 300_000;
    let mut pages = Filling::new(LENGTH).unwrap();
    assert!(pages.push(&vec![b'x'; LENGTH]).is_empty());
    let file = tempfile::tempfile().unwrap();
    file.set_len(LENGTH as u64).unwrap();
    let file = crate::cache::file_body::FileBody::new(file.into(), 0..LENGTH as u64);
    for body in [Body::Lasting(pages.finish()), Body::Stream(Box::new(file))] {
        let (mut client, mut h1) = connection();
        let mut response = Response { body, ..Response::new(200) };
        let mut out = Outgoing::new(Duration::from_secs(60), 0, pace(100_000));
        out.push(Bytes::from(vec![b'h'; 100]));
        let mut bytes = 0;
        let plan = plan(LENGTH as u64);
        let sending = send_past(&mut response, &mut h1, &mut out, &plan, &mut bytes);
        let (seen, result) = arrived(&mut client, sending, &[0, 900, 1900, 3900]).await;
        // Whole pages, but for the end.
        assert_eq!(seen, [102_500, 102_500, 200_804, 300_100]);
        assert!(result.unwrap().is_ok());
        assert_eq!((bytes, out.written), (300_000, 300_100));
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_noticed_between_two_turns() {
    let running = Running::start("server { listen LISTEN; limit_rate 10; send_timeout 1s; }");
    let mut rq = running.request("/");
    let (mut client, mut h1) = connection();
    let mut response = Response::with_body(200, "text/plain", vec![b'x'; 3000]);
    let (plan, head) = (plan(3000), vec![b'h'; 5]);
    let mut sending = Box::pin(send(&mut rq, &mut h1, head, &mut response, &plan, false));
    // A pause is no time in which the client takes nothing.
    let (seen, result) = arrived(&mut client, &mut sending, &[5500]).await;
    assert_eq!((seen[0], result.is_none()), (60, true));
    drop(client);
    let (mut other, _h1) = connection();
    let (_, result) = arrived(&mut other, &mut sending, &[100]).await;
    assert!(matches!(result, Some(Err(BodyError::Client(_)))));
    drop(sending);
    assert_eq!((rq.sent.bytes, rq.sent.body_bytes), (60, 55));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_read_ahead_between_two_turns_within_bounds() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    struct Many;
    impl BodyStream for Many {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            TAKEN.fetch_add(1000, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Bytes::from(vec![b'x'; 1000]))))
        }
    }
    let running = Running::start("server { listen LISTEN; limit_rate 1k; proxy_buffers 8 4k; }");
    let mut rq = running.request("/");
    let (mut client, mut h1) = connection();
    let mut response = Response { upstream: true, body: Body::Stream(Box::new(Many)), ..Response::new(200) };
    let plan = plan(10_000_000);
    let sending = send(&mut rq, &mut h1, vec![b'h'; 100], &mut response, &plan, false);
    let (seen, _) = arrived(&mut client, Box::pin(sending), &[500, 1500]).await;
    assert_eq!(seen, [1024, 2048]);
    let taken = TAKEN.load(Ordering::Relaxed);
    assert!((60_000..66_000).contains(&taken), "{taken}");
}

/// Two pieces, the second half a second after the first.
struct Halves {
    length: usize,
    given: usize,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl BodyStream for Halves {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.given == 1 {
            ready!(self.pause.as_mut().poll(cx));
        }
        self.given += 1;
        Poll::Ready((self.given <= 2).then(|| Ok(Bytes::from(vec![b'x'; self.length / 2]))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_of_an_upstream_goes_whole() {
    let conf = "postpone_output 101; proxy_buffer_size 1k;";
    let running = Running::start(&format!(
        "server {{ listen LISTEN; {conf} location /now {{ postpone_output 100; }} location /paced {{ limit_rate 1m; }} }}"
    ));
    // Of the second half none is held, and of the first what the upstream's head leaves room for.
    for (uri, upstream, length, at_first) in [
        ("/", true, 1024, 0),
        ("/", false, 1024, 612),
        ("/", true, 2046, 0),
        ("/", true, 2048, 1124),
        ("/now", true, 1024, 612),
        ("/paced", true, 1024, 612),
    ] {
        let mut rq = running.request(uri);
        if let Located::Level(level) = locate(&rq, rq.level) {
            rq.level = level;
        }
        let (mut client, mut h1) = connection();
        let pause = Box::pin(tokio::time::sleep(Duration::from_millis(500)));
        let body = Body::Stream(Box::new(Halves { length, given: 0, pause }));
        let mut response = Response { upstream, body, ..Response::new(200) };
        let plan = plan(length as u64);
        let sending = send(&mut rq, &mut h1, vec![b'h'; 100], &mut response, &plan, false);
        let (seen, result) = arrived(&mut client, sending, &[400, 600]).await;
        assert_eq!(seen, [at_first, 100 + length], "{uri} {upstream} {length}");
        assert!(result.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_anything_was_sent_gets_nothing() {
    let running = Running::start("server { listen LISTEN; }");
    for (upstream, status) in [(true, 499), (false, 200)] {
        let mut rq = running.request("/");
        rq.sent.status = 200;
        let (client, mut h1) = connection();
        let pause = Box::pin(tokio::time::sleep(Duration::from_secs(500)));
        let body = Body::Stream(Box::new(Halves { length: 1024, given: 0, pause }));
        let mut response = Response { upstream, body, ..Response::new(200) };
        let plan = plan(1024);
        drop(client);
        let sending = send(&mut rq, &mut h1, vec![b'h'; 100], &mut response, &plan, false);
        let (mut other, _h1) = connection();
        let (_, result) = arrived(&mut other, sending, &[200]).await;
        assert!(matches!(result, Some(Err(BodyError::Client(_)))), "{upstream}");
        assert_eq!(rq.sent.status, status);
    }
}
