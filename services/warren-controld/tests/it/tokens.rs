//! What nodes ask of the server beside maps: tokens, and records for certificates.

use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use warren_api::admin::CreateUser;
use warren_controld::Overrides;
use warren_crypto::UnixTime;
use warren_io::listener::Caps;
use warren_oidc::{Claims, Expected, KeySet, Secret};

use crate::client::Machine;
use crate::doors::request;
use crate::world::{World, start, start_with};

async fn public(world: &World, path: &str) -> Value {
    let (status, body) = request(world, Method::GET, path, Bytes::new()).await;
    assert_eq!(status, 200, "{path}");
    serde_json::from_str(&body).expect("JSON")
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

#[tokio::test]
async fn a_node_gets_a_token_that_the_published_keys_verify_and_other_machines_get_none_for_it() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    let asked = json!({ "CapVersion": 113, "NodeKey": machine.node.public(), "Audience": "https://vault.example" });
    assert_eq!(machine.post("/machine/id-token", &asked).await.0, StatusCode::NOT_FOUND, "it has not joined");
    machine.join(&world.join_key(false).await).await;
    assert_eq!(public(&world, "/.well-known/jwks.json").await, json!({ "keys": [] }), "nobody has asked yet");
    let (status, body) = machine.post("/machine/id-token", &asked).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    let token = answer["id_token"].as_str().expect("a text").to_owned();
    let discovery = public(&world, "/.well-known/openid-configuration").await;
    let issuer = format!("http://{}", world.address);
    assert_eq!(
        (&discovery["issuer"], &discovery["jwks_uri"]),
        (&json!(issuer), &json!(issuer.clone() + "/.well-known/jwks.json"))
    );
    let keys = public(&world, "/.well-known/jwks.json").await.to_string();
    let published = KeySet::parse(keys.as_bytes()).expect("keys");
    let expected =
        Expected { issuer: &issuer, client_id: "https://vault.example", nonce: None, subject: Some("a.mesh.test") };
    let now = UnixTime::from_duration(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970"));
    Claims::verify(&Secret::new(token.clone()), &published, expected, now).expect("signed by the published key");
    let said = claims(&token);
    for (name, expect) in [
        ("iss", json!(issuer)),
        ("sub", json!("a.mesh.test")),
        ("aud", json!("https://vault.example")),
        ("nid", json!(1)),
        ("domain", json!("127.0.0.1")),
        ("user", json!("127.0.0.1:ann")),
        ("uid", json!(1)),
        ("key", json!(machine.node.public())),
        ("addresses", json!(["100.64.0.1/32", "fd7a:115c:a1e0::1/128"])),
    ] {
        assert_eq!(said[name], expect, "{name}");
    }
    assert_eq!(said["exp"].as_u64().expect("a time") - said["iat"].as_u64().expect("a time"), 300);
    let other = Machine::new(&world, 2, "b").await;
    assert_eq!(other.post("/machine/id-token", &asked).await.0, StatusCode::NOT_FOUND);
    let nobody = json!({ "NodeKey": machine.node.public() });
    assert_eq!(machine.post("/machine/id-token", &nobody).await.0, StatusCode::BAD_REQUEST, "for whom?");
    // The key outlives the server, and an expired node gets no token.
    let world = world.kill_and_start_again().await;
    let again = public(&world, "/.well-known/jwks.json").await.to_string();
    assert_eq!(again, keys);
    let mut machine = machine;
    machine.reconnect(&world).await;
    world.admin.expire_node("1", &Default::default()).await.expect("expired");
    assert_eq!(machine.post("/machine/id-token", &asked).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_record_for_a_certificate_is_made_by_the_operators_program_for_names_of_the_node_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (program, out) = (folder.path().join("hook"), folder.path().join("out"));
    let text = format!("#!/bin/sh\n[ \"$2\" = bad ] && exit 1\necho \"$1 $2\" >> {}\n", out.display());
    std::fs::write(&program, text).expect("writable");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mine");
    let said = Overrides { set_dns_command: Some(program), ..Overrides::default() };
    let world = start_with(said, Caps::default()).await;
    world.admin.create_user(&CreateUser { name: "ann".into(), ..CreateUser::default() }).await.expect("a new name");
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(false).await).await;
    let mut maps = machine.stream().await;
    let map = maps.until("a map", |_| true).await;
    assert_eq!(map.dns.cert_domains, ["a.mesh.test"]);
    assert!(map.self_node.cap_map.contains_key("https"));
    let asked = |name: &str, value: &str| json!({ "Version": 113, "NodeKey": machine.node.public(), "Name": name, "Type": "TXT", "Value": value });
    let (status, body) = machine.post("/machine/set-dns", &asked("_acme-challenge.a.mesh.test", "digest")).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"{}"[..]));
    assert_eq!(std::fs::read_to_string(&out).expect("written"), "_acme-challenge.a.mesh.test digest\n");
    let (status, body) = machine.post("/machine/set-dns", &asked("_acme-challenge.b.mesh.test", "digest")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&body).contains("is not this node's to set"), "{body:?}");
    let (status, body) = machine.post("/machine/set-dns", &asked("_acme-challenge.a.mesh.test", "bad")).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(String::from_utf8_lossy(&body).contains("its operator finds the reason"), "{body:?}");
    assert_eq!(std::fs::read_to_string(&out).expect("written").lines().count(), 1);
    // Whoever is not in the network gets no certificate for a name of it.
    let good = asked("_acme-challenge.a.mesh.test", "digest");
    for (approved, expect) in [(false, StatusCode::FORBIDDEN), (true, StatusCode::OK)] {
        world.admin.set_authorized("1", approved).await.expect("granted");
        assert_eq!(machine.post("/machine/set-dns", &good).await.0, expect);
    }
    world.admin.expire_node("1", &Default::default()).await.expect("expired");
    assert_eq!(machine.post("/machine/set-dns", &good).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn without_a_program_for_records_a_client_is_told_whom_to_ask() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(false).await).await;
    let asked =
        json!({ "NodeKey": machine.node.public(), "Name": "_acme-challenge.a.mesh.test", "Type": "TXT", "Value": "x" });
    let (status, body) = machine.post("/machine/set-dns", &asked).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert!(String::from_utf8_lossy(&body).contains("its operator can set set_dns_command"), "{body:?}");
    let mut maps = machine.stream().await;
    assert!(maps.until("a map", |_| true).await.dns.cert_domains.is_empty(), "nor is it promised");
}
