//! tokio's side: carries out what the packet thread orders, in order where order matters.
//!
//! State is on disk before anything ordered after it happens: a request never speaks of a key that a crash could lose.
//! Look-ups and measurements run beside; relay links are a task of their own, so that a slow disk delays no packet.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error};
use warren_netstack::FlowId;
use warren_node::{ControlRequest, ControlTarget, NodeState, RequestId};
use warren_wire::{PingRequest, RegionId, RegisterRequest, RelayRegion};

use crate::control_link::Link;
use crate::event_loop::Input;
use crate::inbox::Inbox;
use crate::relays::WantedRelays;
use crate::state_file::StateFile;
use crate::{call_back, relay_dial};

/// What the packet thread wants done where waiting is allowed.
pub(crate) enum Order {
    Persist(Box<NodeState>),
    CloseControl,
    /// The host's addresses changed: whatever waits for an answer on the control connection has failed.
    BreakControl,
    Control(RequestId, ControlRequest, ControlTarget),
    Goodbye(ControlTarget, Box<RegisterRequest>),
    Relays(WantedRelays),
    Resolve(String),
    ProbeHttps(RegionId, RelayRegion),
    AnswerPing(Box<PingRequest>),
    /// Connect to this port of the own host for an inbound stream.
    DialLocal(FlowId, u16),
}

/// A name that is not found within this is not found.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);

/// The whole probe; the path core merges late answers into nothing. (data-plane.md §2.6)
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// A service on the own host answers at once or not at all.
const LOCAL_PATIENCE: Duration = Duration::from_secs(5);

/// Addresses kept of one name.
const MOST_ADDRS: usize = 16;

pub(crate) struct Supervisor {
    pub(crate) state_file: Arc<StateFile>,
    pub(crate) inbox: Inbox<Input>,
    pub(crate) link: Link,
    /// The relay links read the latest here.
    pub(crate) relays: watch::Sender<Option<WantedRelays>>,
    pub(crate) errands: JoinSet<()>,
}

impl Supervisor {
    /// Runs until the packet thread is gone. Dropping it ends every connection and errand.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            self.carry_out(order).await;
            while self.errands.try_join_next().is_some() {}
        }
    }

    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Persist(state) => self.persist(&state).await,
            Order::CloseControl => self.link.close(),
            Order::BreakControl => self.link.break_connection(),
            Order::Control(id, request, target) => self.link.ask(id, request, target),
            Order::Goodbye(target, request) => self.link.say_goodbye(target, *request),
            Order::Relays(wanted) => {
                self.relays.send_replace(Some(wanted));
            }
            Order::Resolve(name) => self.resolve(name),
            Order::ProbeHttps(region, described) => self.probe(region, described),
            Order::AnswerPing(request) => {
                self.errands.spawn(call_back::answer(*request, self.inbox.clone(), self.link.connection()));
            }
            Order::DialLocal(flow, port) => self.dial_local(flow, port),
        }
    }

    async fn persist(&self, state: &NodeState) {
        let text = state.to_file_text_with_secrets();
        let file = Arc::clone(&self.state_file);
        let saved = tokio::task::spawn_blocking(move || file.save(text.as_bytes())).await;
        match saved {
            Ok(Ok(())) => {}
            // The node goes on with what it has in memory; the next change tries again.
            Ok(Err(problem)) => error!(error = %problem, "the node's state could not be written"),
            Err(problem) => debug!(error = %problem, "writing state was cut short"),
        }
    }

    fn resolve(&mut self, name: String) {
        let inbox = self.inbox.clone();
        self.errands.spawn(async move {
            let addrs = match timeout(RESOLVE_PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await {
                Ok(Ok(addrs)) => addrs.map(|addr| addr.ip()).take(MOST_ADDRS).collect::<Vec<_>>(),
                _ => Vec::new(),
            };
            let _ = inbox.send(Input::Resolved(name, addrs)).await;
        });
    }

    fn probe(&mut self, region: RegionId, described: RelayRegion) {
        let inbox = self.inbox.clone();
        self.errands.spawn(async move {
            let latency = timeout(PROBE_PATIENCE, relay_dial::latency(&described)).await.ok().flatten();
            let _ = inbox.send(Input::HttpsLatency(region, latency)).await;
        });
    }

    fn dial_local(&mut self, flow: FlowId, port: u16) {
        let inbox = self.inbox.clone();
        self.errands.spawn(async move {
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let dialled = match timeout(LOCAL_PATIENCE, TcpStream::connect(target)).await {
                Ok(Ok(stream)) => Some(stream),
                _ => None,
            };
            let Some(mut stream) = dialled else {
                let _ = inbox.send(Input::LocalDialled(flow, None)).await;
                return;
            };
            let _ = stream.set_nodelay(true);
            let (ours, mut theirs) = tokio::io::duplex(crate::bridge::PIPE_BYTES);
            if inbox.send(Input::LocalDialled(flow, Some(ours))).await.is_ok() {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut theirs).await;
            }
        });
    }
}
