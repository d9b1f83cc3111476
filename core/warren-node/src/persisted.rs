//! What survives a restart, and how it lies on disk.
//!
//! One JSON object with the number of its format. A file of a newer format, a damaged one or one of something else is
//! refused with a clear word and never overwritten: the keys in it are this device's identity.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use warren_crypto::{DiscoSecret, LockSecret, MachineSecret, NodeSecret, Random, UnixTime};
use warren_wire::netmap::{fold, full};
use warren_wire::{CapabilityVersion, MapResponse, StableId, UserProfile};
use zeroize::Zeroizing;

use crate::clock::ClockMemory;
use crate::prefs::Prefs;
use crate::profile::{CachedMap, Keys, Profile, ProfileId};

/// The format that this build writes.
pub const FORMAT: u32 = 1;

/// First words of every state file, so that another program's JSON is not mistaken for one.
const KIND: &str = "warren-node-state";

/// What survives a restart: keys, profiles, wishes, the last maps and the clock's correction.
#[derive(Clone, Debug)]
pub struct NodeState {
    pub(crate) machine: MachineSecret,
    pub(crate) disco: DiscoSecret,
    /// Random, links to nothing; some servers want one.
    pub(crate) log_id: String,
    pub(crate) clock: ClockMemory,
    pub(crate) active: ProfileId,
    /// Never empty; contains `active`.
    pub(crate) profiles: Vec<Profile>,
}

/// A state file cannot be used. It must then be left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadStateError {
    /// Not JSON, or not whole.
    #[error("node state is damaged: {0}")]
    Damaged(String),
    /// JSON of something else.
    #[error("this is not a node's state")]
    Foreign,
    /// Written by a newer program.
    #[error("node state has format {found}; this build knows up to {FORMAT}")]
    FromTheFuture {
        /// What it says.
        found: u32,
    },
}

impl NodeState {
    pub(crate) fn fresh(random: &mut Random) -> NodeState {
        let profile = Profile::new(ProfileId(format!("{:04x}", random.below(0x1_0000))), random);
        NodeState {
            machine: MachineSecret::generate(random),
            disco: DiscoSecret::generate(random),
            log_id: random.bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect(),
            clock: ClockMemory::default(),
            active: profile.id.clone(),
            profiles: vec![profile],
        }
    }

    /// The text of the state file, **with every secret key of this device**. The only way by which they leave memory.
    pub fn to_file_text_with_secrets(&self) -> Zeroizing<String> {
        let stored = Stored {
            kind: KIND.to_owned(),
            format: FORMAT,
            machine_key: Secret(self.machine.to_file_text()),
            disco_key: Secret(self.disco.to_file_text()),
            log_id: self.log_id.clone(),
            clock_correction_ms: self.clock.correction_ms,
            latest_time: self.clock.latest,
            active: self.active.clone(),
            profiles: self.profiles.iter().map(StoredProfile::of).collect(),
        };
        Zeroizing::new(serde_json::to_string_pretty(&stored).unwrap_or_default())
    }

    /// Reads what [`NodeState::to_file_text_with_secrets`] wrote.
    ///
    /// # Errors
    /// [`LoadStateError`]: the file must be left as it is.
    pub fn from_file_text(text: &str) -> Result<NodeState, LoadStateError> {
        let damaged = |error: serde_json::Error| {
            // The position helps; the text around it might be a key.
            LoadStateError::Damaged(format!("line {}, column {}", error.line(), error.column()))
        };
        let header: Header = serde_json::from_str(text).map_err(damaged)?;
        if header.kind.as_deref() != Some(KIND) {
            return Err(LoadStateError::Foreign);
        }
        match header.format {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => return Err(LoadStateError::FromTheFuture { found }),
            _ => return Err(LoadStateError::Damaged("no known format".into())),
        }
        let stored: Stored = serde_json::from_str(text).map_err(damaged)?;
        stored.revive()
    }
}

#[derive(Deserialize)]
struct Header {
    kind: Option<String>,
    format: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    kind: String,
    format: u32,
    machine_key: Secret,
    disco_key: Secret,
    log_id: String,
    clock_correction_ms: i64,
    latest_time: UnixTime,
    active: ProfileId,
    profiles: Vec<StoredProfile>,
}

#[derive(Serialize, Deserialize)]
struct StoredProfile {
    id: ProfileId,
    prefs: Prefs,
    node_key: Secret,
    registered: bool,
    old_node_key: Option<Secret>,
    trying_node_key: Option<Secret>,
    lock_key: Secret,
    user: UserProfile,
    node_id: StableId,
    map: Option<StoredMap>,
}

#[derive(Serialize, Deserialize)]
struct StoredMap {
    at: UnixTime,
    /// The map as a server would send it whole.
    message: MapResponse,
}

impl StoredProfile {
    fn of(profile: &Profile) -> StoredProfile {
        let keys = &profile.keys;
        StoredProfile {
            id: profile.id.clone(),
            prefs: profile.prefs.clone(),
            node_key: Secret(keys.node.to_file_text()),
            registered: keys.registered,
            old_node_key: keys.old.as_ref().map(|key| Secret(key.to_file_text())),
            trying_node_key: keys.trying.as_ref().map(|key| Secret(key.to_file_text())),
            lock_key: Secret(keys.lock.to_file_text()),
            user: profile.user.clone(),
            node_id: profile.node_id.clone(),
            map: profile
                .map
                .as_ref()
                .map(|cached| StoredMap { at: cached.at, message: full(&cached.map, CapabilityVersion::NEWEST_KNOWN) }),
        }
    }

    fn revive(self) -> Result<Profile, LoadStateError> {
        let bad_key = |_| LoadStateError::Damaged(format!("a key of profile {}", self.id));
        let node_key = |secret: &Secret| NodeSecret::from_file_text(&secret.0).map_err(bad_key);
        let keys = Keys {
            node: node_key(&self.node_key)?,
            registered: self.registered,
            old: self.old_node_key.as_ref().map(node_key).transpose()?,
            trying: self.trying_node_key.as_ref().map(node_key).transpose()?,
            lock: LockSecret::from_file_text(&self.lock_key.0).map_err(bad_key)?,
        };
        let map = self.map.and_then(|stored| {
            let mut map = None;
            // A map that cannot be read is only a cache; the server will send another.
            fold(&mut map, stored.message, stored.at).ok()?;
            Some(CachedMap { map: map?, at: stored.at })
        });
        Ok(Profile { id: self.id, prefs: self.prefs, keys, user: self.user, node_id: self.node_id, map })
    }
}

impl Stored {
    fn revive(self) -> Result<NodeState, LoadStateError> {
        let bad_key = |_| LoadStateError::Damaged("a key of the device".into());
        let profiles = self.profiles.into_iter().map(StoredProfile::revive).collect::<Result<Vec<_>, _>>()?;
        if !profiles.iter().any(|profile| profile.id == self.active) {
            return Err(LoadStateError::Damaged("the active profile is missing".into()));
        }
        Ok(NodeState {
            machine: MachineSecret::from_file_text(&self.machine_key.0).map_err(bad_key)?,
            disco: DiscoSecret::from_file_text(&self.disco_key.0).map_err(bad_key)?,
            log_id: self.log_id,
            clock: ClockMemory { correction_ms: self.clock_correction_ms, latest: self.latest_time },
            active: self.active,
            profiles,
        })
    }
}

/// A secret key's text on its way to or from the file; private, so that nothing else can write one.
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Secret(Zeroizing::new(text)))
    }
}
