//! A hundred claimants at once at the one writer: nobody gets what another has, and one-time means once.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use warren_control::register::RegisterAnswer;
use warren_control::{Actor, Answer, AuthId, Command, Person, Refusal, What};
use warren_controld::{CommandError, Overrides};
use warren_crypto::{MachineSecret, NodeSecret};
use warren_io::listener::Caps;
use warren_wire::{AuthKey, CapabilityVersion, Hostinfo, RegisterAuth, RegisterRequest};

use crate::client::Machine;
use crate::world::{World, start, start_with};

const CLAIMANTS: u8 = 100;

fn claim(number: u8, key: &str, hostname: &str) -> Command {
    let machine = MachineSecret::from_seed([number; 32]).public();
    let request = RegisterRequest {
        version: CapabilityVersion::OUR_NODE,
        node_key: NodeSecret::from_seed([number; 32]).public(),
        auth: Some(RegisterAuth { auth_key: Some(AuthKey::new(key)) }),
        hostinfo: Some(Box::new(Hostinfo { hostname: hostname.to_owned(), ..Hostinfo::default() })),
        ..RegisterRequest::default()
    };
    let actor = Actor::Machine { key: machine, from: None };
    Command { actor, what: What::Register { machine, request: Arc::new(request) } }
}

/// All at once; what each was answered.
async fn race(world: &World, claims: impl Iterator<Item = Command>) -> Vec<Result<Answer, CommandError>> {
    let mut running = JoinSet::new();
    for claim in claims {
        let registry = world.registry.clone();
        running.spawn(async move { registry.command(claim).await });
    }
    running.join_all().await
}

fn is_in(answer: &Result<Answer, CommandError>) -> bool {
    matches!(answer, Ok(Answer::Register(RegisterAnswer::Authorized { .. })))
}

#[tokio::test]
async fn of_a_hundred_machines_one_gets_the_one_off_key() {
    let world = start().await;
    for round in [0, CLAIMANTS] {
        let before = world.registry.snapshot().registry().node_count();
        let key = world.join_key(false).await;
        let answers = race(&world, (0..CLAIMANTS).map(|number| claim(round + number, &key, "racer"))).await;
        let (winners, losers): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| is_in(answer));
        assert_eq!(winners.len(), 1);
        assert!(losers.iter().all(|loser| matches!(loser, Err(CommandError::Refused(refusal))
            if refusal.to_string() == "authkey already used")));
        let nodes = world.registry.snapshot();
        assert_eq!(nodes.registry().node_count() - before, 1);
    }
}

#[tokio::test]
async fn the_same_through_a_hundred_noise_channels() {
    let world = start().await;
    let key = world.join_key(false).await;
    let mut machines = Vec::new();
    for seed in 0..CLAIMANTS {
        machines.push(Machine::new(&world, seed + 1, "racer").await);
    }
    let mut running = JoinSet::new();
    for machine in machines {
        let request = machine.register_request(Some(&key));
        running.spawn(async move { machine.register(&request).await });
    }
    let answers = running.join_all().await;
    let (winners, losers): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.machine_authorized);
    assert_eq!(winners.len(), 1);
    assert!(losers.iter().all(|loser| loser.error == "authkey already used"));
    assert_eq!(world.registry.snapshot().registry().node_count(), 1);
}

#[tokio::test]
async fn a_waiting_machine_is_settled_once_however_many_say_so_at_once() {
    let world = start().await;
    let ann = world.registry.snapshot().registry().users().next().expect("ann").id;
    for seed in [1, 2, 3] {
        let machine = Machine::new(&world, seed, "waiting").await;
        let link = machine.register(&machine.register_request(None)).await.auth_url;
        let id = AuthId::from_link(&link).expect("a link");
        let before = world.registry.snapshot().registry().node_count();
        // Operators, the person at the provider, and somebody who says no.
        let claim = |number: u8| match number % 3 {
            0 => What::ApproveRegistration { id, user: ann },
            1 => What::RejectRegistration { id },
            _ => {
                let subject = number.to_string();
                let person = Person { issuer: "https://id.example".into(), subject, ..Person::default() };
                What::Enrol { id, person: Box::new(person), refresh: None, until: None }
            }
        };
        let answers = race(&world, (0..CLAIMANTS).map(|number| Command::by_server(claim(number)))).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.is_ok());
        assert_eq!(won.len(), 1, "{won:?}");
        assert!(lost.iter().all(|answer| matches!(
            answer,
            Err(CommandError::Refused(Refusal::NotFound { kind: "registration", .. }))
        )));
        let snapshot = world.registry.snapshot();
        let nodes = snapshot.registry().node_count() - before;
        assert_eq!(nodes, usize::from(matches!(won[0], Ok(Answer::Node(_)))));
        // Whoever lost is nobody here either.
        let people = snapshot.registry().users().filter(|user| user.issuer != "local").count();
        let owned = snapshot.registry().nodes().filter(|node| node.owner.user() != Some(ann)).count();
        assert_eq!(people, owned);
    }
}

#[tokio::test]
async fn a_hundred_machines_of_one_name_get_names_and_addresses_of_their_own() {
    let world = start().await;
    let key = world.join_key(true).await;
    let answers = race(&world, (0..CLAIMANTS).map(|number| claim(number, &key, "Büro PC.local"))).await;
    assert!(answers.iter().all(is_in));
    let snapshot = world.registry.snapshot();
    let names: BTreeSet<_> = snapshot.registry().nodes().map(|node| node.name.clone()).collect();
    let addresses: BTreeSet<_> = snapshot.registry().nodes().flat_map(|node| node.addresses()).collect();
    assert_eq!((names.len(), addresses.len()), (100, 200));
    assert!(names.iter().all(|name| name.starts_with("b")), "{names:?}");
}

#[tokio::test]
async fn the_last_addresses_go_to_as_many_machines_and_come_back_with_them() {
    let said = Overrides {
        ipv4_range: Some("10.9.0.0/26".to_owned()),
        ipv6_range: Some("none".to_owned()),
        ..Overrides::default()
    };
    let world = start_with(said, Caps::default()).await;
    let ann = warren_api::admin::CreateUser { name: "ann".into(), ..Default::default() };
    world.admin.create_user(&ann).await.expect("a new name");
    let key = world.join_key(true).await;
    let answers = race(&world, (0..CLAIMANTS).map(|number| claim(number, &key, "pc"))).await;
    assert_eq!(answers.iter().filter(|answer| is_in(answer)).count(), 62, "all but the first and the last");
    let refused = |answer: &&Result<Answer, CommandError>| matches!(answer, Err(CommandError::Refused(refusal)) if refusal.to_string() == "no address left in 10.9.0.0/26");
    assert_eq!(answers.iter().filter(refused).count(), 38);
    // Half leave while the others try again: what is free is given once.
    let leaving: Vec<_> = world.registry.snapshot().registry().nodes().map(|node| node.id).take(30).collect();
    let deletes = leaving.iter().map(|node| Command::by_server(What::DeleteNode { node: *node }));
    let claims = (100..150).map(|number| claim(number, &key, "pc"));
    race(&world, deletes.chain(claims)).await;
    let snapshot = world.registry.snapshot();
    let addresses: BTreeSet<_> = snapshot.registry().nodes().flat_map(|node| node.addresses()).collect();
    assert_eq!(addresses.len(), snapshot.registry().node_count());
    assert!((32..=62).contains(&addresses.len()), "{}", addresses.len());
}
