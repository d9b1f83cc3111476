//! What scripts say to the REST API, in their own ways.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use warren_crypto::UnixTime;

use crate::client::Machine;
use crate::world::{World, start};

/// Status and body of one request by the admin socket.
async fn post(world: &World, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(world.admin.socket().expect("a socket")).await.expect("listening");
    let length = body.len();
    let head = format!(
        "POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[tokio::test]
async fn a_key_that_is_to_live_for_ever_does_not_expire_at_once_however_that_is_said() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(true).await).await;
    let node = async || world.admin.nodes(None).await.expect("a list").remove(0);
    for (path, body) in [
        ("node/1/expire?disableExpiry=true", ""),
        ("node/1/expire?disable_expiry=1", "{}"),
        ("node/1/expire", r#"{"disableExpiry": true}"#),
        ("node/1/expire", r#"{"disable_expiry": true, "nodeId": "1"}"#),
    ] {
        assert_eq!(post(&world, "node/1/expire?expiry=2100-01-01T00:00:00Z", "").await.0, 200);
        assert_eq!(node().await.expiry, Some(UnixTime::from_secs(4_102_444_800)));
        let (status, text) = post(&world, path, body).await;
        assert_eq!((status, node().await.expiry, node().await.expired), (200, None, false), "{path} {body}: {text}");
    }
    for (path, body, part) in [
        ("node/1/expire", r#"{"disableExpirey": true}"#, "disableExpirey"),
        ("node/1/expire?disable-expiry=true", "", "disable-expiry"),
        ("node/1/expire?disableExpiry=yes", "", "true or false"),
        ("node/1/expire?disableExpiry=", "", "disableExpiry without a value"),
        ("node/1/expire?expiry=", "", "expiry without a value"),
        ("node/1/expire?disableExpiry=true&expiry=2100-01-01T00:00:00Z", "", "at a time or never"),
        ("node/backfillips", "", "confirmed=true"),
    ] {
        let (status, text) = post(&world, path, body).await;
        assert!(status == 400 && text.contains(part), "{path} {body}: {status} {text}");
        assert!(!node().await.expired);
    }
    assert_eq!(post(&world, "node/backfillips?confirmed=true", "").await, (200, r#"{"changes":[]}"#.to_owned()));
    assert_eq!(post(&world, "preauthkey", r#"{"user": 1, "acl_tags": ["tag:x"]}"#).await.0, 200);
}
