//! One relay: the core behind a lock, and a line to each connection's task.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_crypto::{NodePublic, Random, RelayPublic, RelaySecret};
use warren_relay::server::{AdmitRequest, ConnId, Counters, Progress, Server, ServerConfig};

use crate::admission::{Admission, Verdict};

/// How often deadlines are looked at. They are 10 s and longer.
const TICK: Duration = Duration::from_secs(1);

/// Members that are asked about at the same time.
const ASKED_AT_ONCE: usize = 16;
/// Rights that run out do so without an event: without any news, members are asked about this often.
const REVIEW_EVERY: Duration = Duration::from_millis(500);
/// Between two reviews, however much news there is.
const REVIEW_PAUSE: Duration = Duration::from_millis(100);

/// A running relay; clones are the same relay. Needs a tokio runtime.
///
/// Its connections live until they end, [`Relay::close`] is called or the runtime stops.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

pub(crate) struct Inner {
    state: Mutex<State>,
    pub(crate) admission: Admission,
    pub(crate) public: RelayPublic,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

struct State {
    server: Server,
    lines: BTreeMap<ConnId, Arc<Line>>,
}

/// What the relay tells a connection's task.
#[derive(Default)]
pub(crate) struct Line {
    /// There is something to write.
    pub(crate) ready: Notify,
    /// The relay has ended the connection.
    pub(crate) closed: CancellationToken,
}

impl Relay {
    /// A relay with this key that asks `admission` about every login.
    pub fn new(secret: RelaySecret, config: ServerConfig, admission: Admission, random: Random) -> Self {
        let server = Server::new(secret, config, random);
        let inner = Arc::new(Inner {
            public: server.public(),
            state: Mutex::new(State { server, lines: BTreeMap::new() }),
            admission,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.tasks.spawn(tick(Arc::clone(&inner)));
        Self(inner)
    }

    pub fn public(&self) -> RelayPublic {
        self.0.public
    }

    /// What the relay has counted until now.
    pub fn counters(&self) -> Counters {
        self.0.touch(|server| server.counters())
    }

    /// Cuts a key off: it was removed, or its time is over.
    pub fn revoke(&self, key: &NodePublic) {
        self.0.touch(|server| server.revoke(key));
    }

    /// Asks `admission` about everybody who is in, and cuts off those who may no longer be. Whoever cannot be asked about
    /// stays. Dropping the future leaves the rest for the next time.
    pub async fn review(&self, admission: &Admission) {
        let members: Vec<_> = self.0.touch(|server| server.members().collect());
        let asking = members.into_iter().map(|(key, source)| async move { (key, admission(key, source).await) });
        let mut answers = futures_util::stream::iter(asking).buffer_unordered(ASKED_AT_ONCE);
        while let Some((key, verdict)) = answers.next().await {
            if verdict == Verdict::Refused {
                tracing::info!(peer = %key.short(), "key no longer admitted to the relay");
                self.revoke(&key);
            }
        }
    }

    /// Reviews whenever `news` returns true, and twice a second without any, so that a right that is withdrawn or runs out
    /// takes its connections with it within a second. For a relay beside its control server, where asking costs nothing.
    /// Returns when `news` says false: there will be no more.
    pub async fn review_on(&self, mut news: impl AsyncFnMut() -> bool) {
        let admission = Arc::clone(&self.0.admission);
        loop {
            let goes_on = tokio::time::timeout(REVIEW_EVERY, news()).await.unwrap_or(true);
            if !goes_on {
                return;
            }
            self.review(&admission).await;
            tokio::time::sleep(REVIEW_PAUSE).await;
        }
    }

    /// Ends every connection and waits for their tasks. May be called twice.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Inner {
    /// Does something with the core and passes on what follows from it.
    pub(crate) fn touch<R>(&self, what: impl FnOnce(&mut Server) -> R) -> R {
        self.with(|state| what(&mut state.server))
    }

    pub(crate) fn enter(&self, source: IpAddr) -> (ConnId, Arc<Line>) {
        self.with(|state| {
            let id = state.server.connect(source, Instant::now());
            let line = Arc::new(Line::default());
            state.lines.insert(id, Arc::clone(&line));
            (id, line)
        })
    }

    pub(crate) fn leave(&self, id: ConnId) {
        self.with(|state| {
            state.server.disconnect(id);
            state.lines.remove(&id);
        });
    }

    /// Takes in bytes of a connection: how far that went, and the login that they complete, if they do.
    ///
    /// Every caller takes the requests that its own bytes caused before it lets go of the lock, so none is another's.
    pub(crate) fn receive(&self, id: ConnId, bytes: &[u8]) -> (Progress, Option<AdmitRequest>) {
        self.touch(|server| {
            let progress = server.handle_bytes(id, bytes, Instant::now());
            (progress, server.poll_request())
        })
    }

    /// Goes on with what a connection has brought.
    pub(crate) fn receive_rest(&self, id: ConnId) -> Progress {
        self.touch(|server| server.handle_rest(id, Instant::now()))
    }

    pub(crate) fn admit(&self, id: ConnId, is_admitted: bool) -> Progress {
        self.touch(|server| server.admit(id, is_admitted, Instant::now()))
    }

    /// Appends frames to `batch` until it holds `enough` bytes or nothing waits.
    pub(crate) fn take_frames(&self, id: ConnId, batch: &mut Vec<u8>, enough: usize) {
        self.touch(|server| {
            while batch.len() < enough
                && let Some(frame) = server.poll_transmit(id)
            {
                batch.extend_from_slice(&frame);
            }
        });
    }

    fn with<R>(&self, what: impl FnOnce(&mut State) -> R) -> R {
        // The core keeps its own invariants between calls and does not panic on input.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = what(&mut state);
        while let Some(id) = state.server.poll_ready() {
            if let Some(line) = state.lines.get(&id) {
                line.ready.notify_one();
            }
        }
        while let Some((id, reason)) = state.server.poll_closed() {
            tracing::debug!(conn = id.0, %reason, "relay connection closed");
            if let Some(line) = state.lines.remove(&id) {
                line.closed.cancel();
            }
        }
        result
    }
}

async fn tick(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => inner.touch(|server| server.handle_timeout(Instant::now())),
            () = inner.stop.cancelled() => return,
        }
    }
}
