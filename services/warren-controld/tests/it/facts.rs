//! What nodes say of themselves for postures, what operators say of them, and what a client hears about features.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use warren_api::admin::SetAttribute;
use warren_controld::Overrides;
use warren_crypto::UnixTime;

use crate::client::{Machine, Maps, one_with, peers, two_under};
use crate::world::World;

const POLICY: &str = r#"{
    "postures": { "posture:managed": ["custom:managed == true"] },
    "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"], "srcPosture": ["posture:managed"] }],
}"#;

async fn two() -> (World, [Machine; 2]) {
    two_under(POLICY, ["a", "b"]).await
}

async fn patch(machine: &Machine, update: Value) -> (StatusCode, String) {
    let asked = json!({ "Version": 113, "NodeKey": machine.node.public(), "Update": update });
    let (status, body) = machine.ask(Method::PATCH, "/machine/set-device-attr", &asked).await;
    (status, String::from_utf8(body.to_vec()).expect("UTF-8").trim_end().to_owned())
}

async fn until_peers(maps: &mut Maps, expect: &[&str]) {
    maps.until("other peers", |map| peers(map) == expect).await;
}

#[tokio::test]
async fn what_a_node_says_of_itself_changes_maps_at_once_and_is_kept() {
    let (world, [a, b]) = two().await;
    let mut maps = b.stream().await;
    until_peers(&mut maps, &[]).await;
    assert_eq!(patch(&a, json!({ "custom:managed": true, "custom:tier": 2 })).await.0, StatusCode::OK);
    until_peers(&mut maps, &["a"]).await;
    let facts = world.admin.attributes("1").await.expect("facts");
    assert_eq!((&facts.attributes["custom:tier"], &facts.attributes["node:os"]), (&json!(2), &json!("linux")));
    assert_eq!(facts.set_by["custom:managed"], "node");

    let world = world.kill_and_start_again().await;
    let mut a = a;
    a.reconnect(&world).await;
    assert_eq!(world.admin.attributes("1").await.expect("facts").attributes["custom:managed"], json!(true));
    let mut b = b;
    b.reconnect(&world).await;
    let mut maps = b.stream().await;
    until_peers(&mut maps, &["a"]).await;
    assert_eq!(patch(&a, json!({ "custom:managed": null })).await, (StatusCode::OK, "{}".to_owned()));
    until_peers(&mut maps, &[]).await;
}

#[tokio::test]
async fn a_node_has_no_say_over_others_over_the_servers_names_or_over_an_operator() {
    let (world, [a, b]) = two().await;
    let asked = json!({ "NodeKey": a.node.public(), "Update": { "custom:managed": true } });
    let (status, _) = b.ask(Method::PATCH, "/machine/set-device-attr", &asked).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "another machine's node");
    let (status, text) = patch(&a, json!({ "node:os": "ios", "custom:fine": 1 })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.starts_with("\"node:os\" cannot be set as an attribute"), "{text}");
    let no = SetAttribute { value: json!(false), comment: "left the company".into(), ..SetAttribute::default() };
    world.admin.set_attribute("1", "custom:managed", &no).await.expect("an operator");
    let (status, text) = patch(&a, json!({ "custom:managed": true })).await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::CONFLICT, "custom:managed was set by an operator, who alone can change it")
    );
    let facts = world.admin.attributes("1").await.expect("facts");
    assert_eq!(facts.attributes["custom:managed"], json!(false));
    assert!(!facts.attributes.contains_key("custom:fine"), "all of a request or nothing");
    world.admin.remove_attribute("1", "custom:managed").await.expect("taken away");
    assert_eq!(patch(&a, json!({ "custom:managed": true })).await.0, StatusCode::OK);

    let stranger = Machine::new(&world, 9, "stranger").await;
    assert_eq!(patch(&stranger, json!({ "custom:x": 1 })).await.0, StatusCode::NOT_FOUND);
    world.admin.expire_node("2", &warren_api::admin::ExpireNode::default()).await.expect("expired");
    assert_eq!(patch(&b, json!({ "custom:x": 1 })).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_node_that_changes_its_mind_all_the_time_is_held_back_and_one_that_repeats_itself_is_not() {
    let (_world, [a, b]) = two().await;
    for number in 0..10 {
        assert_eq!(patch(&a, json!({ "custom:n": number })).await.0, StatusCode::OK);
    }
    assert_eq!(patch(&a, json!({ "custom:n": 9 })).await.0, StatusCode::OK, "nothing new");
    assert_eq!(patch(&a, json!({ "custom:n": 10 })).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(patch(&b, json!({ "custom:n": 10 })).await.0, StatusCode::OK);
}

#[tokio::test]
async fn operators_set_facts_for_a_time_and_hear_what_cannot_be() {
    let (world, _machines) = two().await;
    let admin = &world.admin;
    let set = async |name: &str, value: Value, expiry: Option<UnixTime>| {
        let wish = SetAttribute { value, expiry, ..SetAttribute::default() };
        admin.set_attribute("1", name, &wish).await.map_err(|error| error.to_string())
    };
    let later = UnixTime::from_secs(4_000_000_000);
    let facts = set("custom:tier", json!(1.5), Some(later)).await.expect("granted");
    assert_eq!((&facts.attributes["custom:tier"], facts.expiries["custom:tier"]), (&json!(1.5), later));
    assert_eq!(facts.set_by["custom:tier"], "operator");
    for (name, value, expiry, expect) in [
        ("custom:tier", json!("one"), None, "custom:tier is a number, and a text cannot take its place"),
        ("custom:Tier", json!(1), None, "written custom:tier"),
        ("ip:country", json!("DE"), None, "cannot be set as an attribute"),
        ("custom:x", json!([1]), None, "say the value of \"custom:x\""),
        ("custom:x", Value::Null, None, "say the value of \"custom:x\""),
        ("custom:x", json!(1), Some(UnixTime::from_secs(1)), "custom:x would expire in the past"),
    ] {
        let error = set(name, value, expiry).await.expect_err(name);
        assert!(error.contains(expect), "{error}");
    }
    assert!(admin.attributes("77").await.expect_err("nobody").to_string().contains("no such node: 77"));
}

#[tokio::test]
async fn a_client_that_asks_for_a_feature_hears_what_there_is_and_what_not() {
    let (_world, [a, _]) = two().await;
    let ask = async |machine: &Machine, feature: &str| -> Value {
        let asked = json!({ "NodeKey": machine.node.public(), "Feature": feature });
        let (status, body) = machine.post("/machine/feature/query", &asked).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).expect("JSON")
    };
    let funnel = ask(&a, "funnel").await;
    assert!(funnel["Text"].as_str().expect("a text").contains("no way in from the internet"), "{funnel}");
    assert!(funnel.get("Complete").is_none() && funnel.get("URL").is_none() && funnel.get("ShouldWait").is_none());
    assert!(ask(&a, "serve").await["Text"].as_str().expect("a text").contains("serve --http=80"));

    let said = Overrides { set_dns_command: Some("/bin/true".into()), ..Overrides::default() };
    let (_world, machine) = one_with(said).await;
    assert_eq!(ask(&machine, "serve").await, json!({ "Complete": true }));
}
