//! The bus: one JSON object per line for as long as the watcher stays. Source: `ipn/backend.go`.

use serde::{Deserialize, Serialize};

use super::{Prefs, Status};

/// Bits of `watch-ipn-bus?mask=`.
pub mod watch {
    pub const ENGINE_UPDATES: u64 = 1;
    pub const INITIAL_STATE: u64 = 1 << 1;
    pub const INITIAL_PREFS: u64 = 1 << 2;
    pub const INITIAL_NETMAP: u64 = 1 << 3;
    pub const INITIAL_HEALTH: u64 = 1 << 7;
    pub const RATE_LIMIT: u64 = 1 << 8;
    pub const PEER_CHANGES: u64 = 1 << 12;
    pub const NO_NETMAP: u64 = 1 << 13;
    pub const INITIAL_STATUS: u64 = 1 << 14;
    /// Only for watchers inside the daemon's own process; refused on the socket.
    pub const IN_PROCESS: u64 = 1 << 16;
}

/// The daemon's state as the bus numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendState {
    NoState,
    InUseOtherUser,
    NeedsLogin,
    NeedsMachineAuth,
    Stopped,
    Starting,
    Running,
}

const STATES: [(BackendState, &str); 7] = [
    (BackendState::NoState, "NoState"),
    (BackendState::InUseOtherUser, "InUseOtherUser"),
    (BackendState::NeedsLogin, "NeedsLogin"),
    (BackendState::NeedsMachineAuth, "NeedsMachineAuth"),
    (BackendState::Stopped, "Stopped"),
    (BackendState::Starting, "Starting"),
    (BackendState::Running, "Running"),
];

impl BackendState {
    pub fn number(self) -> i64 {
        STATES.iter().position(|(state, _)| *state == self).map_or(0, |at| at as i64)
    }

    pub fn from_number(number: i64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|at| STATES.get(at)).map(|(state, _)| *state)
    }

    pub fn as_str(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("NoState", |(_, text)| text)
    }

    pub fn parse(text: &str) -> Option<Self> {
        STATES.iter().find(|(_, name)| *name == text).map(|(state, _)| *state)
    }
}

/// One line of the bus. A null means "no change".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Notify {
    pub version: String,
    #[serde(rename = "SessionID", skip_serializing_if = "String::is_empty")]
    pub session_id: String,
    pub err_message: Option<String>,
    pub login_finished: Option<serde_json::Map<String, serde_json::Value>>,
    /// See [`BackendState::number`].
    pub state: Option<i64>,
    pub prefs: Option<Prefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_change: Option<warren_wire::Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_status: Option<Status>,
    pub net_map: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers_changed: Option<Vec<warren_wire::Node>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers_removed: Option<Vec<i64>>,
    pub engine: Option<serde_json::Value>,
    #[serde(rename = "BrowseToURL")]
    pub browse_to_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<serde_json::Value>,
    /// Ours: the control server cannot be reached, and is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warren_retrying: Option<String>,
}
