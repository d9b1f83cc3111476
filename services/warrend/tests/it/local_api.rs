//! What a client may ask, and what becomes of those who ask wrongly.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use warren_api::local::{BackendState, ClientError, MaskedPrefs, Notify, PingKind, Prefs, StartOptions, watch};

use crate::fake::Daemon;

/// Sends `request` as it is and reads until the daemon closes.
async fn raw(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = daemon.connect().await;
    // It may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn status_comes_with_or_without_peers() {
    let daemon = Daemon::start().await;
    assert!(daemon.client.status(true).await.unwrap().peer.is_some());
    let status = daemon.client.status(false).await.unwrap();
    assert_eq!((status.backend_state.as_str(), status.peer.is_none()), ("Running", true));
}

#[tokio::test]
async fn preferences_are_edited_field_by_field_and_checked() {
    let daemon = Daemon::start().await;
    let after = daemon.client.edit_prefs(&MaskedPrefs::new().set("Hostname", "web")).await.unwrap();
    assert_eq!(after.hostname, "web");
    assert_eq!(daemon.client.prefs().await.unwrap(), after);
    let error = daemon.client.edit_prefs(&MaskedPrefs::new().set("Colour", "red")).await.unwrap_err();
    assert!(matches!(error, ClientError::Daemon { status: 400, .. }), "{error}");
    assert!(daemon.client.check_prefs(&Prefs::default()).await.is_ok());
    let ssh = Prefs { run_ssh: true, ..Prefs::default() };
    assert_eq!(
        daemon.client.check_prefs(&ssh).await.unwrap_err().to_string(),
        "the SSH server is not built yet in this node"
    );
}

#[tokio::test]
async fn start_carries_the_key_and_the_servers_key() {
    let daemon = Daemon::start().await;
    let options = StartOptions { update_prefs: None, auth_key: "k".into(), warren_server_key: "mkey:00".into() };
    daemon.client.start(&options).await.unwrap();
    let told = daemon.fake.told().start.take().unwrap();
    assert_eq!((told.auth_key.as_str(), told.warren_server_key.as_str()), ("k", "mkey:00"));
}

#[tokio::test]
async fn profiles_are_listed_made_switched_and_deleted() {
    let daemon = Daemon::start().await;
    daemon.client.new_profile().await.unwrap();
    daemon.client.new_profile().await.unwrap();
    assert_eq!(daemon.client.profiles().await.unwrap().len(), 2);
    assert_eq!(daemon.client.current_profile().await.unwrap().id, "0001");
    daemon.client.switch_profile("0000").await.unwrap();
    assert!(daemon.client.switch_profile("beef").await.is_err());
    daemon.client.delete_profile("0000").await.unwrap();
    assert_eq!(daemon.client.profiles().await.unwrap().len(), 1);
}

#[tokio::test]
async fn whois_of_nobody_is_none_and_pings_name_their_kind() {
    let daemon = Daemon::start().await;
    assert!(daemon.client.whois("100.64.0.1:22").await.unwrap().is_some());
    assert!(daemon.client.whois("100.64.0.1:23").await.unwrap().is_none());
    let result = daemon.client.ping("100.64.0.1".parse().unwrap(), PingKind::Tsmp, 0).await.unwrap();
    assert_eq!(result.node_name, "TSMP");
    assert_eq!(daemon.client.derp_map().await.unwrap(), None);
    assert!(daemon.client.netcheck().await.unwrap().udp);
    assert_eq!(daemon.client.counters().await.unwrap()["packets_in"], 7);
}

#[tokio::test]
async fn a_watcher_hears_what_it_asked_for_first_and_then_the_news() {
    let daemon = Daemon::start().await;
    let mut bus = daemon.client.watch(watch::INITIAL_STATE | watch::INITIAL_PREFS).await.unwrap();
    let first = bus.next().await.unwrap().unwrap();
    assert_eq!(first.state, Some(BackendState::Running.number()));
    assert!(first.prefs.is_some() && first.initial_status.is_none() && !first.session_id.is_empty());
    let news = daemon.fake.told().watchers.pop().unwrap();
    news.send(Notify { browse_to_url: Some("http://x/".into()), ..Notify::default() }).await.unwrap();
    assert_eq!(bus.next().await.unwrap().unwrap().browse_to_url.as_deref(), Some("http://x/"));
    drop(news);
    assert!(bus.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_watcher_who_leaves_is_forgotten() {
    let daemon = Daemon::start().await;
    let mut bus = daemon.client.watch(0).await.unwrap();
    bus.next().await.unwrap().unwrap();
    let news = daemon.fake.told().watchers.pop().unwrap();
    drop(bus);
    news.closed().await;
}

#[tokio::test]
async fn a_dialled_stream_carries_bytes_both_ways() {
    let daemon = Daemon::start().await;
    let mut stream = daemon.client.dial("echo", 7).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    let error = daemon.client.dial("nowhere", 7).await.err().unwrap();
    assert_eq!(error.to_string(), "resolve failure: nowhere: no such host");
}

#[tokio::test]
async fn what_is_not_built_answers_404_and_a_wrong_method_405() {
    let daemon = Daemon::start().await;
    for (path, expect) in [("/localapi/v0/files/", "404"), ("/", "404"), ("/localapi/v0/start", "405")] {
        let answer = raw(&daemon, &get(path, "Host: local-tailscaled.sock\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expect}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_web_page_is_refused_whatever_it_asks() {
    let daemon = Daemon::start().await;
    for headers in [
        "Host: local-tailscaled.sock\r\nOrigin: https://evil.example\r\n",
        "Host: local-tailscaled.sock\r\nReferer: https://evil.example/\r\n",
        "Host: localhost\r\n",
    ] {
        let answer = raw(&daemon, &get("/localapi/v0/status", headers)).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("invalid localapi request"), "{answer}");
    }
    let answer = raw(&daemon, &get("/localapi/v0/status", "Host: local-tailscaled.sock\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let lower = answer.to_ascii_lowercase();
    for header in ["tailscale-version: 1.98.0", "tailscale-cap: 113", "x-frame-options: deny"] {
        assert!(lower.contains(header), "{header}: {answer}");
    }
}

#[tokio::test]
async fn an_oversized_body_is_refused_and_others_go_on() {
    let daemon = Daemon::start().await;
    let body = vec![b' '; 2 << 20];
    let mut request = format!(
        "POST /localapi/v0/start HTTP/1.1\r\nHost: local-tailscaled.sock\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let answer = raw(&daemon, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(daemon.fake.told().start.is_none());
    assert!(daemon.client.status(false).await.is_ok());
}

#[tokio::test]
async fn garbage_is_answered_or_hung_up_on_and_others_go_on() {
    let daemon = Daemon::start().await;
    let endless = [b"GET /".as_slice(), &[b'a'; 200 << 10]].concat();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        &[0; 4096],
        b"GET\r\n\r\n",
        b"POST /localapi/v0/prefs HTTP/9\r\n\r\n",
        &endless,
    ] {
        let mut stream = daemon.connect().await;
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    let bad_json = "POST /localapi/v0/start HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{{{";
    assert!(raw(&daemon, bad_json.as_bytes()).await.starts_with("HTTP/1.1 400"));
    assert!(daemon.client.status(false).await.is_ok());
}

#[tokio::test]
async fn told_to_stop_it_drops_watchers_and_leaves_no_socket() {
    let daemon = Daemon::start().await;
    let mut bus = daemon.client.watch(0).await.unwrap();
    bus.next().await.unwrap().unwrap();
    let socket = daemon.stop().await;
    assert!(!matches!(bus.next().await, Ok(Some(_))));
    assert!(!socket.exists());
}
