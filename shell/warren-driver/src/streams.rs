//! The user-space stack's TCP flows, joined to tokio's side; its datagrams are in [`crate::datagrams`].
//!
//! ```text
//! dial:      Input::Dial ─▶ connect ─▶ Event::Connected ─▶ a pipe's end to the caller, a Bridge here
//! incoming:  Event::Incoming ─▶ Order::DialLocal (127.0.0.1, same port) ─▶ Input::LocalDialled ─▶ accept, a Bridge here
//!                                                                        └ no service there, or one of our own ─▶ reset
//! ```
//!
//! The peer's connection stands only once there is a service behind it, so nobody talks to a half-open illusion.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use warren_netstack::{ConnectError, Datagram, Event, FlowId, Read, Stack};

use crate::bridge::{Bridge, PIPE_BYTES, Socket, State};
use crate::datagrams::{Datagrams, Outgoing};
use crate::inbox::Bell;
use crate::own_ports::{Kind, OwnPorts};
use crate::packets::Plane;
use crate::socks5::DialError;

/// Incoming flows that wait for their service at once; further ones are reset.
const MOST_KNOCKING: usize = 256;

pub(crate) struct Streams {
    woken: Arc<Woken>,
    dialling: BTreeMap<FlowId, oneshot::Sender<Result<DuplexStream, DialError>>>,
    knocking: BTreeSet<FlowId>,
    bridges: BTreeMap<FlowId, Bridge>,
    local_dials: VecDeque<(FlowId, u16)>,
    datagrams: Datagrams,
    own_ports: OwnPorts,
}

/// Flows whose pipe became ready since they were last looked at.
struct Woken {
    flows: Mutex<BTreeSet<FlowId>>,
    bell: Arc<Bell>,
}

impl Woken {
    fn take(&self) -> BTreeSet<FlowId> {
        std::mem::take(&mut *self.flows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Wakes the packet thread for one flow.
struct FlowWaker {
    flow: FlowId,
    woken: Arc<Woken>,
}

impl Wake for FlowWaker {
    fn wake(self: Arc<Self>) {
        self.woken.flows.lock().unwrap_or_else(PoisonError::into_inner).insert(self.flow);
        self.woken.bell.ring();
    }
}

/// One flow of the stack, as a bridge sees it.
struct Flow<'a>(&'a mut Stack, FlowId);

impl Socket for Flow<'_> {
    fn read(&mut self, into: &mut [u8]) -> Read {
        self.0.read(self.1, into)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        self.0.write(self.1, bytes)
    }

    fn finish(&mut self) {
        self.0.finish(self.1);
    }
}

impl Streams {
    pub(crate) fn new(bell: Arc<Bell>, datagrams: Datagrams, own_ports: OwnPorts) -> Self {
        Self {
            woken: Arc::new(Woken { flows: Mutex::default(), bell }),
            dialling: BTreeMap::new(),
            knocking: BTreeSet::new(),
            bridges: BTreeMap::new(),
            local_dials: VecDeque::new(),
            datagrams,
            own_ports,
        }
    }

    /// Begins to open a flow; the reply carries a pipe's end once it stands.
    pub(crate) fn dial(
        &mut self,
        target: SocketAddr,
        reply: oneshot::Sender<Result<DuplexStream, DialError>>,
        plane: &mut Plane,
    ) {
        let Plane::Stack(stack) = plane else {
            let _ = reply.send(Err(DialError::Unreachable));
            return;
        };
        match stack.connect(target) {
            Ok(flow) => {
                self.dialling.insert(flow, reply);
            }
            Err(error) => {
                let _ = reply.send(Err(reason_of(error)));
            }
        }
    }

    /// A port for datagrams in the mesh; `None` without a stack, or when there are too many.
    pub(crate) fn open_datagrams(&mut self, plane: &Plane) -> Option<(u16, mpsc::Receiver<Datagram>)> {
        matches!(plane, Plane::Stack(_)).then(|| self.datagrams.open()).flatten()
    }

    pub(crate) fn send_datagram(&mut self, outgoing: Outgoing, plane: &mut Plane) {
        if let Plane::Stack(stack) = plane {
            self.datagrams.send(outgoing, stack);
        }
    }

    pub(crate) fn dropped_datagrams(&self) -> u64 {
        self.datagrams.dropped()
    }

    /// What came of looking for the service behind an incoming flow.
    pub(crate) fn local_dialled(&mut self, flow: FlowId, pipe: Option<DuplexStream>, plane: &mut Plane) {
        let Plane::Stack(stack) = plane else { return };
        if !self.knocking.remove(&flow) {
            return;
        }
        match pipe {
            Some(pipe) => {
                stack.accept(flow);
                self.join(flow, pipe, stack);
            }
            None => stack.abort(flow),
        }
    }

    /// A flow that waits for 127.0.0.1 to be dialled, and the port.
    pub(crate) fn poll_local_dial(&mut self) -> Option<(FlowId, u16)> {
        self.local_dials.pop_front()
    }

    /// Lets the stack work and moves every byte that can move.
    pub(crate) fn carry_out(&mut self, plane: &mut Plane, now: Instant) {
        let Plane::Stack(stack) = plane else { return };
        stack.poll(now);
        while let Some(event) = stack.poll_event() {
            self.handle_event(event, stack);
        }
        for flow in self.woken.take() {
            self.pump(flow, stack);
        }
        let given_up: Vec<FlowId> =
            self.dialling.iter().filter(|(_, reply)| reply.is_closed()).map(|(flow, _)| *flow).collect();
        for flow in given_up {
            self.dialling.remove(&flow);
            stack.abort(flow);
        }
    }

    fn handle_event(&mut self, event: Event, stack: &mut Stack) {
        match event {
            Event::Incoming { id, local, .. } => {
                let is_own = self.own_ports.contains(Kind::Tcp, local.port());
                if !is_own && self.knocking.len() < MOST_KNOCKING {
                    self.knocking.insert(id);
                    self.local_dials.push_back((id, local.port()));
                } else {
                    stack.abort(id);
                }
            }
            Event::Connected(id) => {
                let Some(reply) = self.dialling.remove(&id) else { return };
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                if reply.send(Ok(theirs)).is_ok() {
                    self.join(id, ours, stack);
                } else {
                    stack.abort(id);
                }
            }
            Event::Refused(id) => {
                if let Some(reply) = self.dialling.remove(&id) {
                    let _ = reply.send(Err(DialError::Refused));
                }
                stack.release(id);
            }
            Event::Changed(id) => self.pump(id, stack),
            Event::Datagram(datagram) => self.datagrams.arrived(datagram),
        }
    }

    fn join(&mut self, flow: FlowId, pipe: DuplexStream, stack: &mut Stack) {
        let waker = Waker::from(Arc::new(FlowWaker { flow, woken: Arc::clone(&self.woken) }));
        self.bridges.insert(flow, Bridge::new(pipe, waker));
        self.pump(flow, stack);
    }

    fn pump(&mut self, flow: FlowId, stack: &mut Stack) {
        let Some(bridge) = self.bridges.get_mut(&flow) else { return };
        match bridge.pump(&mut Flow(stack, flow)) {
            State::Open => {}
            State::Finished => {
                self.bridges.remove(&flow);
                stack.release(flow);
            }
            State::Broken => {
                self.bridges.remove(&flow);
                stack.abort(flow);
            }
        }
    }
}

fn reason_of(error: ConnectError) -> DialError {
    match error {
        ConnectError::NoAddress => DialError::Unreachable,
        ConnectError::TooMany => DialError::Busy,
    }
}
