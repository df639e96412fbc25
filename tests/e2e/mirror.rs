//! Mirrors that never answer, behind clients that do not care.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::support::address;
use crate::support::client::Client;
use crate::support::server::{Plan, is_nginx};

/// Mirrors under way at most.
const MOST: usize = 512;

const CONFIG: &str = "
    events { }
    error_log stderr warn;
    http {
        access_log off;
        server {
            listen 8080;
            keepalive_requests 10000;
            location / { root html; mirror /mirror; }
            location = /mirror { internal; proxy_pass http://127.0.0.1:8000; }
        }
    }";

/// nginx lets a connection wait for the mirrors of its last request.
#[tokio::test]
async fn mirrors_that_never_answer_hold_up_nobody_and_are_bounded() {
    if is_nginx() {
        return;
    }
    // Never accepted from: connections stand in its queue and hear nothing.
    let silent = TcpListener::bind(SocketAddr::from((address::fresh(), 0))).await.unwrap();
    let plan = Plan::new(CONFIG).upstream("127.0.0.1:8000", silent.local_addr().unwrap());
    let server = plan.file("html/f", "f").start().await;
    let mut client = Client::connect(server.addr(8080)).await;
    for n in 0..MOST + 50 {
        assert_eq!(client.get("/f").await.status, 200, "request {n} of one connection");
    }
    server.reported(&format!("not mirrored to \"/mirror\": {MOST} mirrors are under way")).await;
}
