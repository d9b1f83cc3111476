//! Registrations that wait for an operator. Soft: a restart forgets them, and the machine is given a new link.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use warren_crypto::{MachinePublic, NodePublic, Random, UnixTime};
use warren_ip::heaviest;
use warren_wire::{NodeId, RegisterRequest};

use crate::auth_keys::hex;
use crate::command::RegisterRefusal;

/// How long a link is good.
pub(crate) const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How many may wait. Anybody who can reach the server can open a channel and wait, so this bounds memory; the oldest of
/// the source that has most goes first.
const MOST: usize = 1024;

/// How many may wait from one source. A school in which a class joins stays below; machine keys cost nothing, so this and
/// not the next is what keeps a hoarder from pushing out the others.
const MOST_PER_SOURCE: usize = 256;

/// How many may wait for one machine key. A person with several browsers has a few; the rest is a loop.
const MOST_PER_MACHINE: usize = 16;

/// The unguessable name of a waiting registration: 128 random bits, as in `wkey-req-<32 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthId([u8; 16]);

const LABEL: &str = "wkey-req-";

impl AuthId {
    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From the path of a link that we made (`…/register/<id>`), whatever stands before it.
    pub fn from_link(link: &str) -> Option<Self> {
        link.rsplit_once("/register/")?.1.parse().ok()
    }
}

impl fmt::Display for AuthId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LABEL}{}", hex(&self.0))
    }
}

/// Whoever knows the id can ask for it to be approved, but only an operator can do it: it may show in logs.
impl fmt::Debug for AuthId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not the text of a waiting registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a registration id looks like {LABEL}… with 32 hex digits")]
pub struct NotAnAuthId;

impl FromStr for AuthId {
    type Err = NotAnAuthId;

    fn from_str(text: &str) -> Result<Self, NotAnAuthId> {
        let digits = text.strip_prefix(LABEL).ok_or(NotAnAuthId)?.as_bytes();
        if digits.len() != 32 {
            return Err(NotAnAuthId);
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).filter(|_| !d.is_ascii_uppercase());
            *byte = match (digit(pair[0]), digit(pair[1])) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(NotAnAuthId),
            };
        }
        Ok(Self(bytes))
    }
}

/// A machine that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Proven by its Noise handshake.
    pub machine: MachinePublic,
    /// The key that it wants registered.
    pub node_key: NodePublic,
    /// All that it said.
    pub request: Arc<RegisterRequest>,
    /// Where it came from, as [`warren_ip::source_of`] counts; `None` if that is not known.
    pub source: Option<IpAddr>,
    /// When it came.
    pub since: UnixTime,
    /// What was decided; kept as long as the link would have been good, so that whoever waits hears it.
    pub verdict: Option<Verdict>,
}

/// What became of a waiting registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this node now.
    Approved(NodeId),
    /// Somebody who may said no.
    Rejected,
    /// The rules say no to what it asks for.
    Refused(RegisterRefusal),
}

/// All that wait. Copies share until written.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    entries: Arc<BTreeMap<AuthId, Waiting>>,
}

impl Pending {
    /// Takes a machine in and names its link.
    pub(crate) fn add(&mut self, waiting: Waiting, now: UnixTime, random: &mut Random) -> AuthId {
        self.forget_old(now);
        let machine = waiting.machine;
        self.make_room(MOST_PER_MACHINE, |other| other.machine == machine);
        let source = waiting.source;
        self.make_room(MOST_PER_SOURCE, |other| other.source == source);
        if self.entries.len() >= MOST
            && let Some(most) = heaviest(self.entries.values().map(|waiting| waiting.source))
        {
            let count = self.entries.values().filter(|waiting| waiting.source == most).count();
            self.make_room(count, |other| other.source == most);
        }
        let id = AuthId(random.bytes());
        Arc::make_mut(&mut self.entries).insert(id, waiting);
        id
    }

    /// The entry, unless its time is over.
    pub fn get(&self, id: AuthId, now: UnixTime) -> Option<&Waiting> {
        self.entries.get(&id).filter(|waiting| !is_over(waiting, now))
    }

    fn remove(&mut self, id: AuthId) {
        Arc::make_mut(&mut self.entries).remove(&id);
    }

    pub(crate) fn settle(&mut self, id: AuthId, verdict: Verdict) {
        if let Some(waiting) = Arc::make_mut(&mut self.entries).get_mut(&id) {
            waiting.verdict = Some(verdict);
        }
    }

    /// Drops what this machine waited for with other node keys, and names it. A client waits with the last key that it made:
    /// to approve an older one would take its key away from a node that is in.
    pub(crate) fn outdate(&mut self, machine: MachinePublic, node_key: NodePublic) -> Vec<AuthId> {
        let is_old =
            |waiting: &Waiting| waiting.machine == machine && waiting.node_key != node_key && waiting.verdict.is_none();
        let old: Vec<AuthId> = self.entries.iter().filter(|(_, waiting)| is_old(waiting)).map(|(id, _)| *id).collect();
        old.iter().for_each(|id| self.remove(*id));
        old
    }

    /// All that wait for a verdict.
    pub fn undecided(&self, now: UnixTime) -> impl Iterator<Item = (AuthId, &Waiting)> {
        let open = self.entries.iter().filter(move |(_, waiting)| waiting.verdict.is_none() && !is_over(waiting, now));
        open.map(|(id, waiting)| (*id, waiting))
    }

    /// Whether these are copies of which neither was written since.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries)
    }

    fn forget_old(&mut self, now: UnixTime) {
        if self.entries.values().any(|waiting| is_over(waiting, now)) {
            Arc::make_mut(&mut self.entries).retain(|_, waiting| !is_over(waiting, now));
        }
    }

    /// Drops the oldest of those that match until fewer than `most` are left.
    fn make_room(&mut self, most: usize, matches: impl Fn(&Waiting) -> bool) {
        while self.entries.values().filter(|waiting| matches(waiting)).count() >= most {
            let oldest = self.entries.iter().filter(|(_, waiting)| matches(waiting)).min_by_key(|(_, w)| w.since);
            let Some((&oldest, _)) = oldest else { return };
            self.remove(oldest);
        }
    }
}

fn is_over(waiting: &Waiting, now: UnixTime) -> bool {
    now.as_secs().saturating_sub(waiting.since.as_secs()) >= LIFETIME.as_secs()
}
