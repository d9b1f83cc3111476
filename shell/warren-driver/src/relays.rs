//! Connections to relays, one task a region: home kept for good, others while they are used.
//!
//! ```text
//! packet thread ── RelayRun ──▶ Relays ── region's queue (bounded, drops) ──▶ region task ──▶ TLS stream
//! packet thread ◀── Input::RelayPackets, Input::RelayState ─────────────────── region task ◀──┘
//! ```
//!
//! Which regions are wanted is the node's to say ([`Relays::set`]); a region that is wanted no longer is closed once
//! nothing was sent by it for a minute. A connection that fails is dialled again, later each time, with jitter; a new
//! address of the host ends the wait. What waits for a connection is kept for half a second, the newest of it: when there
//! is one, the node hears of it, and whoever waits for an answer asks anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info};
use warren_crypto::{NodePublic, NodeSecret, Random};
use warren_relay::client::{Client, Event};
use warren_wire::{RegionId, RelayMap, RelayRegion};

use crate::clock::Clock;
use crate::control_link::with_causes;
use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::relay_dial;

/// Runs that wait for one region's connection; a burst more is dropped, as a router would.
const REGION_QUEUE: usize = 64;

/// How long a region that is no home and no longer wanted stays open without a write. (data-plane.md §1.11)
const IDLE: Duration = Duration::from_secs(60);

/// How often idle connections are looked for. (data-plane.md §1.11)
const REAP: Duration = Duration::from_secs(15);

/// TCP, TLS, the upgrade and the relay's greeting together.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// A relay that takes nothing for so long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// A relay that restarts is back within seconds, and until then its clients cannot be reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What waited longer for a connection is of no use any more: a handshake is made anew by whoever waits for its answer, and
/// the older one would only cost the answer to the newer. (`warren_wireguard`: an initiation younger than this is not
/// repeated.)
const STALE: Duration = Duration::from_millis(500);

/// A connection that lasted so long was a good one: the next failure starts from the shortest pause.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);

/// Bytes that may wait for the stream before we stop taking more packets for it.
const MOST_UNSENT: usize = 256 << 10;

/// Equal-sized datagrams for one peer by one region.
pub(crate) struct RelayRun {
    pub(crate) region: RegionId,
    pub(crate) peer: NodePublic,
    pub(crate) segment: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What the node wants of relays, whole.
#[derive(Clone)]
pub(crate) struct WantedRelays {
    pub(crate) home: Option<RegionId>,
    pub(crate) wanted: BTreeSet<RegionId>,
    pub(crate) map: Arc<RelayMap>,
    pub(crate) key: NodeSecret,
    /// Counts losses of the host's addresses and ways out, and its long sleeps: streams from before say nothing any more.
    pub(crate) network: u64,
    /// Counts addresses and ways that came: a relay that could not be reached is tried again at once.
    pub(crate) arrivals: u64,
}

enum ToRegion {
    /// A run, and since when it has been waiting.
    Run(Instant, RelayRun),
    Preferred(bool),
}

struct Region {
    queue: mpsc::Sender<ToRegion>,
    task: JoinHandle<()>,
    described: RelayRegion,
    last_write: Instant,
    is_home: bool,
}

impl Drop for Region {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All connections; owned by the task that carries out the node's actions.
pub(crate) struct Relays {
    inbox: Inbox<Input>,
    clock: Clock,
    random: Random,
    regions: BTreeMap<RegionId, Region>,
    wanted: Option<WantedRelays>,
    /// The links hear of arrivals here.
    arrivals: watch::Sender<u64>,
    /// Runs that found a queue full or no connection wanted.
    dropped: Arc<AtomicU64>,
}

impl Relays {
    pub(crate) fn new(inbox: Inbox<Input>, clock: Clock, random: Random, dropped: Arc<AtomicU64>) -> Self {
        let arrivals = watch::Sender::new(0);
        Self { inbox, clock, random, regions: BTreeMap::new(), wanted: None, arrivals, dropped }
    }

    /// Runs until the packet thread is gone. Dropping it closes every connection.
    pub(crate) async fn run(
        mut self,
        mut wanted: watch::Receiver<Option<WantedRelays>>,
        mut runs: mpsc::Receiver<RelayRun>,
    ) {
        let mut reap = interval(REAP);
        reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                run = runs.recv() => match run {
                    Some(run) => self.send(run),
                    None => return,
                },
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let latest = wanted.borrow_and_update().clone();
                    if let Some(latest) = latest {
                        self.set(latest).await;
                    }
                }
                _ = reap.tick() => self.adjust().await,
            }
        }
    }

    /// Makes the connections as the node wants them now.
    async fn set(&mut self, wanted: WantedRelays) {
        let is_stale = |old: &WantedRelays| old.key.public() != wanted.key.public() || old.network != wanted.network;
        if self.wanted.as_ref().is_some_and(is_stale) {
            // A relay knows us by our key.
            for id in self.regions.keys().copied().collect::<Vec<_>>() {
                self.close(id).await;
            }
        }
        self.arrivals.send_if_modified(|last| std::mem::replace(last, wanted.arrivals) != wanted.arrivals);
        self.wanted = Some(wanted);
        self.adjust().await;
    }

    /// Opens what is missing, closes what changed or idles.
    async fn adjust(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let now = Instant::now();
        let is_over = |id: &RegionId, region: &Region| {
            let same = wanted.map.regions.get(id) == Some(&region.described);
            let in_use = wanted.home == Some(*id) || wanted.wanted.contains(id) || now < region.last_write + IDLE;
            !(same && in_use)
        };
        let over: Vec<RegionId> =
            self.regions.iter().filter(|(id, region)| is_over(id, region)).map(|(id, _)| *id).collect();
        let all: Vec<RegionId> = wanted.wanted.iter().copied().chain(wanted.home).collect();
        let home = wanted.home;
        for id in over {
            self.close(id).await;
        }
        for id in all {
            let is_home = home == Some(id);
            match self.regions.get_mut(&id) {
                Some(region) if region.is_home != is_home => {
                    region.is_home = is_home;
                    // A full queue means a connection in trouble; it asks again when it is dialled anew.
                    let _ = region.queue.try_send(ToRegion::Preferred(is_home));
                }
                Some(_) => {}
                None => self.open(id),
            }
        }
    }

    /// Ends a connection and says so: the one that may follow it is news only to who knows that this one is gone. It has
    /// really ended by then, so that it can say nothing later.
    async fn close(&mut self, id: RegionId) {
        let Some(mut region) = self.regions.remove(&id) else { return };
        region.task.abort();
        let _ = (&mut region.task).await;
        // A stopped node has nobody to tell.
        let _ = self.inbox.send(Input::RelayState(id, false)).await;
    }

    /// Begins to connect to a region; what is sent meanwhile waits in its queue.
    fn open(&mut self, id: RegionId) {
        let Some(wanted) = &self.wanted else { return };
        let Some(described) = wanted.map.regions.get(&id).cloned() else { return };
        let is_home = wanted.home == Some(id);
        let (queue, orders) = mpsc::channel(REGION_QUEUE);
        let link = RegionLink {
            described: described.clone(),
            key: wanted.key.clone(),
            is_home,
            orders,
            waiting: VecDeque::new(),
            arrivals: self.arrivals.subscribe(),
            dropped: Arc::clone(&self.dropped),
            inbox: self.inbox.clone(),
            clock: self.clock,
            random: self.random.fork(),
        };
        let task = tokio::spawn(link.run(id));
        self.regions.insert(id, Region { queue, task, described, last_write: Instant::now(), is_home });
    }

    /// Puts a run into its region's queue, or drops it. A first packet opens the region: it is a handshake, and if it
    /// were lost the next would come only seconds later.
    fn send(&mut self, run: RelayRun) {
        if !self.regions.contains_key(&run.region) {
            self.open(run.region);
        }
        let sent = self.regions.get_mut(&run.region).is_some_and(|region| {
            region.last_write = Instant::now();
            region.queue.try_send(ToRegion::Run(region.last_write, run)).is_ok()
        });
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One region's connection over its whole life, dialled again and again.
struct RegionLink {
    described: RelayRegion,
    key: NodeSecret,
    is_home: bool,
    orders: mpsc::Receiver<ToRegion>,
    /// What came while there was no connection, and since when it waits.
    waiting: VecDeque<(Instant, RelayRun)>,
    arrivals: watch::Receiver<u64>,
    dropped: Arc<AtomicU64>,
    inbox: Inbox<Input>,
    clock: Clock,
    random: Random,
}

impl RegionLink {
    /// Dropping it closes the connection at once.
    async fn run(mut self, id: RegionId) {
        let mut pause = SHORTEST_PAUSE;
        let described = self.described.clone();
        loop {
            let started = Instant::now();
            let why = match self.meanwhile(timeout(DIAL_PATIENCE, relay_dial::dial(&described))).await {
                Some(Ok(Ok(stream))) => self.talk(id, stream).await,
                Some(Ok(Err(why))) => why,
                Some(Err(_)) => "no answer in time".to_owned(),
                None => {
                    pause = SHORTEST_PAUSE;
                    continue;
                }
            };
            debug!(region = %id, %why, "relay connection ended");
            if self.inbox.send(Input::RelayState(id, false)).await.is_err() {
                return;
            }
            if started.elapsed() > GOOD_CONNECTION {
                pause = SHORTEST_PAUSE;
            }
            let rest = self.random.range_duration(pause / 2, pause);
            pause = match self.meanwhile(sleep(rest)).await {
                Some(()) => (pause * 2).min(LONGEST_PAUSE),
                None => SHORTEST_PAUSE,
            };
        }
    }

    /// Does `what`, while orders are collected. `None` when the host got a new address meanwhile: what could not be done
    /// from the old ones is to be tried anew.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return Some(done),
                Ok(()) = self.arrivals.changed() => return None,
                Some(order) = self.orders.recv() => match order {
                    ToRegion::Run(since, run) => {
                        if self.waiting.len() == REGION_QUEUE {
                            self.waiting.pop_front();
                            self.dropped.fetch_add(1, Ordering::Relaxed);
                        }
                        self.waiting.push_back((since, run));
                    }
                    ToRegion::Preferred(is_home) => self.is_home = is_home,
                },
            }
        }
    }

    /// Moves bytes until something ends it; says what.
    async fn talk(&mut self, id: RegionId, stream: impl AsyncRead + AsyncWrite) -> String {
        let mut client = Client::new(self.key.clone(), self.is_home, self.random.fork(), self.clock.now());
        let client = &mut client;
        for (since, run) in std::mem::take(&mut self.waiting) {
            self.send(since, &run, client);
        }
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut received = vec![0; 64 << 10];
        let mut unsent = Unsent::default();
        loop {
            while unsent.len() < MOST_UNSENT
                && let Some(bytes) = client.poll_transmit()
            {
                unsent.push(&bytes);
            }
            if let Err(why) = self.report(id, client).await {
                return why;
            }
            let patience = client.poll_timeout().map(|at| at.saturating_duration_since(self.clock.now()));
            tokio::select! {
                written = timeout(WRITE_PATIENCE, unsent.write(&mut writer)), if !unsent.is_empty() => match written {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return format!("write: {error}"),
                    Err(_) => return "the relay takes no more bytes".to_owned(),
                },
                read = reader.read(&mut received) => match read {
                    Ok(0) => return "the relay closed the connection".to_owned(),
                    Ok(length) => {
                        if let Err(error) = client.handle_bytes(&received[..length], self.clock.now()) {
                            return with_causes(&error);
                        }
                    }
                    Err(error) => return format!("read: {error}"),
                },
                order = self.orders.recv(), if unsent.len() < MOST_UNSENT => match order {
                    Some(order) => self.carry_out(order, client),
                    None => return "the node has stopped".to_owned(),
                },
                () = sleep(patience.unwrap_or_default()), if patience.is_some() => {
                    if let Err(error) = client.handle_timeout(self.clock.now()) {
                        return with_causes(&error);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, order: ToRegion, client: &mut Client) {
        match order {
            ToRegion::Run(since, run) => self.send(since, &run, client),
            ToRegion::Preferred(is_home) => {
                self.is_home = is_home;
                client.note_preferred(is_home);
            }
        }
    }

    fn send(&self, since: Instant, run: &RelayRun, client: &mut Client) {
        if since.elapsed() > STALE {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        for datagram in run.bytes.chunks(run.segment.max(1)) {
            client.send(run.peer, datagram, self.clock.now());
        }
    }

    /// Passes on what the relay said; packets that came one after the other in one read travel together.
    async fn report(&self, id: RegionId, client: &mut Client) -> Result<(), String> {
        for input in news(id, std::iter::from_fn(|| client.poll_event())) {
            self.inbox.send(input).await.map_err(|stopped| stopped.to_string())?;
        }
        Ok(())
    }
}

/// What the packet thread hears of these events, in their order: a peer's last packets come before the word that it left.
fn news(id: RegionId, events: impl Iterator<Item = Event>) -> Vec<Input> {
    let mut news = Vec::new();
    for event in events {
        match event {
            Event::Packet { src, bytes } => match news.last_mut() {
                Some(Input::RelayPackets(_, packets)) => packets.push((src, bytes)),
                _ => news.push(Input::RelayPackets(id, vec![(src, bytes)])),
            },
            Event::Connected { .. } => {
                info!(region = %id, "relay connected");
                news.push(Input::RelayState(id, true));
            }
            Event::Health(text) => debug!(region = %id, %text, "relay health"),
            Event::PeerGone { key, .. } => news.push(Input::RelayPeerGone(id, key)),
            // It shows as the connection's end.
            Event::Restarting { .. } => {}
        }
    }
    news
}

/// Bytes on their way into the stream.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Unsent {
    fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes some. Dropping the future loses nothing: a piece is counted only when the stream took it.
    async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let taken = writer.write(&self.bytes[self.sent..]).await?;
        if taken == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.sent += taken;
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
            writer.flush().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;
    use warren_relay::frame::GoneReason;
    use warren_wire::RelayNode;

    use super::*;
    use crate::inbox::{Outlet, inbox};

    const REGION: RegionId = RegionId(900);

    /// A region whose only relay is whoever listens there.
    fn map_of(relay: SocketAddr) -> Arc<RelayMap> {
        let node = RelayNode {
            host_name: "127.0.0.1".into(),
            ipv4: "127.0.0.1".into(),
            ipv6: "none".into(),
            derp_port_raw: i32::from(relay.port()),
            insecure_for_tests: true,
            ..RelayNode::default()
        };
        let region = RelayRegion { region_id: REGION, nodes: vec![node], ..RelayRegion::default() };
        Arc::new(RelayMap { regions: BTreeMap::from([(REGION, region)]), ..RelayMap::default() })
    }

    fn wanted(map: &Arc<RelayMap>, network: u64, arrivals: u64) -> WantedRelays {
        let key = NodeSecret::from_seed([1; 32]);
        WantedRelays { home: Some(REGION), wanted: BTreeSet::new(), map: Arc::clone(map), key, network, arrivals }
    }

    fn relays() -> (Relays, Outlet<Input>) {
        let (inbox, outlet) = inbox(16).unwrap();
        (Relays::new(inbox, Clock::start(), Random::from_seed([2; 32]), Arc::default()), outlet)
    }

    fn run(mark: u8) -> RelayRun {
        RelayRun { region: REGION, peer: NodePublic::from_bytes([7; 32]), segment: 1, bytes: vec![mark] }
    }

    fn link() -> (RegionLink, mpsc::Sender<ToRegion>, watch::Sender<u64>) {
        let (queue, orders) = mpsc::channel(REGION_QUEUE);
        let arrivals = watch::Sender::new(0);
        let link = RegionLink {
            described: RelayRegion::default(),
            key: NodeSecret::from_seed([1; 32]),
            is_home: false,
            orders,
            waiting: VecDeque::new(),
            arrivals: arrivals.subscribe(),
            dropped: Arc::default(),
            inbox: inbox(16).unwrap().0,
            clock: Clock::start(),
            random: Random::from_seed([3; 32]),
        };
        (link, queue, arrivals)
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_for_another_network_is_said_to_be_gone() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let map = map_of(silent.local_addr().unwrap());
        let (mut relays, mut outlet) = relays();
        relays.set(wanted(&map, 0, 0)).await;
        let _first = silent.accept().await.unwrap();
        assert!(outlet.take().is_none());
        relays.set(wanted(&map, 1, 0)).await;
        assert!(matches!(outlet.take(), Some(Input::RelayState(REGION, false))));
        let _second = silent.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_leaves_the_relay_is_said_to_be_gone() {
        let folder = tempfile::tempdir().unwrap();
        let config = warren_relayd::RelayConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            stun: None,
            state: folder.path().to_owned(),
            certificate: warren_io::certificates::Source::SelfMade {
                folder: folder.path().to_owned(),
                names: vec!["127.0.0.1".into()],
            },
            http_listen: None,
            who: warren_relayd::service::Who::Everyone,
            origins: Default::default(),
            caps: Default::default(),
        };
        let relay = warren_relayd::service::prepare(config).await.unwrap();
        let map = map_of(relay.address().unwrap());
        let (_stop, stopped) = watch::channel(false);
        let running = tokio::spawn(relay.run(stopped));

        let (mut ours, mut news) = relays();
        ours.set(wanted(&map, 0, 0)).await;
        let (mut theirs, mut their_news) = relays();
        let key = NodeSecret::from_seed([9; 32]);
        let them = key.public();
        theirs.set(WantedRelays { key, ..wanted(&map, 0, 0) }).await;
        for outlet in [&mut news, &mut their_news] {
            hear(outlet, |input| matches!(input, Input::RelayState(REGION, true))).await;
        }
        theirs.send(RelayRun { peer: NodeSecret::from_seed([1; 32]).public(), ..run(1) });
        hear(&mut news, |input| matches!(input, Input::RelayPackets(REGION, _))).await;
        theirs.close(REGION).await;
        hear(&mut news, |input| matches!(input, Input::RelayPeerGone(REGION, peer) if *peer == them)).await;
        running.abort();
    }

    #[test]
    fn a_peer_that_left_is_gone_after_its_last_packets_and_before_those_of_its_return() {
        let peer = NodePublic::from_bytes([7; 32]);
        let packet = |mark| Event::Packet { src: peer, bytes: vec![mark] };
        let gone = Event::PeerGone { key: peer, reason: GoneReason::Disconnected };
        let heard = news(REGION, [packet(1), packet(2), gone, packet(3)].into_iter());
        let [Input::RelayPackets(_, last), Input::RelayPeerGone(_, left), Input::RelayPackets(_, first)] = &heard[..]
        else {
            panic!("{} inputs", heard.len());
        };
        assert_eq!((last.len(), *left, first.len()), (2, peer, 1));
    }

    /// Takes inputs until the one that is waited for.
    async fn hear(outlet: &mut Outlet<Input>, is_it: impl Fn(&Input) -> bool) {
        let heard = async {
            loop {
                match outlet.take() {
                    Some(input) if is_it(&input) => return,
                    Some(_) => {}
                    None => tokio::task::yield_now().await,
                }
            }
        };
        timeout(Duration::from_secs(20), heard).await.expect("the news");
    }

    #[tokio::test]
    async fn an_address_that_came_begins_the_dial_anew() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let map = map_of(silent.local_addr().unwrap());
        let (mut relays, _outlet) = relays();
        relays.set(wanted(&map, 0, 0)).await;
        let _first = silent.accept().await.unwrap();
        relays.set(wanted(&map, 0, 1)).await;
        // Without the news the first dial would be waited for to its end.
        let second = timeout(DIAL_PATIENCE / 2, silent.accept()).await;
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn while_there_is_no_connection_the_newest_orders_are_kept_and_an_arrival_ends_the_wait() {
        let (mut link, queue, arrivals) = link();
        let wait = async {
            for mark in 0..=REGION_QUEUE as u8 {
                queue.send(ToRegion::Run(Instant::now(), run(mark))).await.unwrap();
            }
            queue.send(ToRegion::Preferred(true)).await.unwrap();
            queue.reserve_many(REGION_QUEUE).await.map(drop).unwrap();
            arrivals.send_modify(|count| *count += 1);
        };
        let (_, ended) = tokio::join!(wait, link.meanwhile(std::future::pending::<()>()));
        assert!(ended.is_none() && link.is_home);
        let marks: Vec<u8> = link.waiting.iter().map(|(_, run)| run.bytes[0]).collect();
        assert_eq!(marks, (1..=REGION_QUEUE as u8).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_waited_too_long_is_dropped_and_what_is_fresh_is_not() {
        let (link, _queue, _arrivals) = link();
        let mut client = Client::new(link.key.clone(), false, Random::from_seed([4; 32]), link.clock.now());
        let now = Instant::now();
        link.send(now, &run(1), &mut client);
        assert_eq!(link.dropped.load(Ordering::Relaxed), 0);
        let long_ago = now.checked_sub(STALE * 2).expect("a machine that runs for a second");
        link.send(long_ago, &run(2), &mut client);
        assert_eq!(link.dropped.load(Ordering::Relaxed), 1);
    }
}
