//! The truth in plain data: who is where, who knows what, who must reach whom.

use std::time::Duration;

use crate::choices::Choices;
use crate::control_host::Crash;
use crate::rules::{Rules, USERS};
use crate::step::{Place, Step};

/// A machine, by the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeNo(pub usize);

/// A node key is good for so long.
pub const KEY_LIFETIME: Duration = Duration::from_secs(6 * 3600);

/// So close to the end of a key nothing is expected: the corrected clocks of two machines may differ a little.
const NEAR_THE_END: Duration = Duration::from_secs(30);

/// A router has forgotten the mappings of who was behind it before, so that their ports are free.
const FORGOTTEN_BY: Duration = Duration::from_secs(40);

/// Machines in one network.
const MAX_NODES: usize = 5;

/// What must come of a datagram and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Arrives,
    Never,
    /// Either, for a reason that the model does not follow.
    Perhaps,
}

/// What one machine was last told by the control server.
#[derive(Clone, Debug)]
struct View {
    rules: Rules,
    /// For each machine then known: which of its keys, and when that ends. `None`: not a member then.
    keys: Vec<Option<Key>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    number: u32,
    expires: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Right,
    /// Wrong, which a running node that was told the time does not notice.
    Set,
    /// Wrong, and believed.
    Believed,
}

/// What the machine's own firewall does to UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Udp {
    Free,
    Blocked,
    /// It was blocked: how soon the machine looks at its network again is not followed.
    FreeAgain,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub user: usize,
    pub place: Place,
    pub v4: bool,
    pub v6: bool,
    pub is_running: bool,
    pub is_cut: bool,
    /// Logged out, or in with this key.
    key: Option<Key>,
    keys_made: u32,
    view: Option<View>,
    /// It came to its place while the control server could tell everybody.
    place_is_known: bool,
    /// Everybody who is told knows at which relay it listens.
    home_is_known: bool,
    udp: Udp,
    moved_at: Option<Duration>,
    /// Its wall clock was set, and it was started since without the control server to tell it the time: it may take
    /// keys for good or ended that are not, and its handshakes for old ones.
    clock: Clock,
    /// The control server has told it the time since it was started; before that a clock set forward is believed.
    knows_time: bool,
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct Model {
    pub machines: Vec<Machine>,
    rules: Rules,
    pub control_is_up: bool,
    pub relay_is_up: bool,
    /// Since the beginning.
    now: Duration,
}

impl Model {
    pub fn new() -> Model {
        Model {
            machines: Vec::new(),
            rules: Rules::everything(),
            control_is_up: true,
            relay_is_up: true,
            now: Duration::ZERO,
        }
    }

    /// The clock of the lab, to which the ends of keys are compared.
    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    pub fn numbers(&self) -> impl Iterator<Item = NodeNo> + use<> {
        (0..self.machines.len()).map(NodeNo)
    }

    pub fn machine(&self, node: NodeNo) -> &Machine {
        &self.machines[node.0]
    }

    /// Something that may happen now; `None` when the choices are used up.
    pub fn legal_step(&self, choices: &mut Choices) -> Option<Step> {
        if choices.is_over() {
            return None;
        }
        if self.machines.len() < 2 {
            return Some(draw_join(choices));
        }
        // Not every draw is legal now; a few tries nearly always find one, and time can always pass.
        let drawn = (0..8).find_map(|_| self.draw(choices).filter(|step| self.is_legal(step)));
        Some(drawn.unwrap_or(Step::Wait(Duration::from_secs(30))))
    }

    fn draw(&self, choices: &mut Choices) -> Option<Step> {
        let numbers: Vec<NodeNo> = self.numbers().collect();
        let kind = choices.below(49);
        let node = choices.pick(&numbers)?;
        Some(match kind {
            0..=2 => draw_join(choices),
            3 => Step::Leave(node),
            4 => Step::Renew(node),
            5 => Step::Rotate(node),
            6..=7 => Step::Kill(node),
            8..=10 => Step::Start(node),
            11 => Step::NewDisco(node),
            12..=13 => Step::Roam(node, choices.pick(&Place::ALL)?),
            14 => Step::Cut(node),
            15..=16 => Step::Heal(node),
            17 => Step::SetClock(node, [-24, -1, 1, 24][choices.below(4)]),
            18 => Step::ControlDown,
            19..=20 => Step::ControlUp,
            21 => Step::RelayDown,
            22..=23 => Step::RelayUp,
            24 => Step::Expire(node),
            25..=26 => Step::Policy(Rules::draw(choices)),
            27..=28 => Step::Wait([5, 60, 200, 1800, 3 * 3600].map(Duration::from_secs)[choices.below(5)]),
            // What was taken away is mostly given back soon: a dead network has nothing to tell.
            29..=31 if !self.control_is_up => Step::ControlUp,
            32..=34 if !self.relay_is_up => Step::RelayUp,
            35..=37 if !self.machine(node).is_running => Step::Start(node),
            35..=37 if self.machine(node).is_cut => Step::Heal(node),
            41..=43 if self.machine(node).udp == Udp::Blocked => Step::AllowUdp(node),
            38 => Step::BlockUdp(node),
            39 => Step::Delete { node, crash: draw_crash(choices) },
            40 => Step::Move { node, user: choices.below(USERS), crash: draw_crash(choices) },
            _ => Step::Talk(node, choices.pick(&numbers).filter(|other| *other != node)?),
        })
    }

    fn is_legal(&self, step: &Step) -> bool {
        // What needs the control server is only done where it hears of it.
        let is_heard = |node: &NodeNo| {
            let machine = self.machine(*node);
            self.control_is_up && machine.is_running && !machine.is_cut
        };
        match step {
            Step::Join { .. } => self.machines.len() < MAX_NODES && self.control_is_up,
            Step::Leave(node) => is_heard(node) && self.is_member(*node),
            Step::Renew(node) => is_heard(node),
            Step::Rotate(node) => is_heard(node) && self.is_member(*node),
            Step::Expire(node) => self.control_is_up && self.is_member(*node),
            Step::Delete { node, .. } => is_heard(node) && self.is_member(*node) && !self.is_near_the_end(*node),
            Step::Move { node, user, .. } => {
                self.control_is_up && self.is_member(*node) && self.machine(*node).user != *user
            }
            Step::Kill(node) => self.machine(*node).is_running,
            Step::Start(node) => !self.machine(*node).is_running,
            Step::NewDisco(node) => self.machine(*node).is_running,
            Step::Roam(node, place) => self.machine(*node).place != *place,
            Step::Cut(node) => !self.machine(*node).is_cut,
            Step::Heal(node) => self.machine(*node).is_cut,
            Step::BlockUdp(node) => self.machine(*node).udp != Udp::Blocked,
            Step::AllowUdp(node) => self.machine(*node).udp == Udp::Blocked,
            Step::ControlDown | Step::Policy(_) => self.control_is_up,
            Step::ControlUp => !self.control_is_up,
            Step::RelayDown => self.relay_is_up,
            Step::RelayUp => !self.relay_is_up,
            Step::SetClock(..) | Step::Wait(_) | Step::Talk(..) => true,
        }
    }

    /// The truth after a step, before anybody was told.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Join { user, place, v4, v6, crash } => {
                if crash.is_some() {
                    self.forget_homes();
                }
                self.machines.push(Machine {
                    user: *user,
                    place: *place,
                    v4: *v4,
                    v6: *v6,
                    is_running: true,
                    is_cut: false,
                    key: Some(Key { number: 0, expires: self.now + KEY_LIFETIME }),
                    keys_made: 1,
                    view: None,
                    place_is_known: true,
                    home_is_known: false,
                    udp: Udp::Free,
                    moved_at: None,
                    clock: Clock::Right,
                    knows_time: false,
                })
            }
            Step::Leave(node) => (self.of(node).key, self.of(node).view) = (None, None),
            Step::Delete { node, crash } => {
                if crash.is_some() {
                    self.forget_homes();
                }
                (self.of(node).key, self.of(node).view) = (None, None);
            }
            Step::Move { node, user, crash } => {
                if crash.is_some() {
                    self.forget_homes();
                }
                self.of(node).user = *user;
            }
            Step::Renew(node) => {
                let expires = self.now + KEY_LIFETIME;
                // Someone who is in and well, and comes with a key, stays who he is.
                if !self.is_member(*node) {
                    let machine = self.of(node);
                    machine.key = Some(Key { number: machine.keys_made, expires });
                    machine.keys_made += 1;
                }
            }
            Step::Expire(node) => {
                let now = self.now;
                if let Some(key) = &mut self.of(node).key {
                    key.expires = now;
                }
            }
            Step::Kill(node) => self.of(node).is_running = false,
            Step::Start(node) => {
                let machine = self.of(node);
                machine.start();
            }
            Step::NewDisco(node) => self.of(node).start(),
            Step::SetClock(node, _) => {
                let machine = self.of(node);
                machine.clock = Clock::Set;
                if machine.is_running && !machine.knows_time {
                    machine.believe_clock();
                }
            }
            Step::Rotate(node) => {
                let expires = self.now + KEY_LIFETIME;
                let machine = self.of(node);
                machine.key = Some(Key { number: machine.keys_made, expires });
                machine.keys_made += 1;
            }
            Step::Roam(node, place) => {
                let (is_known, now) = (self.control_is_up, self.now);
                let machine = self.of(node);
                (machine.place, machine.place_is_known) = (*place, is_known);
                machine.moved_at = Some(now);
            }
            Step::Cut(node) => self.of(node).is_cut = true,
            Step::Heal(node) => self.of(node).is_cut = false,
            Step::BlockUdp(node) => self.of(node).udp = Udp::Blocked,
            Step::AllowUdp(node) => self.of(node).udp = Udp::FreeAgain,
            Step::ControlDown => self.control_is_up = false,
            Step::ControlUp => {
                self.control_is_up = true;
                self.forget_homes();
            }
            Step::RelayDown => self.relay_is_up = false,
            Step::RelayUp => self.relay_is_up = true,
            Step::Policy(rules) => self.rules = rules.clone(),
            Step::Wait(_) | Step::Talk(..) => {}
        }
    }

    /// Whoever the control server can talk to knows the truth now.
    pub fn tell(&mut self) {
        let keys: Vec<Option<Key>> = self.machines.iter().map(|machine| machine.key).collect();
        for node in self.numbers() {
            let machine = self.machine(node);
            if self.control_is_up && machine.is_running && !machine.is_cut && !self.is_member(node) {
                // It is told that it is out.
                self.of(&node).view = None;
            }
            if self.is_told(node) {
                let view = View { rules: self.rules.clone(), keys: keys.clone() };
                let machine = self.of(&node);
                (machine.view, machine.place_is_known) = (Some(view), true);
                machine.knows_time = true;
                if machine.clock == Clock::Believed {
                    machine.clock = Clock::Set;
                }
            }
        }
    }

    /// What nodes said last may have been lost in a crash, and who cannot be heard does not say it again.
    fn forget_homes(&mut self) {
        for machine in &mut self.machines {
            machine.home_is_known = false;
        }
    }

    /// Time enough has passed for nodes to find their home and to say so.
    pub fn settled(&mut self) {
        for node in self.numbers() {
            if self.is_told(node) && self.relay_is_up {
                self.of(&node).home_is_known = true;
            }
        }
    }

    /// Whether the control server has this node's attention.
    pub fn is_told(&self, node: NodeNo) -> bool {
        self.reaches_control(node) && self.is_member(node)
    }

    /// Whether the node can ask the control server, which may not want it.
    pub fn reaches_control(&self, node: NodeNo) -> bool {
        let machine = self.machine(node);
        self.control_is_up && machine.is_running && !machine.is_cut
    }

    /// Whether the node is in and its key is good.
    pub fn is_member(&self, node: NodeNo) -> bool {
        self.machine(node).key.is_some_and(|key| self.now < key.expires)
    }

    /// Whether this node's key ends about now.
    pub fn is_near_the_end(&self, node: NodeNo) -> bool {
        let near = |key: Key| self.now + NEAR_THE_END > key.expires && self.now < key.expires + NEAR_THE_END;
        self.machine(node).key.is_some_and(near)
    }

    /// Whom a node that is told must have as peers.
    pub fn peers_of(&self, node: NodeNo) -> Vec<NodeNo> {
        let own = self.machine(node).user;
        let is_peer = |other: &NodeNo| {
            *other != node && self.is_member(*other) && self.rules.connect(own, self.machine(*other).user)
        };
        self.numbers().filter(is_peer).collect()
    }

    /// What comes of a datagram from `a` to a port of `b`, and its answer.
    pub fn expect(&self, a: NodeNo, b: NodeNo, port: u16) -> Expect {
        let (from, to) = (self.machine(a), self.machine(b));
        if !from.is_running || !to.is_running || from.is_cut || to.is_cut {
            return Expect::Never;
        }
        let (Some(from_view), Some(to_view)) = (&from.view, &to.view) else { return Expect::Never };
        let knows = |view: &View, other: NodeNo| {
            let known = view.keys.get(other.0).copied().flatten().filter(|key| self.now < key.expires);
            known.is_some_and(|known| self.machine(other).key.is_some_and(|key| key.number == known.number))
        };
        let is_known = knows(from_view, b) && knows(from_view, a) && knows(to_view, a) && knows(to_view, b);
        let is_seen = from_view.rules.connect(from.user, to.user) && to_view.rules.connect(from.user, to.user);
        if [a, b].into_iter().any(|node| self.is_near_the_end(node) || self.machine(node).clock == Clock::Believed) {
            return Expect::Perhaps;
        }
        if !is_known || !is_seen || !to_view.rules.allow(from.user, to.user, port) {
            return Expect::Never;
        }
        if self.relay_is_up && from.home_is_known && to.home_is_known || self.meets_without_help(from, to) {
            return Expect::Arrives;
        }
        Expect::Perhaps
    }

    /// Both can be reached by anybody who knows their addresses, and everybody does.
    fn meets_without_help(&self, a: &Machine, b: &Machine) -> bool {
        let is_open =
            |machine: &Machine| machine.place == Place::Public && machine.place_is_known && machine.udp == Udp::Free;
        is_open(a) && is_open(b) && (a.v4 && b.v4 || a.v6 && b.v6)
    }

    /// Whether everything that helps two nodes to a direct path works, and both know the truth.
    pub fn can_judge_path(&self, a: NodeNo, b: NodeNo) -> bool {
        let is_simple = [a, b].into_iter().all(|node| {
            let machine = self.machine(node);
            let is_old_here = machine.moved_at.is_none_or(|at| self.now >= at + FORGOTTEN_BY);
            machine.udp != Udp::FreeAgain && (machine.place != Place::Linux || is_old_here)
        });
        self.relay_is_up && self.is_told(a) && self.is_told(b) && is_simple
    }

    fn of(&mut self, node: &NodeNo) -> &mut Machine {
        &mut self.machines[node.0]
    }
}

impl Machine {
    fn start(&mut self) {
        (self.is_running, self.knows_time) = (true, false);
        self.believe_clock();
    }

    fn believe_clock(&mut self) {
        if self.clock == Clock::Set {
            self.clock = Clock::Believed;
        }
    }
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

fn draw_join(choices: &mut Choices) -> Step {
    let (v4, v6) = [(true, true), (true, true), (true, false), (false, true)][choices.below(4)];
    let place = Place::ALL[choices.below(Place::ALL.len())];
    let crash = draw_crash(choices);
    Step::Join { user: choices.below(USERS), place, v4, v6, crash }
}

fn draw_crash(choices: &mut Choices) -> Option<Crash> {
    [None, None, None, None, Some(Crash::BeforeCommit), Some(Crash::BeforeAnswer)][choices.below(6)]
}
