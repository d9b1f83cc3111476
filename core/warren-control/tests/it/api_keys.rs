//! API keys: made once, shown once, good until they end.

use std::sync::Arc;
use std::time::Duration;

use warren_control::api_keys::check;
use warren_control::rows::{ApiKey, Rows};
use warren_control::{Actor, Answer, ApiKeyRefusal, ApiScope, Command, Control, Refusal, Staged, What};

use crate::world::*;

fn make(world: &mut World, scopes: &[ApiScope], life: Duration) -> (Arc<ApiKey>, String) {
    let expiry = world.wall.saturating_add(life);
    match world.ask(What::CreateApiKey { scopes: scopes.iter().copied().collect(), expiry }) {
        Ok(Answer::ApiKey { key, secret: Some(secret) }) => (key, secret.reveal().to_owned()),
        other => panic!("{other:?}"),
    }
}

fn verdict(world: &World, text: &str) -> Result<String, ApiKeyRefusal> {
    check(world.control.registry(), text, world.wall).map(|key| key.prefix.clone())
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_key_is_good_until_it_ends_whichever_way_that_comes() {
    let mut world = World::new();
    let (key, text) = make(&mut world, &[ApiScope::Read], HOUR);
    let (brief, brief_text) = make(&mut world, &[ApiScope::All], Duration::from_secs(10));
    let (third, third_text) = make(&mut world, &[ApiScope::Users, ApiScope::Nodes], HOUR);
    assert_eq!(verdict(&world, &text), Ok(key.prefix.clone()));
    world.restart();
    assert_eq!(verdict(&world, &brief_text), Ok(brief.prefix.clone()));
    world.pass(Duration::from_secs(10));
    assert_eq!(verdict(&world, &brief_text), Err(ApiKeyRefusal::Expired(brief.prefix.clone())));
    world.ask(What::ExpireApiKey { key: key.id }).expect("granted");
    assert_eq!(verdict(&world, &text), Err(ApiKeyRefusal::Expired(key.prefix.clone())));
    assert_eq!(verdict(&world, &third_text), Ok(third.prefix.clone()));
    world.ask(What::DeleteApiKey { key: third.id }).expect("granted");
    assert_eq!(verdict(&world, &third_text), Err(ApiKeyRefusal::Unknown));
    let missing = Refusal::NotFound { kind: "API key", name: third.id.to_string() };
    assert_eq!(world.ask(What::DeleteApiKey { key: third.id }).expect_err("gone"), missing);
    let (next, _) = make(&mut world, &[ApiScope::All], HOUR);
    assert!(next.id > third.id, "a number is not given twice");
}

#[test]
fn a_guess_is_refused_and_a_secret_is_nowhere() {
    let mut world = World::new();
    let (key, text) = make(&mut world, &[ApiScope::All], HOUR);
    let secret = text.rsplit('-').next().expect("a secret part").to_owned();
    let flipped = if secret.ends_with('0') { '1' } else { '0' };
    let near = format!("{}{flipped}", &text[..text.len() - 1]);
    assert_eq!(verdict(&world, &near), Err(ApiKeyRefusal::WrongSecret(key.prefix.clone())));
    assert_eq!(verdict(&world, &text.replace("-api-", "-auth-")), Err(ApiKeyRefusal::Malformed));
    assert_eq!(verdict(&world, ""), Err(ApiKeyRefusal::Malformed));
    let rows = format!("{:?}", world.tables.rows());
    assert!(rows.contains(&key.prefix) && !rows.contains(&secret));
}

#[test]
fn a_key_needs_scopes_and_an_end_to_come() {
    let mut world = World::new();
    let (expiry, now) = (world.wall.saturating_add(HOUR), world.wall);
    let error = world.ask(What::CreateApiKey { scopes: [].into(), expiry }).expect_err("no scope");
    assert_eq!(error.to_string(), "an API key needs a scope, such as read");
    let error = world.ask(What::CreateApiKey { scopes: [ApiScope::All].into(), expiry: now }).expect_err("over");
    assert_eq!(error.to_string(), "an API key must expire in the future");
    assert_eq!(world.control.registry().api_key_count(), 0);
}

#[test]
fn what_is_done_to_a_key_is_noted_and_its_use_is_written_down_now_and_then() {
    let mut world = World::new();
    let (key, _) = make(&mut world, &[ApiScope::Nodes], HOUR);
    let (asking, _) = make(&mut world, &[ApiScope::All], HOUR);
    let by = Actor::ApiKey { prefix: asking.prefix.clone(), from: "192.0.2.7".parse().expect("an address") };
    let decide = |world: &mut World, what: What| {
        let mut staged = Staged::begin(&world.control);
        let command = Command { actor: by.clone(), what };
        staged.decide(command, world.wall, &mut world.random).expect("granted");
        let batch = staged.finish();
        let said = (batch.rows.len(), batch.audit.iter().map(|line| line.actor.clone()).collect::<Vec<_>>());
        world.tables.commit(&batch);
        world.control.apply(batch, world.now).expect("one batch at a time");
        said
    };
    assert_eq!(decide(&mut world, What::SeeApiKey { key: key.id }), (1, vec![]));
    world.pass(Duration::from_secs(599));
    assert_eq!(decide(&mut world, What::SeeApiKey { key: key.id }), (0, vec![]), "not once a request");
    world.pass(Duration::from_secs(1));
    assert_eq!(decide(&mut world, What::SeeApiKey { key: key.id }), (1, vec![]));
    let line = vec![format!("api key {} from 192.0.2.7", asking.prefix)];
    assert_eq!(decide(&mut world, What::ExpireApiKey { key: key.id }), (1, line));
    assert_eq!(decide(&mut world, What::ExpireApiKey { key: key.id }), (0, vec![]), "it has ended already");
    assert_eq!(world.control.registry().api_key(key.id).and_then(|key| key.last_seen), Some(world.wall));
    // Whoever asks by a key that has ended is nobody any more, also later in the same batch.
    let mut staged = Staged::begin(&world.control);
    let mut ask = |what: What| staged.decide(Command { actor: by.clone(), what }, world.wall, &mut world.random);
    assert!(ask(What::DeleteApiKey { key: asking.id }).is_ok());
    let error = ask(What::DeleteApiKey { key: key.id }).expect_err("deleted");
    assert_eq!(error.to_string(), format!("the API key {} has ended meanwhile", asking.prefix));
}

#[test]
fn rows_that_share_a_prefix_or_a_number_to_come_are_no_registry() {
    let mut world = World::new();
    let (key, _) = make(&mut world, &[ApiScope::All], HOUR);
    let (other, _) = make(&mut world, &[ApiScope::All], HOUR);
    let open = |rows: &Rows| Control::from_rows(rows, settings(), some_instant()).map(drop);
    let mut rows = world.tables.rows();
    open(&rows).expect("a registry");
    rows.api_keys[1] = Arc::new(ApiKey { prefix: key.prefix.clone(), ..ApiKey::clone(&other) });
    assert_eq!(open(&rows).expect_err("shared").to_string(), "two API keys have the same prefix");
    rows = world.tables.rows();
    rows.facts.next_api_key = other.id.0;
    assert_eq!(open(&rows).expect_err("again").to_string(), "API key 2 exists, but the next one would be 2");
}
