//! Passwords that are expensive to check, and a file of users that changes while it is used.

use crate::support::client::Client;
use crate::support::server::{Plan, is_nginx};

const CONFIG: &str = "
    worker_processes auto;
    events { }
    http {
        access_log off;
        server {
            listen 8080;
            keepalive_requests 100000;
            location = /open { return 200 open; }
            location / { root html; auth_basic realm; auth_basic_user_file users; }
        }
    }";

/// `secret`, by crypt(3) with 300000 rounds of SHA-512.
const SLOW: &str = "$6$rounds=300000$saltsalt$8eg/BVk4pUuhXG8kncI0tXGpi3GoMG9je.8eL.4jvjSJsNmQ0NlUCC7nkcyxOkbWc/iVyZKlWG7M/1ojtiCFF.";

/// `Basic` credentials of `user` with `secret` and with `wrong`.
const RIGHT: (&str, &str) = ("Authorization", "Basic dXNlcjpzZWNyZXQ=");
const WRONG: (&str, &str) = ("Authorization", "Basic dXNlcjp3cm9uZw==");

/// nginx's worker checks one password after the other and answers nobody meanwhile.
#[tokio::test]
async fn a_password_that_is_slow_to_check_holds_up_nobody_else() {
    if is_nginx() {
        return;
    }
    let plan = Plan::new(CONFIG).file("users", format!("user:{SLOW}\n")).file("html/f", "f");
    let server = plan.one_worker().start().await;
    let mut guessing = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(server.addr(8080)).await;
        client.send_request("GET", "/f", &[WRONG], b"").await;
        guessing.push(client);
    }
    let mut other = Client::connect(server.addr(8080)).await;
    let others = async {
        for _ in 0..20 {
            assert_eq!(other.get("/open").await.text(), "open");
        }
    };
    // The last of eight hashes is not done before a moment's worth of other requests is.
    tokio::select! {
        biased;
        guessed = guessing[7].response("GET") => panic!("a password first: {}", guessed.status),
        () = others => {}
    }
    for client in &mut guessing {
        assert_eq!(client.response("GET").await.status, 401);
    }
    for _ in 0..2 {
        assert_eq!(other.get_with("/f", &[RIGHT]).await.text(), "f");
    }
}

#[tokio::test]
async fn a_change_of_the_users_is_seen_at_once() {
    let plan = Plan::new(CONFIG).file("users", "user:{PLAIN}secret\n").file("html/f", "f");
    let server = plan.one_worker().start().await;
    let mut client = Client::connect(server.addr(8080)).await;
    for round in 0..20 {
        assert_eq!(client.get_with("/f", &[RIGHT]).await.status, 200, "round {round}");
        // As long as before, and a moment later.
        server.write("users", "user:{PLAIN}SECRET\n");
        assert_eq!(client.get_with("/f", &[RIGHT]).await.status, 401, "round {round}");
        server.write("users", format!("{}user:{{PLAIN}}secret\n", "x:y\n".repeat(20_000 * (round % 2))));
    }
    // As long as nobody is in it, nobody gets in; and without it nobody may.
    server.write("users", "");
    assert_eq!(client.get_with("/f", &[RIGHT]).await.status, 401);
    std::fs::remove_file(server.prefix().join("users")).unwrap();
    assert_eq!(client.get_with("/f", &[RIGHT]).await.status, 403);
}
