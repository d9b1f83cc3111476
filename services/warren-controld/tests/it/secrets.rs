//! A join key is shown once, to whoever made it: not in a log at any level, an answer, a list, a page or the files.

use bytes::Bytes;
use http::Method;

use crate::client::Machine;
use crate::doors::{get, request};
use crate::log;
use crate::world::start;

#[tokio::test]
async fn a_join_key_is_in_no_log_answer_list_or_file() {
    log::listen();
    let world = start().await;
    let made = world.join_key(true).await;
    let secret = made.rsplit('-').next().expect("a secret part").to_owned();
    // One that nobody made is a secret too: it may be right somewhere else.
    let foreign = format!("wkey-auth-0123456789ab-{}", "5ec7e75ec7e7".repeat(6));
    let foreign_secret = foreign.rsplit('-').next().expect("a secret part").to_owned();
    let mut said: Vec<String> = Vec::new();

    let machine = Machine::new(&world, 1, "a").await;
    for key in [&foreign, &made, &made] {
        said.push(format!("{:?}", machine.register(&machine.register_request(Some(key))).await));
    }
    // In the wrong place, of the wrong kind, cut off.
    let version = "\"Version\":130";
    let wrong = [
        format!("{{{version},\"Auth\":\"{made}\"}}"),
        format!("{{{version},\"Auth\":{{\"AuthKey\":\"{made}\",\"AuthKey\":\"{made}\"}}}}"),
        format!("{{{version},\"NodeKey\":\"{made}\"}}"),
        format!("{{{version},\"Expiry\":\"{made}\"}}"),
        format!("{{{version},\"Followup\":\"{made}\"}}"),
        format!("{{{version},\"Hostinfo\":\"{made}\"}}"),
        format!("{{\"Version\":\"{made}\"}}"),
        format!("{{{version},\"Auth\":{{\"AuthKey\":\"{made}"),
    ];
    for body in wrong {
        for path in ["/machine/register", "/machine/map", "/machine/update-health"] {
            let (_, answer) = machine.say(Method::POST, path, body.clone().into_bytes()).await;
            said.push(String::from_utf8_lossy(&answer).into_owned());
        }
        said.push(request(&world, Method::POST, "/verify", Bytes::from(body)).await.1);
    }
    for path in ["/", "/join", "/debug/counters", "/health", "/nonsense"] {
        said.push(get(&world, path).await.1);
    }
    said.push(get(&world, &format!("/register/{made}")).await.1);
    said.push(format!("{:?}", world.admin.keys().await.expect("a list")));
    said.push(format!("{:?}", world.admin.nodes(None).await.expect("a list")));
    said.push(format!("{:?}", world.admin.waiting().await.expect("a list")));
    said.push(format!("{:?}", world.admin.expire_key("1").await));
    said.push(format!("{:?}", machine.register(&machine.register_request(Some(&made))).await));

    let log = log::text();
    assert!(log.contains("a registration was refused"), "the log is listened to");
    for text in said.iter().chain(log.lines().map(str::to_owned).collect::<Vec<_>>().iter()) {
        assert!(!text.contains(&secret) && !text.contains(&foreign_secret), "{text}");
    }
    for file in std::fs::read_dir(world.folder()).expect("files").flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{:?}", file.path());
    }
}
