//! Connections to relays, one task a region: home kept for good, others while they are used.
//!
//! ```text
//! packet thread ── RelayRun ──▶ Relays ── region's queue (bounded, drops) ──▶ region task ──▶ TLS stream
//! packet thread ◀── Input::RelayPackets, Input::RelayState ─────────────────── region task ◀──┘
//! ```
//!
//! Which regions are wanted is the node's to say ([`Relays::set`]); a region that is wanted no longer is closed once
//! nothing was sent by it for a minute. A connection that fails is dialled again, later each time, with jitter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
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
const DIAL_PATIENCE: Duration = Duration::from_secs(15);

/// A relay that takes nothing for so long is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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
    /// Counts changes of the host's addresses: streams from an address that is gone say nothing any more.
    pub(crate) network: u64,
}

enum ToRegion {
    Run(RelayRun),
    Preferred(bool),
}

struct Region {
    queue: mpsc::Sender<ToRegion>,
    task: AbortHandle,
    described: RelayRegion,
    last_write: Instant,
    is_home: bool,
}

/// All connections; owned by the task that carries out the node's actions.
pub(crate) struct Relays {
    inbox: Inbox<Input>,
    clock: Clock,
    random: Random,
    regions: BTreeMap<RegionId, Region>,
    wanted: Option<WantedRelays>,
    tasks: JoinSet<()>,
    /// Runs that found a queue full or no connection wanted.
    dropped: Arc<AtomicU64>,
}

impl Relays {
    pub(crate) fn new(inbox: Inbox<Input>, clock: Clock, random: Random, dropped: Arc<AtomicU64>) -> Self {
        Self { inbox, clock, random, regions: BTreeMap::new(), wanted: None, tasks: JoinSet::new(), dropped }
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
                        self.set(latest);
                    }
                }
                _ = reap.tick() => self.adjust(),
            }
        }
    }

    /// Makes the connections as the node wants them now.
    fn set(&mut self, wanted: WantedRelays) {
        let is_stale = |old: &WantedRelays| old.key.public() != wanted.key.public() || old.network != wanted.network;
        if self.wanted.as_ref().is_some_and(is_stale) {
            // A relay knows us by our key.
            self.close_all();
        }
        self.wanted = Some(wanted);
        self.adjust();
    }

    /// Opens what is missing, closes what changed or idles.
    fn adjust(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        let Some(wanted) = &self.wanted else { return };
        let now = Instant::now();
        self.regions.retain(|id, region| {
            let same = wanted.map.regions.get(id) == Some(&region.described);
            let in_use = wanted.home == Some(*id) || wanted.wanted.contains(id) || now < region.last_write + IDLE;
            if !(same && in_use) {
                region.task.abort();
                let inbox = self.inbox.clone();
                let id = *id;
                self.tasks.spawn(async move {
                    let _ = inbox.send(Input::RelayState(id, false)).await;
                });
            }
            same && in_use
        });
        let all: Vec<RegionId> = wanted.wanted.iter().copied().chain(wanted.home).collect();
        let home = wanted.home;
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
            inbox: self.inbox.clone(),
            clock: self.clock,
            random: self.random.fork(),
        };
        let task = self.tasks.spawn(link.run(id));
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
            region.queue.try_send(ToRegion::Run(run)).is_ok()
        });
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn close_all(&mut self) {
        for region in std::mem::take(&mut self.regions).into_values() {
            region.task.abort();
        }
    }
}

/// One region's connection over its whole life, dialled again and again.
struct RegionLink {
    described: RelayRegion,
    key: NodeSecret,
    is_home: bool,
    orders: mpsc::Receiver<ToRegion>,
    inbox: Inbox<Input>,
    clock: Clock,
    random: Random,
}

impl RegionLink {
    /// Dropping it closes the connection at once.
    async fn run(mut self, id: RegionId) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let started = Instant::now();
            let why = match timeout(DIAL_PATIENCE, relay_dial::dial(&self.described)).await {
                Ok(Ok(stream)) => self.talk(id, stream).await,
                Ok(Err(why)) => why,
                Err(_) => "no answer in time".to_owned(),
            };
            debug!(region = %id, %why, "relay connection ended");
            if self.inbox.send(Input::RelayState(id, false)).await.is_err() {
                return;
            }
            if started.elapsed() > GOOD_CONNECTION {
                pause = SHORTEST_PAUSE;
            }
            sleep(self.random.range_duration(pause / 2, pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.forget_stale_orders();
        }
    }

    /// What waited while there was no connection is too old to be of use, but for what it says about ourselves.
    fn forget_stale_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            if let ToRegion::Preferred(is_home) = order {
                self.is_home = is_home;
            }
        }
    }

    /// Moves bytes until something ends it; says what.
    async fn talk(&mut self, id: RegionId, stream: impl AsyncRead + AsyncWrite) -> String {
        let mut client = Client::new(self.key.clone(), self.is_home, self.random.fork(), self.clock.now());
        let client = &mut client;
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
            ToRegion::Run(run) => {
                for datagram in run.bytes.chunks(run.segment.max(1)) {
                    client.send(run.peer, datagram, self.clock.now());
                }
            }
            ToRegion::Preferred(is_home) => {
                self.is_home = is_home;
                client.note_preferred(is_home);
            }
        }
    }

    /// Passes on what the relay said; packets of one read travel together.
    async fn report(&self, id: RegionId, client: &mut Client) -> Result<(), String> {
        let mut packets = Vec::new();
        while let Some(event) = client.poll_event() {
            let input = match event {
                Event::Packet { src, bytes } => {
                    packets.push((src, bytes));
                    continue;
                }
                Event::Connected { .. } => {
                    info!(region = %id, "relay connected");
                    Input::RelayState(id, true)
                }
                Event::Health(text) => {
                    debug!(region = %id, %text, "relay health");
                    continue;
                }
                // The paths' own probes find out about a peer that left; a restart shows as the connection's end.
                Event::PeerGone { .. } | Event::Restarting { .. } => continue,
            };
            self.inbox.send(input).await.map_err(|stopped| stopped.to_string())?;
        }
        if !packets.is_empty() {
            self.inbox.send(Input::RelayPackets(id, packets)).await.map_err(|stopped| stopped.to_string())?;
        }
        Ok(())
    }
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
