//! Checks of shell sessions: who may answer, once, and for how long it counts.

use std::time::Duration;

use warren_control::rows::Sealed;
use warren_control::shell_checks::Taken;
use warren_control::{
    Actor, Answer, AuthId, CheckPeriod, CheckRefusal, CheckStep, CheckVerdict, Person, ShellChecks, ShellSession, What,
};
use warren_wire::{NodeId, UserId};

use crate::world::*;
use CheckVerdict::{LetIn, TurnedAway};

const HOUR: CheckPeriod = CheckPeriod::For(Duration::from_secs(3600));

struct Party {
    world: World,
    checks: ShellChecks,
    /// Two nodes of ann's.
    from: NodeId,
    to: NodeId,
    ann: UserId,
}

fn person(subject: &str) -> Actor {
    Actor::Person { issuer: "https://id.example".into(), subject: subject.into() }
}

fn operator() -> Actor {
    Actor::Operator { name: "uid 0".into(), door: "test" }
}

fn id(number: u16) -> AuthId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    AuthId::from_bytes(bytes)
}

fn enrol(world: &mut World, machine: u8, subject: &str) -> (NodeId, UserId) {
    let Ok(Answer::Register(warren_control::RegisterAnswer::Visit(id))) =
        world.ask(register(machine, machine, None, |_| {}))
    else {
        panic!("no link");
    };
    let person = Person { issuer: "https://id.example".into(), subject: subject.into(), ..Person::default() };
    let what = What::Enrol { id, person: Box::new(person), refresh: None::<Sealed>, until: None };
    let Ok(Answer::Node(node)) = world.ask(what) else { panic!("not enrolled") };
    (node.id, node.owner.user().expect("a person's"))
}

fn party() -> Party {
    let mut world = World::new();
    let (from, ann) = enrol(&mut world, 1, "ann");
    let (to, _) = enrol(&mut world, 2, "ann");
    enrol(&mut world, 3, "bob");
    Party { world, checks: ShellChecks::default(), from, to, ann }
}

impl Party {
    fn session(&self) -> ShellSession {
        ShellSession { from: self.from, to: self.to, local_user: "root".into() }
    }

    fn begin(&mut self, number: u16) -> AuthId {
        self.checks.begin(id(number), self.session(), self.ann, self.world.now);
        id(number)
    }

    fn answer(&mut self, id: AuthId, verdict: CheckVerdict, by: &Actor) -> Result<(), CheckRefusal> {
        self.checks.answer(id, verdict, by, self.world.control.registry(), self.world.now).map(drop)
    }

    fn take(&mut self, id: AuthId) -> Taken {
        let session = self.session();
        self.checks.take(id, &session, self.world.control.registry(), self.world.now)
    }

    fn has_passed(&self, period: CheckPeriod) -> bool {
        self.checks.has_passed(&self.session(), period, self.world.control.registry(), self.world.now)
    }
}

#[test]
fn only_the_person_whose_node_it_is_answers_and_others_use_nothing_up() {
    let mut party = party();
    let id = party.begin(1);
    let not_theirs = CheckRefusal::NotTheirs { device: "host-1".into() };
    let other_issuer = Actor::Person { issuer: "https://other.example".into(), subject: "ann".into() };
    for somebody in [person("bob"), person("eve"), other_issuer, Actor::Server] {
        assert_eq!(party.answer(id, LetIn, &somebody), Err(not_theirs.clone()), "{somebody}");
        assert_eq!((party.take(id), party.has_passed(HOUR)), (Taken::Open, false));
    }
    assert_eq!(party.answer(id, LetIn, &person("ann")), Ok(()));
    assert_eq!(party.take(id), Taken::Verdict(LetIn));
    assert!(party.has_passed(HOUR) && !party.has_passed(CheckPeriod::Always));
}

#[test]
fn a_check_is_answered_once_and_its_verdict_taken_once() {
    let mut party = party();
    let (one, two) = (party.begin(1), party.begin(2));
    party.answer(one, TurnedAway, &person("ann")).expect("hers");
    assert_eq!(party.answer(one, LetIn, &operator()), Err(CheckRefusal::Answered), "a no stays a no");
    assert!(!party.has_passed(HOUR));
    let other = ShellSession { local_user: "www".into(), ..party.session() };
    let registry = party.world.control.registry();
    assert_eq!(party.checks.take(one, &other, registry, party.world.now), Taken::Unknown, "of another session");
    assert_eq!(party.take(one), Taken::Verdict(TurnedAway));
    assert_eq!(party.take(one), Taken::Unknown);
    assert_eq!(party.answer(one, LetIn, &person("ann")), Err(CheckRefusal::Answered));
    let step = party.checks.check(one, party.world.control.registry(), party.world.now).expect("still shown").step;
    assert_eq!(step, CheckStep::Taken(TurnedAway));
    let third = party.begin(3);
    party.answer(two, LetIn, &operator()).expect("an operator may");
    assert_eq!((party.take(two), party.has_passed(HOUR)), (Taken::Verdict(LetIn), true));
    party.answer(third, TurnedAway, &person("ann")).expect("hers");
    assert!(!party.has_passed(HOUR), "a no to one of them ends what was let in before");
}

#[test]
fn a_link_ends_and_a_passed_check_counts_for_its_period_between_these_two_nodes() {
    let mut party = party();
    let id = party.begin(1);
    party.world.now += Duration::from_secs(15 * 60);
    assert_eq!(party.answer(id, LetIn, &person("ann")), Err(CheckRefusal::Unknown));
    let id = party.begin(2);
    party.answer(id, LetIn, &person("ann")).expect("in time");
    let back = ShellSession { from: party.to, to: party.from, local_user: "root".into() };
    let (registry, now) = (party.world.control.registry(), party.world.now);
    assert!(!party.checks.has_passed(&back, HOUR, registry, now), "the way back is another one");
    party.world.now += Duration::from_secs(3599);
    assert!(party.has_passed(HOUR));
    party.world.now += Duration::from_secs(1);
    assert!(!party.has_passed(HOUR));
}

#[test]
fn a_node_that_changes_hands_takes_neither_an_open_nor_a_passed_check_along() {
    let mut party = party();
    let (open, passed) = (party.begin(1), party.begin(2));
    party.answer(passed, LetIn, &person("ann")).expect("hers");
    let bob = UserId(2);
    party.world.ask(What::MoveNode { node: party.from, user: bob }).expect("moved");
    assert_eq!(party.answer(open, LetIn, &person("ann")), Err(CheckRefusal::Unknown));
    assert_eq!(party.answer(open, LetIn, &person("bob")), Err(CheckRefusal::Unknown), "he was never asked");
    assert_eq!((party.take(passed), party.has_passed(HOUR)), (Taken::Unknown, false));
}

#[test]
fn whoever_asks_without_end_pushes_out_its_own() {
    let mut party = party();
    let patient = party.begin(0);
    for number in 1..3000 {
        let (from, to) = (NodeId(i64::from(number % 200)), NodeId(77));
        let session = ShellSession { from, to, local_user: "root".into() };
        party.world.now += Duration::from_millis(1);
        party.checks.begin(id(number), session, party.ann, party.world.now);
    }
    assert_eq!(party.take(patient), Taken::Open);
    for number in 3000..3020 {
        party.world.now += Duration::from_millis(1);
        party.begin(number);
    }
    assert_eq!(party.take(patient), Taken::Unknown, "one pair has some windows and no more");
    assert_eq!(party.take(id(3019)), Taken::Open);
}
