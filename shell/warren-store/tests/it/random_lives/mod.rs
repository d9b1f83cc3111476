//! Random lives of a whole control server over the real database, with a crash between any two steps of a batch:
//!
//! ```text
//! decide ─▶ begin ─▶ write ─▶ commit ─▶ apply ─▶ answer
//!        ╳        ╳        ╳         ╳        ╳        ╳      and: the database refuses, and everything goes on
//! ```
//!
//! After every step the database, loaded anew, is what a model on paper says, every answer is the model's, and every
//! client's folded map is the model's map. `WARREN_LIVES_STEPS` says for how long (`cargo xtask test --long`),
//! `WARREN_LIVES_SEED` which life.

mod draw;
mod model;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use warren_control::{Answer, ChannelId, Command, Control, Next, RegisterAnswer, Session, Settings, Staged};
use warren_crypto::{DiscoPublic, Random, UnixTime};
use warren_store::Store;
use warren_wire::netmap::{NetMap, fold};
use warren_wire::{CapabilityVersion, Hostinfo, MapRequest, NodeId};

use self::draw::{Draw, Step};
use self::model::{Ask, EPHEMERAL_TIMEOUT, HOSTS, KEY_LIFETIME, Model};
use self::words::{Names, Tally, verdict};
use crate::batches::open;

const VERSION: CapabilityVersion = CapabilityVersion::OLDEST_SERVED;
const BIRTH: u64 = 1_790_000_000;

/// Where a batch is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Decided,
    Begun,
    Written,
    /// Not a crash: the transaction is undone, and the server goes on.
    Refused,
    Committed,
    Applied,
    Answered,
}

const CUTS: [Cut; 7] =
    [Cut::Decided, Cut::Begun, Cut::Written, Cut::Refused, Cut::Committed, Cut::Applied, Cut::Answered];

struct Client {
    session: Session,
    held: Option<NetMap>,
}

struct Life {
    folder: tempfile::TempDir,
    path: PathBuf,
    store: Option<Store>,
    control: Control,
    random: Random,
    birth: Instant,
    names: Names,
    model: Model,
    clients: BTreeMap<i64, Client>,
    next_channel: u64,
    channels: BTreeMap<i64, ChannelId>,
    tally: Tally,
}

fn settings(device_approval: bool) -> Settings {
    let mut settings = Settings::new("https://control.example", "control.example", "mesh.test");
    settings.key_lifetime = Some(Duration::from_secs(KEY_LIFETIME));
    settings.ephemeral_timeout = Duration::from_secs(EPHEMERAL_TIMEOUT);
    settings.device_approval = device_approval;
    settings
}

impl Life {
    async fn begin(seed: u64, device_approval: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state").join("control.db");
        let mut store = open(&path).await;
        let rows = store.load().await.expect("an empty registry");
        let birth = Instant::now();
        let control = Control::from_rows(&rows, settings(device_approval), birth).expect("an empty registry");
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            folder,
            path,
            store: Some(store),
            control,
            random: Random::from_seed(bytes),
            birth,
            names: Names::new(),
            model: Model::new(BIRTH, device_approval),
            clients: BTreeMap::new(),
            next_channel: 1,
            channels: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    fn now(&self) -> Instant {
        self.birth + Duration::from_secs(self.model.now - BIRTH)
    }

    fn wall(&self) -> UnixTime {
        UnixTime::from_secs(self.model.now)
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Batch(asks, cut) => self.batch(asks, cut, false).await,
            Step::Connect(id) => self.connect(id),
            Step::Disconnect(id) => self.disconnect(id),
            Step::Speak { node, host, routes, endpoint } => {
                self.tally.count("map request");
                self.speak(node, self.channels[&node], host, routes, endpoint);
                self.own_asks(draw::none(), None).await;
            }
            Step::Clone { node, host, endpoint } => self.clone_speaks(node, host, endpoint).await,
            Step::Pass(seconds, cut) => {
                self.tally.count("time passes");
                let expected = self.model.pass(seconds);
                self.control.handle_timeout(self.now(), self.wall());
                self.own_asks(expected, cut).await;
            }
            Step::SaveSoft => {
                self.tally.count("soft facts saved");
                let soft = self.control.take_soft();
                self.store.as_mut().expect("open").save_soft(&soft).await.expect("saved");
                self.model.saved = self.model.said.clone();
            }
        }
        self.control.publish();
        self.poll_clients();
        self.model.check();
    }

    fn connect(&mut self, id: i64) {
        self.tally.count("stream begins");
        let channel = ChannelId(self.next_channel);
        self.next_channel += 1;
        self.channels.insert(id, channel);
        self.control.handle_stream_started(NodeId(id), channel, self.now());
        self.model.connect(id);
        let key = self.names.node_key(self.model.nodes[&id].key);
        // What an earlier stream said is not carried over.
        self.clients.insert(id, Client { session: Session::new(NodeId(id), key, VERSION), held: None });
    }

    fn disconnect(&mut self, id: i64) {
        self.tally.count("stream ends");
        self.control.handle_stream_ended(NodeId(id), self.channels[&id], self.now(), self.wall());
        self.model.disconnect(id);
        self.clients.remove(&id);
    }

    /// Returns whether the server should believe it; tells the model if so.
    fn say(&mut self, node: i64, channel: ChannelId, host: usize, routes: Vec<warren_ip::Prefix>, endpoint: u8) {
        let mut request = MapRequest {
            version: VERSION,
            disco_key: Some(DiscoPublic::from_bytes([(channel.0 % 250) as u8 + 1; 32])),
            hostinfo: Some(Box::new(Hostinfo {
                hostname: HOSTS[host].0.into(),
                routable_ips: routes,
                ..Hostinfo::default()
            })),
            ..MapRequest::default()
        };
        request.endpoints.push(std::net::SocketAddr::from(([192, 0, 2, 1], endpoint.into())));
        self.control.handle_map_request(NodeId(node), channel, &request, self.now());
    }

    fn speak(&mut self, node: i64, channel: ChannelId, host: usize, routes: Vec<warren_ip::Prefix>, endpoint: u8) {
        self.say(node, channel, host, routes.clone(), endpoint);
        self.model.said.insert(
            node,
            model::Said { routes, tags: draw::none(), endpoint: Some(endpoint), ..model::Said::default() },
        );
    }

    /// A second machine with the same keys comes, both speak, and it goes: the later one is believed while it is there.
    async fn clone_speaks(&mut self, node: i64, host: usize, endpoint: u8) {
        self.tally.count("two machines with one state");
        let (first, second) = (self.channels[&node], ChannelId(self.next_channel));
        self.next_channel += 1;
        let routes = self.model.said.get(&node).map(|said| said.routes.clone()).unwrap_or_default();
        self.say(node, first, host, routes.clone(), endpoint);
        self.control.handle_stream_started(NodeId(node), second, self.now());
        self.speak(node, second, host, routes.clone(), endpoint.wrapping_add(1).max(1));
        let expected = self.model.pass(1);
        self.control.handle_timeout(self.now(), self.wall());
        self.say(node, first, host, routes, endpoint);
        self.control.handle_stream_ended(NodeId(node), second, self.now(), self.wall());
        self.own_asks(expected, None).await;
    }

    /// What the server wants decided of itself must be what the model wants, and is decided.
    async fn own_asks(&mut self, expected: Vec<String>, cut: Option<Cut>) {
        let mut asks = Vec::new();
        let mut timely = Vec::new();
        while let Some(command) = self.control.poll_ask() {
            use warren_control::What::{ApproveAnnounced, ExpireDue, FollowHostname, RemoveAway};
            asks.push(match command.what {
                FollowHostname { node, hostname } => {
                    let host = HOSTS.iter().position(|(said, _)| *said == hostname).expect("of the table");
                    Ask::FollowHostname(node.0, host)
                }
                ApproveAnnounced { node } => Ask::ApproveAnnounced(node.0),
                ExpireDue => {
                    timely.push("expire_due".to_owned());
                    Ask::ExpireDue
                }
                RemoveAway { node } => {
                    timely.push(format!("remove_away {}", node.0));
                    Ask::RemoveAway(node.0)
                }
                other => panic!("the server asks itself for {other:?}"),
            });
        }
        timely.sort();
        assert_eq!(timely, expected, "what time asks for");
        if !asks.is_empty() {
            self.batch(asks, cut, true).await;
        }
    }

    async fn batch(&mut self, asks: Vec<Ask>, cut: Option<Cut>, is_own: bool) {
        let mut after = self.model.clone();
        after.begin_batch();
        let mut staged = Staged::begin(&self.control);
        for ask in &asks {
            let what = self.names.what(ask, self.model.now, staged.registry());
            let action = what.action();
            let answer = staged.decide(Command::by_server(what), self.wall(), &mut self.random);
            let (said, expected) = (verdict(&answer), after.decide(ask));
            assert_eq!(said, expected, "to {ask:?}");
            self.tally.count(format!("{action}{}", if said.is_ok() { "" } else { ", refused" }));
            match &answer {
                Ok(Answer::Register(RegisterAnswer::Visit(id))) => after.name_link(*id),
                Ok(Answer::Key { key, secret: Some(secret) }) => {
                    secret.reveal().clone_into(&mut after.keys.get_mut(&key.id.0).expect("made").secret);
                }
                _ => {}
            }
            for (id, node) in after.nodes.iter_mut().filter(|(_, node)| node.addresses.is_empty()) {
                let row = staged.registry().node(NodeId(*id)).expect("answered");
                node.addresses = row.addresses().iter().map(|prefix| prefix.addr()).collect();
            }
            after.check();
        }
        let batch = staged.finish();
        let mut store = self.store.take().expect("open");
        if let Some(cut) = cut {
            self.tally.count(format!("cut: {cut:?}"));
        }
        let is_undone = matches!(cut, Some(Cut::Decided | Cut::Begun | Cut::Written | Cut::Refused));
        if is_undone && batch.needs_commit() {
            let begun = match cut {
                Some(Cut::Decided) => None,
                _ => Some(store.begin(batch.base).await.expect("begun")),
            };
            if let Some(mut begun) = begun {
                if cut != Some(Cut::Begun) {
                    begun.write(batch.revision, &batch.rows, &batch.audit).await.expect("written");
                }
                if cut != Some(Cut::Refused) {
                    // The files as they lie there now, under the process's hands.
                    self.move_to_copy();
                }
                drop(begun);
            }
        } else if !is_undone {
            store.commit(&batch).await.expect("committed");
            self.model = after;
            if !matches!(cut, Some(Cut::Committed)) {
                self.control.apply(batch, self.now()).expect("one batch at a time");
            }
            if matches!(cut, Some(Cut::Committed | Cut::Applied)) {
                self.move_to_copy();
            }
        }
        self.store = Some(store);
        match cut {
            None => self.check_rows().await,
            Some(Cut::Refused) => {
                self.check_rows().await;
                // A client's asks are its own to repeat; the server's are not lost with the batch.
                for ask in asks.iter().filter(|_| is_own) {
                    self.control.handle_not_committed(Command::by_server(self.names.what(
                        ask,
                        self.model.now,
                        self.control.registry(),
                    )));
                    if let Ask::RemoveAway(id) = ask {
                        self.model.remove_later(*id);
                    }
                }
            }
            Some(_) => self.rise_again().await,
        }
    }

    /// From now on the database is a copy of the files as they are at this moment.
    fn move_to_copy(&mut self) {
        let folder = tempfile::tempdir().expect("a folder");
        let from: &Path = self.path.parent().expect("a folder");
        for file in std::fs::read_dir(from).expect("files") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
        }
        self.path = folder.path().join("control.db");
        self.folder = folder;
    }

    /// Another process on what the database holds; clients come back by themselves.
    async fn rise_again(&mut self) {
        self.store = None;
        let mut store = open(&self.path).await;
        let rows = store.load().await.expect("a registry");
        self.store = Some(store);
        self.control =
            Control::from_rows(&rows, settings(self.model.device_approval), self.now()).expect("rows of ours");
        let back: Vec<i64> = self.model.connected.iter().copied().collect();
        self.model.restart();
        self.check_rows().await;
        self.clients.retain(|id, _| back.contains(id));
        for id in back {
            self.connect(id);
        }
    }

    async fn check_rows(&mut self) {
        let rows = self.store.as_mut().expect("open").load().await.expect("a registry");
        same(&self.names.rows(&rows), &self.model.rows(), "what is in the database");
    }

    fn poll_clients(&mut self) {
        let snapshot = self.control.snapshot();
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let wall = self.wall();
            let client = self.clients.get_mut(&id).expect("listed");
            match client.session.next(&snapshot, wall) {
                Next::Map(message) => {
                    let message = message.response().expect("a map response");
                    fold(&mut client.held, message, wall).expect("a message that folds");
                }
                Next::Nothing => {}
                Next::Last(message) => {
                    let message = message.response().expect("a map response");
                    fold(&mut client.held, message, wall).expect("a message that folds");
                    let held = client.held.as_ref().expect("a map");
                    assert!(!self.model.nodes.contains_key(&id) && held.self_node.expired && held.peers.is_empty());
                    self.clients.remove(&id);
                    continue;
                }
                Next::Gone => {
                    // Another key: its client knows that, and comes with it. Gone before it heard anything: that was it.
                    if self.model.nodes.contains_key(&id) {
                        self.control.handle_stream_ended(NodeId(id), self.channels[&id], self.now(), wall);
                        self.connect(id);
                        self.control.publish();
                        return self.poll_clients();
                    }
                    self.clients.remove(&id);
                    continue;
                }
                Next::Failed(error, _) => panic!("{error}"),
            }
            let held = self.clients[&id].held.as_ref().expect("a map");
            let held = self.names.map(held, &self.model.contended());
            same(&held, &self.model.map_of(id), &format!("the map of node {id}"));
        }
    }
}

/// Shows the lines that differ.
#[track_caller]
fn same(found: &[String], expected: &[String], what: &str) {
    let missing = |of: &[String], from: &[String]| -> Vec<String> {
        of.iter().filter(|line| !from.contains(line)).cloned().collect()
    };
    let (wrong, right) = (missing(found, expected), missing(expected, found));
    assert!(found == expected, "{what}\nis:        {wrong:#?}\nshould be: {right:#?}");
}

async fn live(seed: u64, device_approval: bool, steps: u64) -> Tally {
    let mut life = Life::begin(seed, device_approval).await;
    let mut draw = Draw::new(seed);
    for number in 0..steps {
        let step = draw.step(&life.model);
        let said = format!("{step:?}");
        let mut running = Box::pin(life.step(step));
        let outcome = std::future::poll_fn(|context| {
            let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.as_mut().poll(context)));
            match polled {
                Ok(poll) => poll.map(Ok),
                Err(panic) => std::task::Poll::Ready(Err(panic)),
            }
        });
        if let Err(panic) = outcome.await {
            eprintln!("life {seed}, step {number}: {said}");
            std::panic::resume_unwind(panic);
        }
    }
    life.tally
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn random_lives_with_crashes_between_any_two_steps_are_what_the_model_says() {
    const STEPS: u64 = 400;
    let all = number("WARREN_LIVES_STEPS").unwrap_or(6 * STEPS);
    let seeds: Vec<u64> =
        number("WARREN_LIVES_SEED").map_or_else(|| (1..=all.div_ceil(STEPS)).collect(), |seed| vec![seed]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut tally = Tally::default();
    for seed in &seeds {
        tally.add(runtime.block_on(live(*seed, seed % 3 == 0, STEPS)));
    }
    println!("{} lives of {STEPS} steps each", seeds.len());
    tally.print();
    if seeds.len() >= 4 {
        let kinds = tally.kinds();
        let cuts = CUTS.iter().map(|cut| format!("cut: {cut:?}"));
        for kind in draw::ACTIONS.iter().map(|kind| (*kind).to_owned()).chain(cuts) {
            assert!(kinds.contains(kind.as_str()), "{kind} was never granted");
        }
    }
}
