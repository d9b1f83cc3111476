//! What everybody else in this service holds of the registry: a way to ask the one writer, and the last picture.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use warren_control::{Answer, AuthId, ChannelId, Command, Offered, Pending, Refusal, Snapshot, Waiting};
use warren_wire::{DnsRecord, MapRequest, NodeId, RelayMap};

use crate::clock;
use crate::errands::Errand;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    inputs: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    pending: watch::Receiver<Pending>,
}

/// What the writer is told, and the place that it takes in the queue until then. The end of a stream takes none: a guard
/// that is dropped cannot wait.
///
/// There is one queue, so a stream never ends before it began, however early its client left.
pub(crate) type Queued = (Input, Option<OwnedSemaphorePermit>);

/// What the writer is told.
#[derive(Debug)]
pub(crate) enum Input {
    Command(Job),
    /// A map request that is no stream.
    Heard {
        node: NodeId,
        channel: ChannelId,
        request: Box<MapRequest>,
    },
    /// A stream begins; `ready` is told when the picture shows it.
    Stream {
        node: NodeId,
        channel: ChannelId,
        request: Box<MapRequest>,
        ready: oneshot::Sender<()>,
    },
    /// A stream that began has ended.
    Ended {
        node: NodeId,
        channel: ChannelId,
    },
    /// A router gave a sign of life.
    Alive(NodeId),
    /// A node said what services it offers.
    Offered {
        node: NodeId,
        offered: Offered,
    },
    ExtraRecords(Vec<DnsRecord>),
    /// Other relays, from now on.
    Relays(Box<RelayMap>),
    /// Does the database work?
    Check {
        reply: oneshot::Sender<bool>,
    },
}

/// A command and whoever waits for its answer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) command: Command,
    pub(crate) reply: oneshot::Sender<Result<Answer, CommandError>>,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The registry's rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing of it is in the database; trying again later is right.
    #[error("{0}; nothing was changed, try again later")]
    Unavailable(String),
}

/// Ends of the channels that the writer holds.
#[derive(Debug)]
pub(crate) struct WriterEnds {
    pub(crate) inputs: mpsc::UnboundedReceiver<Queued>,
    /// What is to be asked of nodes.
    pub(crate) errands: mpsc::UnboundedSender<Errand>,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) pending: watch::Sender<Pending>,
}

/// Full means that whoever asks waits: a wave of joins is slowed down, not refused.
const QUEUE: usize = 1024;

impl Registry {
    /// The last is told what is to be asked of nodes.
    pub(crate) fn new(first: Arc<Snapshot>) -> (Self, WriterEnds, mpsc::UnboundedReceiver<Errand>) {
        // Bounded by the places in it and the number of open streams.
        let (input_sender, inputs) = mpsc::unbounded_channel();
        let (publisher, snapshots) = watch::channel(first);
        let (pending_publisher, pending) = watch::channel(Pending::default());
        let registry = Self { inputs: input_sender, room: Arc::new(Semaphore::new(QUEUE)), snapshots, pending };
        // Bounded by the number of routers in a round and of hosts of services, each asked once in a while.
        let (errands, asked) = mpsc::unbounded_channel();
        (registry, WriterEnds { inputs, errands, snapshots: publisher, pending: pending_publisher }, asked)
    }

    /// Has a command decided and committed. Once this has an answer, so have all who start the server again.
    ///
    /// Dropping the future gives up the answer, not the command.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn command(&self, command: Command) -> Result<Answer, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Command(Job { command, reply })).await?;
        answer.await.map_err(|_| stopping())?
    }

    /// The last picture.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// All pictures from now on; a slow reader misses some and sees the newest.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Takes in what a map request says. Returns at once when the queue has room; nobody waits for the disk.
    pub(crate) async fn heard(
        &self,
        node: NodeId,
        channel: ChannelId,
        request: MapRequest,
    ) -> Result<(), CommandError> {
        self.send(Input::Heard { node, channel, request: Box::new(request) }).await
    }

    /// Begins a map stream and takes in its request. It ends when the guard is dropped.
    pub(crate) async fn begin_stream(
        &self,
        node: NodeId,
        channel: ChannelId,
        request: MapRequest,
    ) -> Result<StreamGuard, CommandError> {
        let (ready, is_ready) = oneshot::channel();
        self.send(Input::Stream { node, channel, request: Box::new(request), ready }).await?;
        // From here on the stream counts, so whatever happens must end it.
        let guard = StreamGuard { node, channel, inputs: self.inputs.clone() };
        is_ready.await.map_err(|_| stopping())?;
        Ok(guard)
    }

    /// A router gave a sign of life.
    pub(crate) async fn alive(&self, node: NodeId) {
        let _ = self.send(Input::Alive(node)).await; // no writer, nobody to tell
    }

    /// A node said what services it offers.
    pub(crate) async fn offered(&self, node: NodeId, offered: Offered) {
        let _ = self.send(Input::Offered { node, offered }).await; // as above
    }

    /// Other extra names, from now on.
    pub(crate) async fn set_extra_records(&self, records: Vec<DnsRecord>) {
        let _ = self.send(Input::ExtraRecords(records)).await; // as above
    }

    /// Tells all nodes of other relays.
    pub(crate) async fn set_relay_map(&self, map: RelayMap) -> Result<(), CommandError> {
        self.send(Input::Relays(Box::new(map))).await
    }

    /// A registration that waits for an operator. A look at what the writer has published: anybody may look.
    pub(crate) fn waiting(&self, id: AuthId) -> Option<Waiting> {
        self.pending.borrow().get(id, clock::wall()).cloned()
    }

    /// All of them.
    pub(crate) fn all_waiting(&self) -> Vec<(AuthId, Waiting)> {
        let pending = self.pending.borrow().clone();
        pending.undecided(clock::wall()).map(|(id, waiting)| (id, waiting.clone())).collect()
    }

    /// Whether writer and database answer.
    pub(crate) async fn check(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Check { reply }).await.is_ok() && answer.await.unwrap_or(false)
    }

    async fn send(&self, input: Input) -> Result<(), CommandError> {
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(|_| stopping())?;
        self.inputs.send((input, Some(place))).map_err(|_| stopping())
    }
}

fn stopping() -> CommandError {
    CommandError::Unavailable("the server is stopping".to_owned())
}

/// A map stream that is open, as far as presence is concerned.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    node: NodeId,
    channel: ChannelId,
    inputs: mpsc::UnboundedSender<Queued>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let ended = Input::Ended { node: self.node, channel: self.channel };
        let _ = self.inputs.send((ended, None)); // no writer, no presence
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use warren_control::rows::Rows;
    use warren_control::{Control, Settings};

    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn a_client_that_leaves_while_its_stream_waits_to_begin_ends_it_after_its_beginning() {
        let settings = Settings::new("https://control.example", "control.example", "mesh.test");
        let control = Control::from_rows(&Rows::default(), settings, clock::now()).expect("an empty registry");
        let (registry, mut ends, _probes) = Registry::new(control.snapshot());
        let begun = registry.begin_stream(NodeId(1), ChannelId(1), MapRequest::default());
        // The writer does not come to it, and the client resets its request.
        tokio::time::timeout(Duration::ZERO, begun).await.expect_err("nobody answers");
        let mut order = Vec::new();
        while let Ok((input, _)) = ends.inputs.try_recv() {
            order.push(match input {
                Input::Stream { .. } => "begins",
                Input::Ended { .. } => "ends",
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(order, ["begins", "ends"]);
    }
}
