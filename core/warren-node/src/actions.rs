//! What goes into a [`crate::Node`] and what comes out, as values.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use warren_crypto::{MachinePublic, MachineSecret};
use warren_wire::{AuthKey, MapRequest, MapResponse, PingRequest, RegionId, RegisterRequest, RegisterResponse};

use crate::health::HealthItem;
use crate::plan::HostPlan;
use crate::prefs::{Prefs, PrefsEdit};
use crate::profile::{ProfileId, ProfileSummary};
use crate::{BackendState, NodeState};

/// Facts about the host that the node only passes on. The shell gathers them once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsFacts {
    /// Version of the program as the network shall see it, e.g. `1.80.0-warren`.
    pub version: String,
    /// The host's own name.
    pub hostname: String,
    /// `linux`, `macOS`, `windows` …
    pub os: String,
    /// Kernel or system version.
    pub os_version: String,
    /// `debian` …
    pub distro: String,
    /// `13` …
    pub distro_version: String,
    /// `trixie` …
    pub distro_code_name: String,
    /// `x86_64` …
    pub machine: String,
    /// Whether we run in a container.
    pub container: bool,
}

/// What someone wants of the node.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin (or begin anew) with these preferences, and with a key if there is one.
    Start {
        /// Pre-authorisation key; kept in memory until it has served.
        auth_key: Option<AuthKey>,
        /// Changes to make first.
        prefs: PrefsEdit,
    },
    /// Change some preferences.
    EditPrefs(PrefsEdit),
    /// Say whether this edit would be accepted; change nothing.
    CheckPrefs(PrefsEdit),
    /// A person wants to sign in (again): a login page is asked for, with a fresh node key if one was registered.
    LoginInteractive,
    /// Leave the network: the key is given back and forgotten, whether or not the server can be reached.
    Logout,
    /// All profiles.
    ListProfiles,
    /// Make an empty profile and switch to it.
    NewProfile,
    /// Switch to another network.
    SwitchProfile(ProfileId),
    /// Forget a network.
    DeleteProfile(ProfileId),
    /// Ask a peer for a sign of life; the answer comes as [`Notice::Ping`].
    Ping {
        /// An address of the peer inside the mesh.
        ip: IpAddr,
        /// By which protocol.
        kind: PingKind,
        /// Bytes of the probe; 0 for the smallest.
        size: usize,
    },
    /// Measure the network again.
    CheckNetwork,
}

/// How a peer is asked for a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingKind {
    /// Path level: says by which way.
    Disco,
    /// Inside the tunnel, answered by the peer's engine.
    Tsmp,
    /// Inside the tunnel, answered by the peer's host.
    Icmp,
}

/// The answer to a [`Command`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Done, or under way; notices tell the rest.
    Done,
    /// Preferences as they are (or, for a check, would be).
    Prefs(Box<Prefs>),
    /// All profiles.
    Profiles(Vec<ProfileSummary>),
    /// Under way; the answer carries this number.
    Ping(PingNumber),
    /// Known at once (an address of our own, or of no one).
    Pinged(PingResult),
}

/// Number of a ping that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PingNumber(pub u64);

/// Why a command was refused. The texts are for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A preference cannot be so.
    #[error("{0}")]
    Prefs(#[from] crate::prefs::PrefsError),
    /// No such profile.
    #[error("profile not found")]
    NoSuchProfile,
    /// There is no server to speak to.
    #[error("no control server is set; use --login-server")]
    NoControlServer,
    /// More than this device keeps.
    #[error("there are {0} profiles already; delete one first")]
    TooManyProfiles(usize),
}

/// Number of one request to the control server. Answers carry it, so that those to questions of the past are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What to ask the control server. Each has its own answers; see [`ControlEvent`].
#[derive(Clone, Debug, PartialEq)]
pub enum ControlRequest {
    /// `POST /machine/register`; may take long when it follows up a login page.
    Register(Box<RegisterRequest>),
    /// `POST /machine/map`, streaming. A new one takes the place of the old.
    Stream(Box<MapRequest>),
    /// `POST /machine/map`, lite.
    Update(Box<MapRequest>),
}

/// Where and as whom to speak to the control server. Read by the shell when it opens the connection.
#[derive(Clone, Debug)]
pub struct ControlTarget {
    /// Base address.
    pub url: url::Url,
    /// Who we are to it.
    pub machine: MachineSecret,
    /// Who it must be, where that was pinned; a server with another key must be refused.
    pub server_key: Option<MachinePublic>,
}

/// What came of a [`ControlRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum ControlEvent {
    /// The server answered a register request with 200.
    Registered(Box<RegisterResponse>),
    /// It did not.
    RegisterFailed {
        /// HTTP status, if it came so far.
        status: Option<u16>,
        /// For a person.
        text: String,
        /// What the server asked us to wait.
        retry_after: Option<Duration>,
        /// Trying again brings the same until a person changes something (another server's key, no such certificate).
        is_lasting: bool,
    },
    /// The stream's headers came.
    StreamOpened,
    /// One message of the stream.
    Map(Box<MapResponse>),
    /// The stream is over, or never began.
    StreamEnded {
        /// HTTP status, unless it was 200.
        status: Option<u16>,
        /// For a person.
        reason: String,
    },
    /// A lite update was taken.
    UpdateDone,
    /// A lite update was not.
    UpdateFailed {
        /// For a person.
        reason: String,
    },
}

/// What the shell must do. Call [`crate::Node::poll_action`] until `None`.
#[derive(Clone, Debug)]
pub enum Action {
    /// Drop every request to the control server that is under way, and the connection.
    CloseControl,
    /// Ask the control server, at [`crate::Node::control_target`] as it is now.
    Control {
        /// To be given back with every answer.
        id: RequestId,
        /// What to ask.
        request: ControlRequest,
    },
    /// Tell the server we left, over a connection of its own; no answer is awaited.
    SayGoodbye {
        /// Where, and as whom.
        target: ControlTarget,
        /// With an expiry in the past.
        request: Box<RegisterRequest>,
    },
    /// Make the host (or the user-space stack) so.
    ConfigureHost(HostPlan),
    /// Write this to disk, whole, before anything that follows.
    Persist(Box<NodeState>),
    /// Hold connections to these relay regions and to no others.
    Relays {
        /// Where we listen.
        home: Option<RegionId>,
        /// All of them, home included.
        wanted: BTreeSet<RegionId>,
    },
    /// Look up a relay's name, then tell [`crate::Node::handle_resolved`].
    Resolve {
        /// The name.
        name: String,
    },
    /// Time an HTTPS request to a region, then tell [`crate::Node::handle_https_latency`].
    ProbeHttps {
        /// The region.
        region: RegionId,
    },
    /// The control server asks for a sign of life: send `HEAD` to the URL.
    AnswerPing(Box<PingRequest>),
}

/// News for those who watch, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The state is another.
    State(BackendState),
    /// Preferences changed.
    Prefs(Box<Prefs>),
    /// A person must visit this page.
    BrowseToUrl(String),
    /// Signing in succeeded.
    LoginFinished,
    /// Something went wrong that waiting does not mend; a person should read it.
    Error(String),
    /// The control server cannot be reached, or cannot answer now; it is tried again by itself.
    Retrying(String),
    /// The map changed.
    NetMap,
    /// Our own record changed.
    SelfChanged,
    /// What is wrong changed.
    Health(Vec<HealthItem>),
    /// The active profile is another.
    Profile(ProfileId),
    /// Traffic to a peer takes another way.
    PathChanged(warren_crypto::NodePublic),
    /// What came of a ping.
    Ping {
        /// Which.
        number: PingNumber,
        /// What.
        result: PingResult,
    },
    /// A measurement of the network is complete.
    NetworkChecked,
}

/// What came of a ping.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PingResult {
    /// The address asked.
    pub ip: Option<IpAddr>,
    /// Its node's first address and name.
    pub node_ip: Option<IpAddr>,
    /// Short name of the node.
    pub node_name: String,
    /// Why there is no answer; empty when there is.
    pub error: String,
    /// Round trip.
    pub latency: Duration,
    /// The UDP address, when the answer came directly.
    pub endpoint: Option<std::net::SocketAddr>,
    /// The relay region, when it came relayed.
    pub region: Option<RegionId>,
    /// Its code.
    pub region_code: String,
    /// The address is our own.
    pub is_local_ip: bool,
}
