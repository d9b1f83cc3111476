//! Shell sessions that need a check.

use http::{Method, StatusCode};
use url::Url;
use warren_api::admin::{CreateUser, ExpireNode};
use warren_control::AuthId;
use warren_controld::Overrides;
use warren_wire::ssh::SshAction;

use crate::browser::{Browser, Page};
use crate::client::{Machine, two_under};
use crate::doors::get;
use crate::log;
use crate::provider::{Provider, person};
use crate::signing_in::{answer, both, enrol, refused, settings, still_asked};
use crate::world::{World, audit, start_on};

const POLICY: &str = r#"{
    "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],
    "ssh": [{
        "action": "check", "checkPeriod": "1h", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"],
    }],
}"#;

/// Two machines of ann's: node 1 wants in at node 2.
async fn two() -> (World, [Machine; 2]) {
    two_under(POLICY, ["from", "to"]).await
}

async fn ask(machine: &Machine, path: &str) -> Result<SshAction, StatusCode> {
    let (status, body) = machine.ask(Method::GET, path, &()).await;
    if status == StatusCode::OK { Ok(serde_json::from_slice(&body).expect("an action")) } else { Err(status) }
}

/// The path at which to ask again, and the id of the check.
fn held(action: &SshAction) -> (String, String) {
    let url = url::Url::parse(&action.hold_and_delegate).expect("a link");
    let id = url.query_pairs().find(|(name, _)| name == "auth_id").expect("an id").1.into_owned();
    assert!(id.parse::<AuthId>().is_ok());
    (format!("{}?{}", url.path(), url.query().expect("a query")), id)
}

const FIRST: &str = "/machine/ssh/action/1/to/2?local_user=root";

#[tokio::test]
async fn a_session_is_held_until_somebody_allows_it_and_then_lets_in_for_the_period() {
    let (world, [from, to]) = two().await;
    let first = ask(&to, FIRST).await.expect("an action");
    let (again, id) = held(&first);
    assert!(first.message.contains(&format!("/auth/{id}")), "{}", first.message);
    let (status, page) = get(&world, &format!("/auth/{id}")).await;
    assert!(
        status == 200 && page.contains("<dd>from</dd>") && page.contains("<dd>to</dd>") && page.contains(&id),
        "{page}"
    );
    let (answer, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&id));
    approved.expect("approved");
    let answer = answer.expect("an action");
    assert!(answer.accept && !answer.reject && answer.hold_and_delegate.is_empty(), "{answer:?}");
    assert!(ask(&to, FIRST).await.expect("an action").accept, "within the hour it is not asked again");
    let (status, page) = get(&world, &format!("/auth/{id}")).await;
    assert!(status == 200 && page.contains("The shell is let in"), "{page}");
    let again = world.admin.approve(&id).await.expect_err("once").to_string();
    assert!(again.contains("this check has been answered before"), "{again}");
    let other_user = ask(&to, "/machine/ssh/action/1/to/2?local_user=daemon").await.expect("an action");
    assert!(other_user.reject, "no rule lets in as this user");
    assert_eq!(ask(&from, FIRST).await, Err(StatusCode::NOT_FOUND), "only the node that is entered asks for itself");
    assert_eq!(ask(&to, "/machine/ssh/action/1/to/2").await, Err(StatusCode::BAD_REQUEST));
    let lines = audit(world).await;
    let line = lines.iter().find(|line| line.action == "answer_check").expect("who let whom in is written down");
    assert_eq!((line.target.as_str(), line.detail.as_str()), ("node:2", "lets in \"root\" from node:1"));
    assert!(line.actor.ends_with(" by admin socket"), "{}", line.actor);
}

#[tokio::test]
async fn a_node_whose_key_has_expired_is_told_of_nobody_who_may_come_in() {
    let (world, [_, to]) = two().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    world.admin.expire_node("2", &ExpireNode::default()).await.expect("expired");
    let (answer, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&id));
    approved.expect("the check is still there");
    assert!(answer.expect("an action").reject);
    assert!(ask(&to, FIRST).await.expect("an action").reject);
}

#[tokio::test]
async fn a_rule_that_asks_for_no_check_any_more_lets_a_held_session_in() {
    let (world, [_, to]) = two().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let accept = POLICY.replace("\"check\", \"checkPeriod\": \"1h\"", "\"accept\"");
    assert_ne!(accept, POLICY);
    let policy = world.admin.set_policy(&accept);
    let (answer, changed) =
        tokio::join!(ask(&to, &again), async { policy.await.map(drop).and(world.admin.approve(&id).await) });
    changed.expect("a policy, and an answer");
    assert!(answer.expect("an action").accept);
    assert!(ask(&to, FIRST).await.expect("an action").accept, "who asks has not heard of it yet");
}

#[tokio::test]
async fn where_every_session_is_checked_an_earlier_check_counts_for_nothing() {
    let (world, [_, to]) = two().await;
    world.admin.set_policy(&POLICY.replace("\"1h\"", "\"always\"")).await.expect("a policy");
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let (answer, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&id));
    approved.expect("approved");
    assert!(answer.expect("an action").accept);
    assert!(!ask(&to, FIRST).await.expect("an action").accept);
}

#[tokio::test]
async fn a_check_that_is_refused_or_forged_lets_nobody_in() {
    let (world, [_, to]) = two().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let (answer, rejected) = tokio::join!(ask(&to, &again), world.admin.reject(&id));
    rejected.expect("refused");
    assert!(answer.expect("an action").reject);
    let made_up = format!("{FIRST}&auth_id={}", AuthId::from_bytes([7; 16]));
    let other = ask(&to, &made_up).await.expect("an action");
    assert!(!other.accept && held(&other).1 != id, "an unknown check is begun anew");
    assert_eq!(get(&world, "/auth/nonsense").await.0, 404);
}

/// Two devices of somebody who signs in: node 1 wants in at node 2.
async fn two_signed_in() -> (Provider, World, Machine, Browser) {
    two_signed_in_with(|_| {}).await
}

async fn two_signed_in_with(change: impl FnOnce(&mut Overrides)) -> (Provider, World, Machine, Browser) {
    let (provider, world) = both(change).await;
    let mut browser = Browser::default();
    enrol(&world, &mut browser, 1).await;
    let to = enrol(&world, &mut browser, 2).await.machine;
    world.admin.set_policy(POLICY).await.expect("a policy");
    (provider, world, to, browser)
}

fn at(world: &World, path: &str) -> Url {
    world.url().join(path).expect("a path")
}

/// From the link that the shell shows to the provider and back.
async fn sign_in(world: &World, browser: &mut Browser, id: &str) -> Page {
    browser.open(&at(world, &format!("/oidc/start/{id}"))).await
}

#[tokio::test]
async fn the_person_whose_device_it_is_signs_in_and_the_shell_goes_on_for_the_period() {
    let (provider, world, to, mut browser) = two_signed_in().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let page = browser.get(&at(&world, &format!("/auth/{id}"))).await;
    assert!(page.body.contains("Sign in with 127.0.0.1") && !page.body.contains("auth approve"), "{}", page.body);
    assert!(page.body.contains("<dd>host-1</dd>") && page.body.contains("<dd>host-2</dd>"), "{}", page.body);
    // A provider that lets somebody through whom it knows from yesterday proves nothing about who sits there now.
    provider.state().twist = Some(Box::new(|claims| claims["auth_time"] = 1_700_000_000.into()));
    let stale = "The provider did not ask who you are but went by an earlier sign-in";
    refused(&sign_in(&world, &mut browser, &id).await, 403, stale);
    provider.state().twist = None;
    assert_eq!(provider.state().asked_anew, 1);
    let question = sign_in(&world, &mut browser, &id).await;
    assert!(question.body.contains("Let this shell in?") && question.body.contains("ann@example.net"));
    assert!(question.body.contains("<dd>root</dd>"), "{}", question.body);
    let what_else = "nobody is asked for one hour about other shells from this device to that one";
    assert!(question.body.contains(what_else), "{}", question.body);
    let (action, done) = tokio::join!(ask(&to, &again), answer(&mut browser, &question, "add"));
    assert!(action.expect("an action").accept);
    assert!(done.body.contains("The shell is let in"), "{}", done.body);
    assert!(ask(&to, FIRST).await.expect("an action").accept, "within the hour nobody is asked");
    assert_eq!(world.admin.nodes(None).await.expect("a list").len(), 2, "and no device was added");
    let who = log::text().lines().any(|line| line.contains("the check of a shell session") && line.contains("42 of"));
    assert!(who, "the log says who let it in");

    let late = sign_in(&world, &mut browser, &id).await;
    refused(&late, 404, "Nothing waits at this link (any more)");
    assert!(late.body.contains("See what became of it") && !late.body.contains("Nobody was let in"), "{}", late.body);
}

#[tokio::test]
async fn somebody_elses_sign_in_is_refused_and_leaves_the_check_to_the_person() {
    let (provider, world, to, mut anns) = two_signed_in().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let not_yours = "This shell is opened from host-1, which is not a device of yours";
    // Neither a stranger whom the provider knows, nor somebody who has a device here.
    provider.state().person = person("66", "eve@example.net");
    refused(&sign_in(&world, &mut Browser::default(), &id).await, 403, not_yours);
    let mut eves = Browser::default();
    enrol(&world, &mut eves, 3).await;
    let page = sign_in(&world, &mut eves, &id).await;
    refused(&page, 403, not_yours);
    assert!(page.body.contains(&format!("/auth/{id}")) && page.body.contains("Nobody was let in"), "{}", page.body);

    provider.state().person = person("42", "ann@example.net");
    let question = sign_in(&world, &mut anns, &id).await;
    // Eve has nothing of ann's sign-in: neither its cookie nor its form.
    let form = [("token", "x"), ("verdict", "add")];
    refused(&eves.post(&question.url, &form).await, 400, "This sign-in was begun in another browser");
    let (action, _) = tokio::join!(ask(&to, &again), answer(&mut anns, &question, "add"));
    assert!(action.expect("an action").accept);
}

#[tokio::test]
async fn a_sign_in_for_a_shell_takes_nobodys_token_away() {
    let (provider, world, to, mut browser) = two_signed_in_with(|said| {
        said.oidc_refresh = Some("1s".into());
        // Not asked for even where the operator asks for it by hand.
        said.oidc_scopes = Some(vec!["openid".into(), "email".into(), "offline_access".into()]);
    })
    .await;
    provider.state().forgets = true;
    let (_, id) = held(&ask(&to, FIRST).await.expect("an action"));
    // This provider gives a token all the same.
    let question = sign_in(&world, &mut browser, &id).await;
    still_asked(&provider, &world).await;
    answer(&mut browser, &question, "add").await;
    still_asked(&provider, &world).await;
}

#[tokio::test]
async fn somebody_of_another_provider_is_sent_to_the_operator() {
    let (_before, world, mut to, mut browser) = two_signed_in().await;
    let provider = Provider::start().await;
    let world = start_on(world.stop().await, settings(&provider)).await;
    to.reconnect(&world).await;
    let (_, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let page = browser.get(&at(&world, &format!("/auth/{id}"))).await;
    assert!(page.body.contains("auth approve") && !page.body.contains("Sign in with"), "{}", page.body);
}

#[tokio::test]
async fn a_person_may_say_no_and_a_yes_that_comes_later_counts_for_nothing() {
    let (_provider, world, to, mut browser) = two_signed_in().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let (first, second) = (sign_in(&world, &mut browser, &id).await, sign_in(&world, &mut browser, &id).await);
    let page = answer(&mut browser, &first, "refuse").await;
    assert!(page.body.contains("The shell was turned away"), "{}", page.body);
    let token = second.field("token");
    let late = browser.post(&second.url, &[("token", &token), ("verdict", "add")]).await;
    refused(&late, 409, "This check has been answered before");
    assert!(!late.body.contains("still waits"), "{}", late.body);
    assert!(ask(&to, &again).await.expect("an action").reject);
    assert!(!ask(&to, FIRST).await.expect("an action").accept, "a new check");
}

#[tokio::test]
async fn of_fifty_who_ask_for_the_verdict_one_hears_it_where_every_session_is_checked() {
    let (_provider, world, to, mut browser) = two_signed_in().await;
    world.admin.set_policy(&POLICY.replace("\"1h\"", "\"always\"")).await.expect("a policy");
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let question = sign_in(&world, &mut browser, &id).await;
    assert!(!question.body.contains("nobody is asked for"), "{}", question.body);
    let to = std::sync::Arc::new(to);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (to, again) = (std::sync::Arc::clone(&to), again.clone());
        asking.spawn(async move { ask(&to, &again).await.expect("an action") });
    }
    answer(&mut browser, &question, "add").await;
    let actions = asking.join_all().await;
    assert_eq!(actions.iter().filter(|action| action.accept).count(), 1);
    assert!(actions.iter().filter(|action| !action.accept).all(|action| held(action).1 != id && !action.reject));
}

#[tokio::test]
async fn a_tagged_device_has_nobody_who_could_answer_and_a_local_person_has_an_operator() {
    let (_provider, world, to, mut browser) = two_signed_in().await;
    let local = CreateUser { name: "boss".into(), ..CreateUser::default() };
    world.admin.create_user(&local).await.expect("a new name");
    for node in ["1", "2"] {
        world.admin.move_node(node, "boss").await.expect("moved");
    }
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let page = browser.get(&at(&world, &format!("/auth/{id}"))).await;
    assert!(page.body.contains(&format!("auth approve --auth-id {id}")), "{}", page.body);
    refused(&sign_in(&world, &mut browser, &id).await, 403, "This shell is opened from host-1");
    let link = at(&world, &format!("/auth/{id}")).to_string();
    let (action, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&link));
    approved.expect("the whole link does as well");
    assert!(action.expect("an action").accept);

    let tagged = r#"{ "tagOwners": { "tag:ci": [] }, "acls": [],
        "ssh": [{ "action": "check", "src": ["tag:ci"], "dst": ["tag:ci"], "users": ["root"] }] }"#;
    world.admin.set_policy(tagged).await.expect("a policy");
    for node in ["1", "2"] {
        world.admin.set_tags(node, &["tag:ci".to_owned()]).await.expect("tagged");
    }
    let action = ask(&to, FIRST).await.expect("an action");
    assert!(action.reject && action.message.contains("has tags and no person"), "{action:?}");
}
