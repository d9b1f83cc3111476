//! Profiles: several networks on one device, one of them active.

use std::fmt;

use serde::{Deserialize, Serialize};
use warren_crypto::{LockSecret, NodeSecret, Random, UnixTime};
use warren_wire::netmap::NetMap;
use warren_wire::{StableId, UserProfile};

use crate::prefs::Prefs;

/// Names a profile: four hex digits, drawn by chance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProfileId(pub String);

impl fmt::Display for ProfileId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a person sees of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileSummary {
    /// Names it in commands.
    pub id: ProfileId,
    /// For display: a person's name for it, else the login, else nothing.
    pub name: String,
    /// The network's name.
    pub domain: String,
    /// The network's DNS suffix.
    pub dns_suffix: String,
    /// Who signed in.
    pub user: UserProfile,
    /// Our record there.
    pub node_id: StableId,
    /// The server.
    pub control_url: String,
    /// Whether it is the active one.
    pub is_active: bool,
}

/// One network: who we are there and what we know of it.
#[derive(Clone, Debug)]
pub struct Profile {
    pub(crate) id: ProfileId,
    pub(crate) prefs: Prefs,
    pub(crate) keys: Keys,
    /// Who signed in, once someone has.
    pub(crate) user: UserProfile,
    pub(crate) node_id: StableId,
    /// The last map, and when it came.
    pub(crate) map: Option<CachedMap>,
}

/// A profile's keys. The machine and disco keys belong to the device.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The key we are known by.
    pub node: NodeSecret,
    /// Whether the server has accepted it.
    pub registered: bool,
    /// The one before it.
    pub old: Option<NodeSecret>,
    /// The one that shall take its place, while that is being asked. Written down before it is first sent: a server
    /// may accept it in the moment in which we die.
    pub trying: Option<NodeSecret>,
    /// Signs for tailnet lock; announced, and not yet used.
    pub lock: LockSecret,
}

/// A map, and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedMap {
    /// The map.
    pub map: NetMap,
    /// By the corrected clock.
    pub at: UnixTime,
}

impl Profile {
    pub(crate) fn new(id: ProfileId, random: &mut Random) -> Profile {
        Profile {
            id,
            prefs: Prefs::default(),
            keys: Keys::generate(random),
            user: UserProfile::default(),
            node_id: StableId::default(),
            map: None,
        }
    }

    pub(crate) fn summary(&self, active: &ProfileId) -> ProfileSummary {
        let map = self.map.as_ref().map(|cached| &cached.map);
        let name = if self.prefs.profile_name.is_empty() { &self.user.login_name } else { &self.prefs.profile_name };
        ProfileSummary {
            id: self.id.clone(),
            name: name.clone(),
            domain: map.map(|map| map.domain.clone()).unwrap_or_default(),
            dns_suffix: map.map(|map| map.dns_suffix().to_owned()).unwrap_or_default(),
            user: self.user.clone(),
            node_id: self.node_id.clone(),
            control_url: self.prefs.control_url.clone(),
            is_active: self.id == *active,
        }
    }

    /// Forgets who we were there; the wishes stay.
    pub(crate) fn forget_identity(&mut self, random: &mut Random) {
        self.keys = Keys::generate(random);
        self.user = UserProfile::default();
        self.node_id = StableId::default();
        self.map = None;
    }
}

impl Keys {
    fn generate(random: &mut Random) -> Keys {
        Keys {
            node: NodeSecret::generate(random),
            registered: false,
            old: None,
            trying: None,
            lock: LockSecret::generate(random),
        }
    }
}
