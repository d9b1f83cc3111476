//! The API on the public port, with keys.

use http::Method;
use warren_api::admin::{ApiKey, CreateApiKey, ExpireApiKey};
use warren_controld::Overrides;

use crate::client::NOW;
use crate::doors::{get, raw};
use crate::log;
use crate::world::{World, audit, start, start_on};

/// One request with these further lines in its head: status, head and body.
async fn ask(world: &World, method: Method, path: &str, lines: &[String], body: &str) -> (u16, String, String) {
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let answer = raw(world, format!("{head}{lines}\r\n{body}").as_bytes()).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0), head.to_lowercase(), body.to_owned())
}

fn bearer(key: &str) -> Vec<String> {
    vec![format!("Authorization: Bearer {key}")]
}

async fn make(world: &World, scopes: &[&str]) -> String {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let wish = CreateApiKey { scopes, ..CreateApiKey::default() };
    world.admin.create_api_key(&wish).await.expect("a key").api_key
}

fn secret(key: &str) -> &str {
    key.rsplit('-').next().expect("a secret part")
}

async fn listed(world: &World) -> Vec<ApiKey> {
    world.admin.api_keys().await.expect("a list")
}

#[tokio::test]
async fn the_api_is_on_the_public_port_as_soon_as_there_is_a_key_and_gone_with_the_last() {
    let world = start().await;
    let foreign = format!("wkey-api-0123456789ab-{}", "5e".repeat(32));
    assert_eq!(ask(&world, Method::GET, "/api/v1/user", &bearer(&foreign), "").await.0, 404, "no key, no API");
    let key = make(&world, &[]).await;
    let (status, _, users) = ask(&world, Method::GET, "/api/v1/user", &bearer(&key), "").await;
    assert!(status == 200 && users.contains("\"name\":\"ann\""), "{status} {users}");
    let made = ask(&world, Method::POST, "/api/v1/user", &bearer(&key), "{\"name\":\"bob\"}").await;
    assert_eq!(made.0, 200, "{}", made.2);

    let shown = listed(&world).await.remove(0);
    let prefix = shown.prefix.strip_prefix("wkey-api-").and_then(|rest| rest.strip_suffix("-***")).expect("masked");
    assert!(key.contains(prefix) && !shown.prefix.contains(secret(&key)), "{shown:?}");
    assert_eq!(shown.scopes, ["all"]);
    assert!(shown.last_seen.is_some() && shown.expiration > shown.created_at, "{shown:?}");

    // As scripts of the field end keys: by what a list shows, or by its digits.
    let body = format!("{{\"prefix\":\"{}\"}}", shown.prefix);
    assert_eq!(ask(&world, Method::POST, "/api/v1/apikey/expire", &bearer(&key), &body).await.0, 200);
    assert_eq!(ask(&world, Method::GET, "/api/v1/user", &bearer(&key), "").await.0, 401, "it has ended");
    let second = make(&world, &["all"]).await;
    let path = format!("/api/v1/apikey/{prefix}");
    let gone = ask(&world, Method::DELETE, &path, &bearer(&second), "").await;
    assert_eq!((gone.0, gone.2.as_str()), (200, "{}"));
    let error = world.admin.delete_api_key(prefix).await.expect_err("gone").to_string();
    assert_eq!(error, format!("no such API key: {prefix}"));
    let last = listed(&world).await.remove(0);
    let error = ExpireApiKey { prefix: last.prefix.clone(), id: "77".into() };
    let error = world.admin.expire_api_key(&error).await.expect_err("two keys").to_string();
    assert!(error.ends_with("and id 77 are two keys"), "{error}");

    // What was done by key says so in the audit table, and a restart forgets nothing.
    let world = start_on(world.stop().await, Overrides::default()).await;
    assert_eq!(ask(&world, Method::GET, "/api/v1/user", &bearer(&second), "").await.0, 200);
    world.admin.delete_api_key(&last.prefix).await.expect("granted");
    assert_eq!(ask(&world, Method::GET, "/api/v1/user", &bearer(&second), "").await.0, 404, "no key, no API");
    let lines = audit(world).await;
    let by = |action: &str| lines.iter().find(|line| line.action == action).map(|line| line.actor.as_str());
    assert_eq!(by("create_user"), Some(format!("api key {prefix} from 127.0.0.1").as_str()));
    assert!(by("create_api_key").is_some_and(|actor| actor.ends_with(" by admin socket")));
    assert_eq!(by("see_api_key"), None);
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_is_refused_flatly_beyond_them() {
    let world = start().await;
    let (read, nodes, two) =
        (make(&world, &["read"]).await, make(&world, &["nodes"]).await, make(&world, &["users", "policy"]).await);
    let policy = "{\"policy\":\"{}\"}";
    let cases = [
        (&read, Method::GET, "/api/v1/node", "", 200),
        (&read, Method::GET, "/api/v1/apikey", "", 200),
        (&read, Method::POST, "/api/v1/policy/check", policy, 403),
        (&read, Method::PUT, "/api/v1/policy", policy, 403),
        (&read, Method::POST, "/api/v1/user", "{\"name\":\"eve\"}", 403),
        (&read, Method::POST, "/api/v1/apikey", "{}", 403),
        (&nodes, Method::GET, "/api/v1/node", "", 200),
        (&nodes, Method::DELETE, "/api/v1/node/7", "", 404),
        (&nodes, Method::GET, "/api/v1/user", "", 403),
        (&nodes, Method::POST, "/api/v1/apikey", "{\"scopes\":[\"all\"]}", 403),
        (&nodes, Method::GET, "/api/v1/health", "", 200),
        (&two, Method::POST, "/api/v1/user", "{\"name\":\"bob\"}", 200),
        (&two, Method::POST, "/api/v1/policy/check", policy, 200),
        (&two, Method::PUT, "/api/v1/policy", policy, 200),
        (&two, Method::DELETE, "/api/v1/user/77?force=true", "", 403),
        (&two, Method::DELETE, "/api/v1/user/77", "", 404),
        (&two, Method::GET, "/api/v1/preauthkey", "", 403),
        (&two, Method::GET, "/api/v1/nonsense", "", 404),
    ];
    for (key, method, path, body, expected) in cases {
        let (status, _, said) = ask(&world, method.clone(), path, &bearer(key), body).await;
        assert_eq!(status, expected, "{method} {path}: {said}");
        if expected == 403 {
            assert!(said.contains("\"detail\":\"this API key may not do that\""), "{said}");
        }
    }
    let names: Vec<String> = world.admin.users().await.expect("a list").into_iter().map(|user| user.name).collect();
    assert_eq!(names, ["ann", "bob"]);
    let wish = CreateApiKey { scopes: vec!["everything".into()], ..CreateApiKey::default() };
    let error = world.admin.create_api_key(&wish).await.expect_err("no scope").to_string();
    assert!(error.starts_with("\"everything\" is not a scope: say all, read, "), "{error}");
}

#[tokio::test]
async fn without_a_good_key_all_are_told_the_same_and_too_many_are_told_to_wait() {
    log::listen();
    let world = start().await;
    let key = make(&world, &["all"]).await;
    let ended = make(&world, &["all"]).await;
    let expire = ExpireApiKey { prefix: ended.clone(), ..ExpireApiKey::default() };
    world.admin.expire_api_key(&expire).await.expect("by the whole text, too");
    let flipped = if key.ends_with('0') { '1' } else { '0' };
    let near = format!("{}{flipped}", &key[..key.len() - 1]);
    let wrong = [
        vec![],
        bearer(""),
        bearer(&near),
        bearer(&ended),
        vec![format!("Authorization: Basic {key}")],
        vec![format!("Authorization: {key}")],
        [bearer(&key), bearer(&key)].concat(),
    ];
    let mut said = Vec::new();
    for lines in &wrong {
        let (status, head, body) = ask(&world, Method::GET, "/api/v1/user", lines, "").await;
        assert_eq!((status, body.as_str()), (401, "Unauthorized\n"), "{lines:?}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
        said.push(head + &body);
    }
    // A page of another site is refused with a good key; the server's own and programs are not.
    let page = |origin: String| [bearer(&key), vec![format!("Origin: {origin}")]].concat();
    let foreign = ask(&world, Method::GET, "/api/v1/user", &page("https://evil.example".into()), "").await;
    assert_eq!(foreign.0, 403, "{}", foreign.2);

    let mut last = 0;
    for _ in 0..5 {
        let (status, head, body) = ask(&world, Method::DELETE, "/api/v1/user/1", &bearer(&near), "").await;
        last = status;
        said.push(head + &body);
    }
    assert_eq!(last, 429);
    let limited = ask(&world, Method::GET, "/api/v1/user", &[], "").await;
    assert!(limited.0 == 429 && limited.1.contains("retry-after: 60"), "{}", limited.1);
    assert_eq!(ask(&world, Method::GET, "/api/v1/user", &bearer(&key), "").await.0, 200, "a good key is not shut out");

    // Nor is a key anywhere that somebody else reads.
    said.push(format!("{:?}", listed(&world).await));
    said.push(format!("{:?}", world.admin.create_api_key(&CreateApiKey::default()).await));
    said.push(format!("{:?}", world.admin.delete_api_key(&near).await));
    said.push(get(&world, &format!("/api/v1/user?key={}", key.len())).await.1);
    let early = CreateApiKey { expiration: Some(warren_crypto::UnixTime::from_secs(1)), ..CreateApiKey::default() };
    assert!(NOW > warren_crypto::UnixTime::from_secs(1) && world.admin.create_api_key(&early).await.is_err());
    let log = log::text();
    for reason in ["wrong secret for API key", "has expired", "no API key", "web page of another site"] {
        assert!(log.contains(reason), "the log says why: {reason}");
    }
    for text in said.iter().map(String::as_str).chain(log.lines()) {
        for key in [&key, &near, &ended] {
            assert!(!text.contains(secret(key)), "{text}");
        }
    }
    for file in std::fs::read_dir(world.folder()).expect("files").flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!has(secret(&key)) && !has(secret(&ended)), "{:?}", file.path());
    }
}

#[tokio::test]
async fn a_key_that_ends_while_its_request_is_read_does_nothing_any_more() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = start().await;
    let keep = make(&world, &["all"]).await;
    let stolen = make(&world, &["all"]).await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.expect("a door");
    let lines = bearer(&stolen).concat();
    let head =
        format!("POST /api/v1/apikey HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n{lines}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    // It was seen, so its head was taken in.
    let is_it = |key: &ApiKey| stolen.starts_with(key.prefix.trim_end_matches('*'));
    let prefix = listed(&world).await.into_iter().find(is_it).expect("listed").prefix;
    for _ in 0..200 {
        let seen = listed(&world).await.into_iter().find(|key| key.prefix == prefix).expect("listed").last_seen;
        if seen.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    world.admin.delete_api_key(&prefix).await.expect("granted");
    stream.write_all(b"{}").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(listed(&world).await.len(), 1, "no key was made");
    assert_eq!(ask(&world, Method::GET, "/api/v1/user", &bearer(&keep), "").await.0, 200);
}
