//! A node, its clock, and a pen to write the server's answers with.

use std::time::{Duration, Instant};

use warren_crypto::UnixTime;
use warren_node::{
    Action, AuthKey, BackendState, Command, CommandError, ControlEvent, ControlRequest, DEFAULT_MTU, Node, NodeSetup,
    NodeState, Notice, OsFacts, PrefsEdit, Reply, RequestId,
};
use warren_wire::{MapRequest, MapResponse, RegisterRequest, RegisterResponse};

pub const NOON: UnixTime = UnixTime::from_secs(1_790_000_000);
pub const URL: &str = "http://192.0.2.1:8080";

pub struct Rig {
    pub node: Node,
    pub now: Instant,
    pub wall: UnixTime,
    /// The last state that was to be written.
    pub disk: Option<NodeState>,
    seed: u8,
}

/// The newest request of each kind that is still wanted.
#[derive(Debug, Default)]
pub struct Asked {
    pub register: Option<(RequestId, RegisterRequest)>,
    pub stream: Option<(RequestId, MapRequest)>,
    pub update: Option<(RequestId, MapRequest)>,
    pub goodbye: Option<RegisterRequest>,
    pub closed: bool,
    pub others: Vec<Action>,
}

impl Rig {
    pub fn new() -> Rig {
        #[allow(clippy::disallowed_methods, reason = "a test's clock must begin somewhere")]
        let now = Instant::now();
        Rig::start(None, now, NOON, 1)
    }

    fn start(state: Option<NodeState>, now: Instant, wall: UnixTime, seed: u8) -> Rig {
        let setup = NodeSetup {
            state,
            seed: [seed; 32],
            facts: OsFacts { hostname: "box".into(), os: "linux".into(), ..OsFacts::default() },
            userspace: true,
            mtu: DEFAULT_MTU,
            delivery: Default::default(),
        };
        Rig { node: Node::new(setup, now, wall), now, wall, disk: None, seed }
    }

    /// Kills the node and starts it from what it wrote, through the text of the file, by a wall clock of one's choice.
    pub fn restarted_at(mut self, wall: UnixTime) -> Rig {
        self.asked();
        let text = self.disk.expect("something was written").to_file_text_with_secrets();
        let state = NodeState::from_file_text(&text).expect("its own file");
        Rig::start(Some(state), self.now, wall, self.seed + 1)
    }

    pub fn restarted(self) -> Rig {
        let wall = self.wall;
        self.restarted_at(wall)
    }

    /// Drains actions.
    pub fn asked(&mut self) -> Asked {
        let mut asked = Asked::default();
        while let Some(action) = self.node.poll_action() {
            match action {
                Action::Control { id, request: ControlRequest::Register(request) } => {
                    asked.register = Some((id, *request))
                }
                Action::Control { id, request: ControlRequest::Stream(request) } => asked.stream = Some((id, *request)),
                Action::Control { id, request: ControlRequest::Update(request) } => asked.update = Some((id, *request)),
                Action::CloseControl => asked = Asked { closed: true, ..Asked::default() },
                Action::SayGoodbye { request, .. } => asked.goodbye = Some(*request),
                Action::Persist(state) => self.disk = Some(*state),
                other => asked.others.push(other),
            }
        }
        asked
    }

    pub fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.node.poll_notice()).collect()
    }

    pub fn command(&mut self, command: Command) -> Result<Reply, CommandError> {
        self.node.handle_command(command, self.now, self.wall)
    }

    pub fn say(&mut self, id: RequestId, event: ControlEvent) {
        self.node.handle_control(id, event, self.now, self.wall);
    }

    pub fn state(&self) -> BackendState {
        self.node.backend_state(self.now, self.wall)
    }

    /// Lets time pass, from deadline to deadline.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let wall_end = self.wall.saturating_add(time);
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) {
            let step = at.saturating_duration_since(self.now).max(Duration::from_millis(1));
            self.now += step;
            self.wall = self.wall.saturating_add(step);
            self.node.handle_timeout(self.now, self.wall);
        }
        self.now = self.now.max(end);
        self.wall = self.wall.max(wall_end);
        self.node.handle_timeout(self.now, self.wall);
    }

    /// `warren up --login-server URL --auth-key KEY`.
    pub fn up_with_key(&mut self) -> (RequestId, RegisterRequest) {
        self.up(Some(AuthKey::new("the-key")));
        self.asked().register.expect("a registration")
    }

    pub fn up(&mut self, auth_key: Option<AuthKey>) {
        let prefs = PrefsEdit { control_url: Some(URL.into()), want_running: Some(true), ..PrefsEdit::default() };
        self.command(Command::Start { auth_key, prefs }).expect("good wishes");
    }

    /// Registers by key and receives a first map with peer 2 at 100.64.0.2.
    pub fn joined() -> Rig {
        let mut rig = Rig::new();
        let (id, _) = rig.up_with_key();
        rig.say(id, success());
        let (stream, _) = rig.asked().stream.expect("a poll");
        rig.say(stream, map(&first_map("")));
        assert_eq!(rig.state(), BackendState::Running);
        rig
    }

    /// Registers again after a restart, up to the open stream.
    pub fn back(&mut self) -> RequestId {
        let (id, _) = self.asked().register.expect("a registration");
        self.say(id, success());
        self.asked().stream.expect("a poll").0
    }

    pub fn reaches(&self, addr: &str) -> bool {
        self.node.engine().peer_for(addr.parse().unwrap()).is_some()
    }
}

pub fn success() -> ControlEvent {
    answer(|answer| {
        answer.machine_authorized = true;
        answer.login.login_name = "ann@example.org".into();
    })
}

pub fn answer(edit: impl FnOnce(&mut RegisterResponse)) -> ControlEvent {
    let mut answer = RegisterResponse::default();
    edit(&mut answer);
    ControlEvent::Registered(Box::new(answer))
}

pub fn map(json: &str) -> ControlEvent {
    ControlEvent::Map(Box::new(serde_json::from_str::<MapResponse>(json).expect(json)))
}

/// Self is 1 at 100.64.0.1, a peer is 2 at 100.64.0.2. `extra` is put into the peer.
pub fn first_map(extra: &str) -> String {
    map_with("", extra)
}

pub fn map_with(self_extra: &str, peer_extra: &str) -> String {
    let key = "2b".repeat(32);
    format!(
        r#"{{"Node":{{"ID":1,"StableID":"one","Name":"box.tail.example.","User":7,"MachineAuthorized":true,
             "Addresses":["100.64.0.1/32","fd7a:115c:a1e0::1/128"]{self_extra}}},
            "Peers":[{{"ID":2,"StableID":"two","Name":"web.tail.example.","User":7,"MachineAuthorized":true,
             "Key":"nodekey:{key}","DiscoKey":"discokey:{key}","Addresses":["100.64.0.2/32","fd7a:115c:a1e0::2/128"],
             "Online":true,"HomeDERP":900{peer_extra}}}],
            "UserProfiles":[{{"ID":7,"LoginName":"ann@example.org","DisplayName":"Ann"}}],
            "DERPMap":{{"Regions":{{"900":{{"RegionID":900,"RegionCode":"home","RegionName":"Home","Nodes":[
             {{"Name":"900a","RegionID":900,"HostName":"relay.example","IPv4":"192.0.2.1"}}]}}}}}},
            "PacketFilters":{{"base":[{{"SrcIPs":["100.64.0.2"],"CapGrant":[{{"Dsts":["100.64.0.1/32"],"CapMap":{{"x":[1]}}}}]}}]}},
            "Domain":"tail.example","ControlTime":"2026-09-21T14:13:20Z"}}"#
    )
}
