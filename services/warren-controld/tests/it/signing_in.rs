//! People who sign in at an identity provider, and everything that must not work.

use std::time::Duration;

use serde_json::json;
use url::Url;
use warren_api::admin::{CreateKey, CreateUser};
use warren_controld::Overrides;
use warren_io::listener::Caps;
use warren_oidc::Secret;
use warren_wire::{RegisterRequest, RegisterResponse};

use crate::browser::{Browser, Page};
use crate::client::Machine;
use crate::log;
use crate::provider::{CLIENT_ID, CLIENT_SECRET, PLANTED, Provider, key, person};
use crate::world::{PATIENCE, World, start_on, start_with};

pub fn settings(provider: &Provider) -> Overrides {
    Overrides {
        oidc_issuer: Some(provider.issuer.clone()),
        oidc_client_id: Some(CLIENT_ID.into()),
        oidc_client_secret: Some(Secret::new(CLIENT_SECRET)),
        oidc_refresh: Some("1h".into()),
        ..Overrides::default()
    }
}

pub async fn both(change: impl FnOnce(&mut Overrides)) -> (Provider, World) {
    log::listen();
    let provider = Provider::start().await;
    let mut said = settings(&provider);
    change(&mut said);
    let world = start_with(said, Caps::default()).await;
    (provider, world)
}

/// A device at its link, with its follow-up already waiting.
pub struct Device {
    pub machine: Machine,
    link: Url,
}

impl Device {
    pub async fn new(world: &World, seed: u8, hostname: &str) -> Self {
        let machine = Machine::new(world, seed, hostname).await;
        let link = machine.register(&machine.register_request(None)).await.auth_url;
        Self { machine, link: Url::parse(&link).expect("a link") }
    }

    async fn follow_up(&self) -> RegisterResponse {
        let request = RegisterRequest { followup: self.link.to_string(), ..self.machine.register_request(None) };
        tokio::time::timeout(PATIENCE, self.machine.register(&request)).await.expect("an answer in time")
    }

    fn start(&self) -> Url {
        let path = self.link.path().replace("/register/", "/oidc/start/");
        self.link.join(&path).expect("a URL")
    }
}

/// From the link to the question.
pub async fn sign_in(browser: &mut Browser, device: &Device) -> Page {
    browser.open(&device.start()).await
}

/// Says it, and follows to the page that tells what became of it.
pub async fn answer(browser: &mut Browser, question: &Page, verdict: &str) -> Page {
    let token = question.field("token");
    let page = browser.post(&question.url, &[("token", &token), ("verdict", verdict)]).await;
    assert_eq!(page.status, 303, "{}", page.body);
    browser.open(&page.location()).await
}

/// In the page, and in the log in the same words but for the first letter.
#[track_caller]
pub fn refused(page: &Page, status: u16, reason: &str) {
    assert_eq!(page.status, status, "{}", page.body);
    assert!(page.body.contains("This did not work") && page.body.contains(&escaped(reason)), "{}", page.body);
    let words = reason.get(1..).unwrap_or_default();
    let log = log::text();
    assert!(
        log.lines().any(|line| line.contains("a sign-in was refused") && line.contains(words)),
        "the log does not say {words:?}"
    );
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

async fn nodes(world: &World) -> usize {
    world.admin.nodes(None).await.expect("a list").len()
}

#[tokio::test]
async fn a_person_signs_in_says_yes_and_the_device_is_in() {
    let (provider, world) = both(|_| {}).await;
    let device = Device::new(&world, 1, "<b>ann's</b> laptop").await;
    let mut browser = Browser::default();
    let page = browser.get(&device.link).await;
    assert!(page.status == 200 && page.body.contains("Sign in with 127.0.0.1"), "{}", page.body);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(browser.cookie_values().is_empty(), "a look at the page begins nothing");

    let question = sign_in(&mut browser, &device).await;
    assert!(
        question.body.contains("Add this device?") && question.body.contains("ann@example.net"),
        "{}",
        question.body
    );
    assert!(question.body.contains("&lt;b&gt;ann") && question.body.contains("Ann &lt;i&gt;Example"));
    let code = &device.link.as_str()[device.link.as_str().len() - 6..];
    assert!(question.body.contains(&format!("<dd class=\"code\">{code}</dd>")));
    assert_eq!(nodes(&world).await, 0, "nothing is registered before the person said so");

    let (answered, done) = tokio::join!(device.follow_up(), answer(&mut browser, &question, "add"));
    assert!(answered.machine_authorized && answered.error.is_empty(), "{answered:?}");
    assert_eq!(answered.login.login_name, "ann@example.net");
    assert!(done.body.contains("This device is in"), "{}", done.body);
    let node = world.admin.nodes(None).await.expect("a list").remove(0);
    assert_eq!(node.register_method, "REGISTER_METHOD_OIDC");
    assert_eq!(node.user.provider_id, format!("{}/42", provider.issuer));
    assert!(browser.cookie_values().is_empty(), "the cookie has done its work");
}

#[tokio::test]
async fn a_verdict_that_came_before_the_follow_up_is_not_lost() {
    let (_provider, world) = both(|_| {}).await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    let question = sign_in(&mut browser, &device).await;
    answer(&mut browser, &question, "add").await;
    assert!(device.follow_up().await.machine_authorized);

    let other = Device::new(&world, 2, "b").await;
    let question = sign_in(&mut browser, &other).await;
    let page = answer(&mut browser, &question, "refuse").await;
    assert!(page.body.contains("turned away"), "{}", page.body);
    assert_eq!(other.follow_up().await.error, "registration was rejected");
    assert_eq!(nodes(&world).await, 1);
}

#[tokio::test]
async fn an_answer_counts_in_the_browser_that_asked_and_once() {
    let (_provider, world) = both(|_| {}).await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    let away = browser.get(&device.start()).await.location();
    let back = browser.get(&away).await.location();
    refused(&Browser::default().get(&back).await, 400, "This sign-in was begun in another browser");
    let mut other_state = back.clone();
    let query = back.query().expect("a query").replacen("state=", "state=x", 1);
    other_state.set_query(Some(&query));
    refused(&browser.get(&other_state).await, 400, "This sign-in is not known (any more)");

    let question = browser.open(&back).await;
    refused(&browser.get(&back).await, 400, "This answer of the provider was used before");
    let token = question.field("token");
    let add = [("token", token.as_str()), ("verdict", "add")];
    refused(&Browser::default().post(&question.url, &add).await, 400, "This sign-in was begun in another browser");
    let wrong = [("token", "x"), ("verdict", "add")];
    refused(&browser.post(&question.url, &wrong).await, 400, "This form does not belong to this sign-in");
    let form = format!("token={token}&verdict=add");
    let from_elsewhere = browser.ask("POST", &question.url, Some(form), &[("Sec-Fetch-Site", "cross-site")]).await;
    refused(&from_elsewhere, 400, "This form does not belong to this sign-in");
    assert_eq!(nodes(&world).await, 0);
    assert_eq!(browser.post(&question.url, &add).await.status, 303);
    refused(&browser.post(&question.url, &add).await, 400, "This sign-in was begun in another browser");
    assert_eq!(nodes(&world).await, 1);
}

#[tokio::test]
async fn of_a_hundred_answers_and_a_hundred_forms_at_once_one_counts() {
    let (provider, world) = both(|_| {}).await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    let away = browser.get(&device.start()).await.location();
    let back = browser.get(&away).await.location();
    let mut callbacks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (mut browser, back) = (browser.clone(), back.clone());
        callbacks.spawn(async move { browser.get(&back).await });
    }
    let pages = callbacks.join_all().await;
    let (on, refused): (Vec<_>, Vec<_>) = pages.iter().partition(|page| page.status == 303);
    assert_eq!(on.len(), 1);
    assert!(refused.iter().all(|page| page.status == 400 && page.body.contains("was used before")));
    assert_eq!(provider.state().asked.len(), 1, "the code is redeemed once");

    let question = browser.open(&on[0].location()).await;
    let token = question.field("token");
    let mut forms = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (mut browser, url, token) = (browser.clone(), question.url.clone(), token.clone());
        let verdict = if number % 2 == 0 { "add" } else { "refuse" };
        forms.spawn(async move { browser.post(&url, &[("token", &token), ("verdict", verdict)]).await.status });
    }
    let statuses = forms.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 303).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [303, 400].contains(status)), "{statuses:?}");
    assert!(nodes(&world).await <= 1);
}

#[tokio::test]
async fn a_code_that_was_used_or_belongs_to_another_sign_in_is_refused() {
    let (_provider, world) = both(|_| {}).await;
    let (one, two) = (Device::new(&world, 1, "a").await, Device::new(&world, 2, "b").await);
    let mut browser = Browser::default();
    let away = browser.get(&one.start()).await.location();
    let back = browser.get(&away).await.location();
    let code = |url: &Url| url.query_pairs().find(|(name, _)| name == "code").map(|(_, code)| code.into_owned());
    let first = code(&back).expect("a code");
    // The attacker's code in the victim's answer: the verifier does not fit.
    let away = browser.get(&two.start()).await.location();
    let mut mixed = browser.get(&away).await.location();
    let query = mixed.query().expect("a query").replace(&code(&mixed).expect("a code"), &first);
    mixed.set_query(Some(&query));
    refused(&browser.get(&mixed).await, 403, "The provider refused the code (invalid_grant)");
    // And the provider burnt it for whoever it belonged to.
    refused(&browser.get(&back).await, 403, "The provider refused the code (invalid_grant)");
    assert_eq!(nodes(&world).await, 0);
}

/// A change to the claims of an ID token.
type Twist = fn(&mut serde_json::Value);

#[tokio::test]
async fn every_token_that_is_not_ours_now_is_refused_by_its_reason() {
    let (provider, world) = both(|_| {}).await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    let twists: [(Twist, &str); 8] = [
        (|c| c["aud"] = "other".into(), "The ID token is meant for another client"),
        (|c| c["nonce"] = "other".into(), "The ID token belongs to another sign-in"),
        (|c| drop(c.as_object_mut().map(|c| c.remove("nonce"))), "The ID token belongs to another sign-in"),
        (|c| c["iss"] = "https://evil.example".into(), "The ID token was issued by \"https://evil.example\""),
        (|c| c["exp"] = 1.into(), "The ID token has expired"),
        (|c| c["iat"] = 4_000_000_000_u64.into(), "The ID token is not valid yet"),
        (|c| c["sub"] = "".into(), "The ID token has no sensible sub"),
        (|c| c["email_verified"] = false.into(), "The e-mail address of this account has not been verified"),
    ];
    for (twist, reason) in twists {
        provider.state().twist = Some(Box::new(twist));
        let page = sign_in(&mut browser, &device).await;
        refused(&page, if reason.contains("this account") { 403 } else { 502 }, reason);
    }
    provider.state().twist = None;
    provider.state().named = Some("https://evil.example".into());
    refused(&sign_in(&mut browser, &device).await, 502, "The ID token was issued by");
    provider.state().named = None;
    provider.state().declines = Some("access_denied");
    refused(&sign_in(&mut browser, &device).await, 403, "The provider said no: access_denied: <b>no");
    provider.state().declines = None;
    provider.state().is_down = true;
    refused(&sign_in_from_provider_page(&mut browser, &provider, &device).await, 502, "HTTP 503");
    assert_eq!(nodes(&world).await, 0);
    assert!(
        sign_in(&mut browser, &device).await.body.contains("Add this device?"),
        "none of this is held against anybody"
    );
}

/// The provider goes down between giving a code and taking it.
async fn sign_in_from_provider_page(browser: &mut Browser, provider: &Provider, device: &Device) -> Page {
    provider.state().is_down = false;
    let away = browser.get(&device.start()).await.location();
    let back = browser.get(&away).await.location();
    provider.state().is_down = true;
    let page = browser.get(&back).await;
    provider.state().is_down = false;
    page
}

#[tokio::test]
async fn keys_may_be_rotated_and_a_withdrawn_one_proves_nothing() {
    let (provider, world) = both(|_| {}).await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    assert_eq!(sign_in(&mut browser, &device).await.status, 200);
    // A forger's key that nobody published, under a name of its own and under the real one's.
    provider.state().signer = ("k9".to_owned(), key(9));
    refused(
        &sign_in(&mut browser, &device).await,
        502,
        "The ID token is signed with a key that the provider does not have",
    );
    provider.state().signer = ("k1".to_owned(), key(9));
    refused(&sign_in(&mut browser, &device).await, 502, "The ID token's signature is wrong");
    // A rotation: the new key counts at once, the old one no longer.
    {
        use aws_lc_rs::signature::KeyPair as _;
        let mut state = provider.state();
        state.signer = ("k2".to_owned(), key(2));
        state.published = [("k2".to_owned(), key(2).public_key().as_ref().to_vec())].into();
    }
    assert_eq!(sign_in(&mut browser, &device).await.status, 200);
    provider.state().signer = ("k1".to_owned(), key(1));
    refused(
        &sign_in(&mut browser, &device).await,
        502,
        "The ID token is signed with a key that the provider does not have",
    );
}

#[tokio::test]
async fn only_people_on_the_lists_may_join() {
    let (provider, world) = both(|said| {
        said.oidc_allowed_domains = Some(vec!["example.net".into()]);
        said.oidc_allowed_groups = Some(vec!["ops".into()]);
        said.oidc_groups_claim = Some("realm.roles".into());
    })
    .await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    provider.state().person = person("42", "ann@evil.example");
    refused(&sign_in(&mut browser, &device).await, 403, "The e-mail address of this account is of no domain");
    provider.state().person = person("42", "ann@example.net");
    refused(&sign_in(&mut browser, &device).await, 403, "This account is in none of the groups");
    provider.state().person["realm"] = json!({ "roles": ["ops"] });
    let question = sign_in(&mut browser, &device).await;
    answer(&mut browser, &question, "add").await;
    assert_eq!(nodes(&world).await, 1);
}

#[tokio::test]
async fn an_address_that_somebody_here_has_gives_nobody_their_place() {
    let (provider, world) = both(|_| {}).await;
    let local = CreateUser { name: "boss".into(), email: "boss@example.net".into(), ..CreateUser::default() };
    world.admin.create_user(&local).await.expect("a new name");
    provider.state().person = person("66", "boss@example.net");
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    let question = sign_in(&mut browser, &device).await;
    let token = question.field("token");
    let page = browser.post(&question.url, &[("token", &token), ("verdict", "add")]).await;
    refused(&page, 403, "Boss@example.net is the address of user boss here");
    assert_eq!(nodes(&world).await, 0);
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} did not come about"));
}

pub async fn enrol(world: &World, browser: &mut Browser, seed: u8) -> Device {
    let device = Device::new(world, seed, &format!("host-{seed}")).await;
    let question = sign_in(browser, &device).await;
    answer(browser, &question, "add").await;
    assert!(device.follow_up().await.machine_authorized);
    device
}

#[tokio::test]
async fn a_profile_follows_the_provider_and_somebody_removed_there_is_logged_out() {
    let (provider, world) = both(|said| {
        said.oidc_refresh = Some("1s".into());
        said.oidc_allowed_domains = Some(vec!["example.net".into(), "example.org".into()]);
    })
    .await;
    let mut browser = Browser::default();
    let ann = enrol(&world, &mut browser, 1).await;
    let by_key = CreateKey { user: "ann@example.net".into(), reusable: true, ..CreateKey::default() };
    let key = world.admin.create_key(&by_key).await.expect("a key").key;

    // A new address: the same person, and their name goes along.
    provider.state().person["email"] = "ann@example.org".into();
    until("the new address", async || {
        let users = world.admin.users().await.expect("a list");
        users.len() == 1 && users[0].email == "ann@example.org" && users[0].name == "ann@example.org"
    })
    .await;
    // A provider that is down, or signs with unknown keys, says nothing about anybody.
    provider.state().is_down = true;
    let log_has = |text: &str| log::text().contains(text);
    until("a failed refresh", async || log_has("the identity provider could not be asked again")).await;
    provider.state().is_down = false;
    assert!(!world.admin.nodes(None).await.expect("a list")[0].expired);

    provider.state().removed.insert("42".into());
    until("the logout", async || world.admin.nodes(None).await.expect("a list")[0].expired).await;
    assert!(!world.admission.admits(&ann.machine.node.public(), [127, 0, 0, 1].into()));
    assert!(log_has("somebody's sign-in has ended; their nodes are logged out"));
    let again = ann.machine.register(&ann.machine.register_request(None)).await;
    assert!(again.node_key_expired, "{again:?}");
    let stranger = Machine::new(&world, 9, "stranger").await;
    assert_eq!(stranger.register(&stranger.register_request(Some(&key))).await.error, "authkey revoked");

    // Back in, the same node.
    provider.state().removed.clear();
    let before = world.admin.nodes(None).await.expect("a list").remove(0);
    let mut back = ann;
    back.machine.node = Machine::new(&world, 77, "").await.node;
    let link = back.machine.register(&back.machine.register_request(None)).await.auth_url;
    back.link = Url::parse(&link).expect("a link");
    let question = sign_in(&mut browser, &back).await;
    answer(&mut browser, &question, "add").await;
    let after = world.admin.nodes(None).await.expect("a list").remove(0);
    assert_eq!((after.id, after.ip_addresses, after.expired), (before.id, before.ip_addresses, false));
}

#[tokio::test]
async fn a_server_that_stops_while_the_provider_answers_keeps_the_new_token() {
    let (provider, world) = both(|said| said.oidc_refresh = Some("1s".into())).await;
    enrol(&world, &mut Browser::default(), 1).await;
    provider.state().slow = Duration::from_millis(1500);
    let questions = || provider.state().asked.iter().filter(|form| form["grant_type"] == "refresh_token").count();
    let before = questions();
    until("a question", async || questions() > before).await;
    let folder = world.stop().await;
    provider.state().slow = Duration::ZERO;
    let before = questions();
    let said = Overrides { oidc_refresh: Some("1s".into()), ..settings(&provider) };
    let world = start_on(folder, said).await;
    until("two more questions", async || questions() > before + 1).await;
    assert!(!world.admin.nodes(None).await.expect("a list")[0].expired, "{:?}", provider.state().asked);
}

#[tokio::test]
async fn a_sign_in_that_comes_to_nothing_takes_nobodys_token_away() {
    let (provider, world) = both(|said| said.oidc_refresh = Some("1s".into())).await;
    provider.state().forgets = true;
    let mut browser = Browser::default();
    enrol(&world, &mut browser, 1).await;
    for verdict in [Some("refuse"), None] {
        let device = Device::new(&world, 2, "host-2").await;
        let question = sign_in(&mut browser, &device).await;
        if let Some(verdict) = verdict {
            answer(&mut browser, &question, verdict).await;
        }
        still_asked(&provider, &world).await;
    }
    // A yes that comes after the next question to the provider: by then the token of this sign-in was exchanged.
    let device = Device::new(&world, 2, "host-2").await;
    let question = sign_in(&mut browser, &device).await;
    still_asked(&provider, &world).await;
    answer(&mut browser, &question, "add").await;
    still_asked(&provider, &world).await;
}

/// Until the provider was asked again twice, and took both for good.
pub async fn still_asked(provider: &Provider, world: &World) {
    let questions = || provider.state().asked.iter().filter(|form| form["grant_type"] == "refresh_token").count();
    let before = questions();
    until("two more questions", async || {
        assert!(!world.admin.nodes(None).await.expect("a list")[0].expired, "logged out");
        questions() > before + 1
    })
    .await;
}

#[tokio::test]
async fn what_the_provider_says_of_one_token_keeps_nobody_else_from_being_asked_about() {
    let (provider, world) = both(|said| said.oidc_refresh = Some("1s".into())).await;
    enrol(&world, &mut Browser::default(), 1).await;
    provider.state().says_of_unknown = "invalid_request";
    provider.state().forget();
    provider.state().person = person("43", "bob@example.net");
    enrol(&world, &mut Browser::default(), 2).await;
    provider.state().removed.insert("43".into());
    until("the logout", async || {
        let nodes = world.admin.nodes(None).await.expect("a list");
        assert!(!nodes[0].expired, "of ann nothing was said");
        nodes[1].expired
    })
    .await;
}

#[tokio::test]
async fn groups_that_the_token_leaves_out_come_from_userinfo() {
    let (provider, world) = both(|_| {}).await;
    provider.state().twist =
        Some(Box::new(|claims| drop(claims.as_object_mut().map(|claims| claims.remove("groups")))));
    enrol(&world, &mut Browser::default(), 1).await;
    let snapshot = world.registry.snapshot();
    let groups: Vec<_> = snapshot.registry().sign_ins().flat_map(|row| row.groups.clone()).collect();
    assert_eq!(groups, ["dev"]);
}

#[tokio::test]
async fn an_address_that_may_not_be_here_any_more_ends_a_sign_in() {
    let (provider, world) = both(|said| {
        said.oidc_refresh = Some("1s".into());
        said.oidc_allowed_domains = Some(vec!["example.net".into()]);
    })
    .await;
    enrol(&world, &mut Browser::default(), 1).await;
    provider.state().person["email"] = "ann@elsewhere.example".into();
    until("the logout", async || world.admin.nodes(None).await.expect("a list")[0].expired).await;
}

#[tokio::test]
async fn a_device_may_have_to_wait_for_an_operator_after_the_person() {
    let (_provider, world) = both(|said| said.device_approval = Some(true)).await;
    let device = Device::new(&world, 1, "laptop").await;
    let mut browser = Browser::default();
    let question = sign_in(&mut browser, &device).await;
    let page = answer(&mut browser, &question, "add").await;
    assert!(
        page.body.contains("Almost done") && page.body.contains("warren control nodes approve laptop"),
        "{}",
        page.body
    );
    assert!(page.body.contains("http-equiv=\"refresh\""));
    let answered = device.follow_up().await;
    assert!(!answered.machine_authorized && answered.error.is_empty() && answered.auth_url.is_empty(), "{answered:?}");
    let node = world.admin.nodes(None).await.expect("a list").remove(0);
    assert!(!node.authorized);
    assert!(world.admin.set_authorized(&node.id, true).await.expect("let in").authorized);
    assert!(browser.get(&device.link).await.body.contains("This device is in"));
    assert!(device.follow_up().await.machine_authorized);
}

#[tokio::test]
async fn a_wrong_client_secret_is_told_to_the_operator() {
    let (_provider, world) = both(|said| said.oidc_client_secret = Some(Secret::new("planted-wrong"))).await;
    let device = Device::new(&world, 1, "a").await;
    refused(&sign_in(&mut Browser::default(), &device).await, 502, "The provider refused this server: invalid_client");
}

#[tokio::test]
async fn no_secret_of_a_sign_in_is_logged_or_stored_in_the_clear() {
    let (provider, world) = both(|said| said.oidc_refresh = Some("1s".into())).await;
    let mut browser = Browser::default();
    let device = Device::new(&world, 1, "a").await;
    let away = browser.get(&device.start()).await.location();
    let mut secrets = browser.cookie_values();
    let back = browser.get(&away).await.location();
    let question = browser.open(&back).await;
    secrets.push(question.field("token"));
    answer(&mut browser, &question, "add").await;
    until("a refresh", async || provider.state().asked.len() >= 2).await;
    secrets.extend(provider.state().asked.iter().filter_map(|form| form.get("code_verifier").cloned()));
    let nonce = away.query_pairs().find(|(name, _)| name == "nonce").map(|(_, nonce)| nonce.into_owned());
    secrets.extend(nonce);
    assert!(secrets.len() >= 4 && secrets.iter().all(|secret| secret.len() >= 43), "{}", secrets.len());
    let log = log::text();
    assert!(log.contains("a person has answered for a device"));
    for line in log.lines() {
        let found = secrets.iter().map(String::as_str).chain([PLANTED]).find(|secret| line.contains(secret));
        assert!(found.is_none(), "{line}");
    }
    for file in ["control.db", "control.db-wal"] {
        let bytes = std::fs::read(world.folder().join(file)).unwrap_or_default();
        assert!(!bytes.windows(PLANTED.len()).any(|window| window == PLANTED.as_bytes()), "{file}");
    }
}

#[tokio::test]
async fn without_a_provider_nobody_signs_in() {
    let world = start_with(Overrides::default(), Caps::default()).await;
    let device = Device::new(&world, 1, "a").await;
    let mut browser = Browser::default();
    assert!(browser.get(&device.link).await.body.contains("warren control nodes register"));
    for url in [device.start(), world.url().join("/oidc/callback?state=a&code=b").expect("a URL")] {
        assert_eq!(browser.get(&url).await.status, 404);
    }
}
