//! Who gets in, and what the others are told.

use http::{Method, StatusCode};
use warren_api::admin::{CreateKey, CreateUser, ExpireNode};
use warren_crypto::UnixTime;
use warren_wire::{CapabilityVersion, LOGOUT_EXPIRY, RegisterRequest};

use crate::client::Machine;
use crate::doors::get;
use crate::world::{PATIENCE, start};

#[tokio::test]
async fn a_one_off_key_that_twenty_machines_race_for_lets_one_in() {
    let world = start().await;
    let key = world.join_key(false).await;
    let mut machines = Vec::new();
    for seed in 0..20 {
        machines.push(Machine::new(&world, seed, &format!("racer-{seed}")).await);
    }
    let mut race = tokio::task::JoinSet::new();
    for machine in machines {
        let key = key.clone();
        race.spawn(async move {
            let answer = machine.register(&machine.register_request(Some(&key))).await;
            (answer.machine_authorized, answer.error)
        });
    }
    let outcomes = race.join_all().await;
    assert_eq!(outcomes.iter().filter(|(is_in, _)| *is_in).count(), 1);
    assert_eq!(outcomes.iter().filter(|(_, error)| error == "authkey already used").count(), 19);
    assert_eq!(world.admin.nodes(None).await.expect("a list").len(), 1);
}

#[tokio::test]
async fn a_machine_that_is_known_may_announce_thousands_of_networks_when_it_registers_again() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "connector").await;
    let key = world.join_key(false).await;
    let routes = |count: u16| (0..count).map(|n| format!("10.{}.{}.1/32", n >> 8, n & 255).parse().expect("a prefix"));
    let mut request = machine.register_request(Some(&key));
    request.hostinfo.get_or_insert_default().routable_ips = routes(4096).collect();
    let (status, _) = machine.post("/machine/register", &request).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "a stranger says little");
    machine.join(&key).await;
    let again = machine.register(&request).await;
    assert!(again.machine_authorized, "{}", again.error);
}

#[tokio::test]
async fn wrong_expired_and_ended_keys_are_refused_with_the_fields_own_words() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    let error = async |key: &str| machine.register(&machine.register_request(Some(key))).await.error;
    assert_eq!(error("hskey-auth-nonsense").await, "invalid pre auth key");
    let good = world.join_key(true).await;
    let forged = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
    assert_eq!(error(&forged).await, "invalid pre auth key");
    let id = world.admin.keys().await.expect("a list")[0].id.clone();
    world.admin.expire_key(&id).await.expect("ended");
    assert_eq!(error(&good).await, "authkey revoked");
}

#[tokio::test]
async fn a_machine_without_a_key_waits_at_its_page_until_an_operator_lets_it_in() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "<b>laptop</b>").await;
    let request = machine.register_request(None);
    let link = machine.register(&request).await.auth_url;
    let id = link.strip_prefix(&format!("http://{}/register/", world.address)).expect("our link").to_owned();

    let (status, page) = get(&world, &format!("/register/{id}")).await;
    assert_eq!(status, 200);
    assert!(
        page.contains(&format!("--auth-id {id}")) && page.contains("&lt;b&gt;laptop") && !page.contains("<b>laptop")
    );
    let waiting = world.admin.waiting().await.expect("a list");
    assert_eq!((waiting.len(), waiting[0].auth_id.as_str()), (1, id.as_str()));

    let follow_up = RegisterRequest { followup: link.clone(), ..request.clone() };
    let (answer, node) = tokio::join!(machine.register(&follow_up), async {
        // Whichever comes first: one that follows up afterwards is let in at once.
        world.admin.register("ann", &id).await.expect("let in")
    });
    assert!(answer.machine_authorized, "{answer:?}");
    assert_eq!((answer.login.login_name.as_str(), node.user.name.as_str()), ("ann", "ann"));
    assert!(world.admin.waiting().await.expect("a list").is_empty());
    let (status, page) = get(&world, &format!("/register/{id}")).await;
    assert!(status == 200 && page.contains("This device is in"), "{page}");
}

#[tokio::test]
async fn a_stranger_is_not_listened_to_for_long() {
    let world = start().await;
    let machine = Machine::new(&world, 1, &"x".repeat(100 << 10)).await;
    let (status, _) = machine.post("/machine/register", &machine.register_request(None)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = machine.post("/machine/map", &machine.map_request()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn of_three_requests_that_wait_for_one_machine_the_oldest_goes() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    let request = machine.register_request(None);
    let link = machine.register(&request).await.auth_url;
    let follow_up = RegisterRequest { followup: link.clone(), ..request };
    let wait = || machine.post("/machine/register", &follow_up);
    let (first, second, third) = (wait(), wait(), wait());
    tokio::pin!(first, second, third);
    // Whichever came first: one of the three is sent away while nobody has decided, and the others hear the decision.
    let (status, _) = tokio::select! { a = &mut first => a, a = &mut second => a, a = &mut third => a };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_machine_that_is_turned_away_hears_so() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    let request = machine.register_request(None);
    let link = machine.register(&request).await.auth_url;
    let follow_up = RegisterRequest { followup: link.clone(), ..request };
    let (answer, rejected) = tokio::join!(machine.register(&follow_up), world.admin.reject(&link));
    rejected.expect("turned away");
    assert_eq!(answer.error, "registration was rejected");
}

#[tokio::test]
async fn a_client_that_is_too_old_is_told_what_it_needs() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    let request = RegisterRequest { version: CapabilityVersion(112), ..machine.register_request(None) };
    let (status, text) = machine.post("/machine/register", &request).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&text).contains("1.80"));
    let request = warren_wire::MapRequest { version: CapabilityVersion(112), ..machine.map_request() };
    assert_eq!(machine.post("/machine/map", &request).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_node_key_is_of_no_use_to_another_machine() {
    let world = start().await;
    let key = world.join_key(true).await;
    let owner = Machine::new(&world, 1, "owner").await;
    owner.join(&key).await;
    let mut thief = Machine::new(&world, 2, "thief").await;
    thief.node = owner.node.clone();
    let answer = thief.register(&thief.register_request(None)).await;
    assert_eq!(answer.error, "node exists with a different machine key");
    let request = warren_wire::MapRequest { stream: true, ..thief.map_request() };
    assert_eq!(thief.post("/machine/map", &request).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_that_logs_out_must_come_back_with_another_key() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(true).await).await;
    assert!(world.admission.admits(&machine.node.public(), [127, 0, 0, 1].into()));
    let logout = RegisterRequest { expiry: Some(UnixTime::from_secs(LOGOUT_EXPIRY)), ..machine.register_request(None) };
    assert!(machine.register(&logout).await.node_key_expired);
    assert!(machine.register(&machine.register_request(None)).await.node_key_expired);
    assert!(!world.admission.admits(&machine.node.public(), [127, 0, 0, 1].into()));
}

#[tokio::test]
async fn relays_are_told_whom_to_carry() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "a").await;
    let ask = async || {
        let body = format!("{{\"NodePublic\":\"{}\",\"Source\":\"192.0.2.1\"}}", machine.node.public());
        crate::doors::request(&world, Method::POST, "/verify", body.into()).await
    };
    assert_eq!(ask().await, (200, "{\"Allow\":false}".to_owned()));
    let mut news = world.admission.clone();
    machine.join(&world.join_key(false).await).await;
    assert!(tokio::time::timeout(PATIENCE, news.changed()).await.expect("news"));
    assert_eq!(ask().await, (200, "{\"Allow\":true}".to_owned()));
    let id = world.admin.nodes(None).await.expect("a list")[0].id.clone();
    world.admin.expire_node(&id, &ExpireNode::default()).await.expect("ended");
    assert_eq!(ask().await, (200, "{\"Allow\":false}".to_owned()));
    let oversized = vec![b' '; 5000];
    assert_eq!(crate::doors::request(&world, Method::POST, "/verify", oversized.into()).await.0, 413);
}

#[tokio::test]
async fn operators_are_told_in_words_what_is_wrong() {
    let world = start().await;
    let admin = &world.admin;
    let error =
        admin.create_user(&CreateUser { name: "ann".into(), ..CreateUser::default() }).await.expect_err("taken");
    assert_eq!(error.to_string(), "user name \"ann\" is taken");
    let error = admin.create_key(&CreateKey { user: "bob".into(), ..CreateKey::default() }).await.expect_err("nobody");
    assert_eq!(error.to_string(), "no such user: bob");
    assert_eq!(admin.delete_node("7").await.expect_err("no node").to_string(), "no such node: 7");
    assert!(admin.delete_node("seven").await.expect_err("no number").to_string().contains("not the number"));
    let error = admin.set_policy("{ \"acls\": [ }").await.expect_err("no HuJSON").to_string();
    assert!(error.starts_with("policy: line 1, column 13"), "{error}");
    assert!(admin.check_policy("{ \"acls\": [] }").await.is_ok());
    assert_eq!(admin.policy().await.expect("none").policy, "");
}

#[tokio::test]
async fn the_whole_life_of_people_keys_and_nodes_is_in_the_operators_hands() {
    let world = start().await;
    let admin = &world.admin;
    let machine = Machine::new(&world, 1, "Ann's Laptop").await;
    machine.join(&world.join_key(false).await).await;
    let node = admin.nodes(Some("ann")).await.expect("a list").remove(0);
    assert_eq!((node.given_name.as_str(), node.name.as_str()), ("anns-laptop", "Ann's Laptop"));
    assert_eq!(node.register_method, "REGISTER_METHOD_AUTH_KEY");
    assert_eq!(node.ip_addresses.len(), 2);
    assert!(node.pre_auth_key.expect("joined with one").key.ends_with("-***"));
    assert_eq!(admin.rename_node(&node.id, "desk").await.expect("renamed").given_name, "desk");
    assert_eq!(admin.set_tags(&node.id, &["tag:web".into()]).await.expect("tagged").tags, ["tag:web"]);
    let user = admin.user("ann").await.expect("there");
    assert_eq!(admin.rename_user(&user.id, "anna").await.expect("renamed").name, "anna");
    admin.delete_node(&node.id).await.expect("gone");
    admin.delete_user(&user.id).await.expect("gone");
    assert!(admin.keys().await.expect("a list").is_empty(), "a person's keys go with the person");
    assert!(admin.health().await.expect("an answer").database_connectivity);
}
