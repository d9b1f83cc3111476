//! The registry as rows: what is written to the database and read back, and nothing else.
//!
//! A row has no behaviour and no invariant of its own; [`crate::Control`] keeps them. Secrets are not here: of a join
//! key or an API key only the SHA-256 of its secret part is a row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warren_crypto::{DiscoPublic, MachinePublic, NodePublic, UnixTime};
use warren_ip::Prefix;
use warren_wire::{CapabilityVersion, Endpoint, Hostinfo, NodeId, StableId, UserId};

use crate::api_keys::ApiScope;
use crate::attributes::CustomAttribute;
use crate::offers::Offered;
use crate::roles::UserRole;

/// How many batches have been committed. One per transaction that changed a row; presence never moves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

/// The number of a join key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(pub i64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ApiKeyId(pub i64);

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceId(pub i64);

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The issuer of people whom an operator made by hand, without a sign-in service.
pub const LOCAL_ISSUER: &str = "local";

/// A person. Identity is (`issuer`, `subject`) and never changes; names may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Positive, never used again.
    pub id: UserId,
    /// Who vouches for the person: [`LOCAL_ISSUER`] or the URL of an identity provider.
    pub issuer: String,
    /// The issuer's own name for the person. For `local` the decimal id, so that a rename frees the name.
    pub subject: String,
    /// Short name, unique among all users.
    pub name: String,
    /// The name is what the person chose at their provider, or made up here for want of one: it is neither their address
    /// nor an operator's word, so no policy can mean them by it.
    pub self_named: bool,
    /// What people read; empty means `name`.
    pub display_name: String,
    /// E-mail address; empty if not known.
    pub email: String,
    /// URL of a picture; empty for none.
    pub picture_url: String,
    /// The office that an operator gave them.
    pub role: UserRole,
    /// When the row was made.
    pub created: UnixTime,
}

impl User {
    /// What the field calls the login name: the e-mail address, else the name.
    pub fn login_name(&self) -> &str {
        if self.email.is_empty() { &self.name } else { &self.email }
    }

    /// What people read.
    pub fn shown_name(&self) -> &str {
        if self.display_name.is_empty() { self.login_name() } else { &self.display_name }
    }
}

/// Who owns a node: a person, or nobody but its tags. Never both (control-protocol.md §5.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A person's device.
    User(UserId),
    /// A machine that acts for its roles. The set is not empty; each begins `tag:`.
    Tags(BTreeSet<String>),
}

impl Owner {
    /// The id that stands for this owner on the wire.
    pub fn wire_user(&self) -> UserId {
        match self {
            Self::User(user) => *user,
            Self::Tags(_) => UserId::TAGGED_DEVICES,
        }
    }

    /// The person, if one owns the node.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(*user),
            Self::Tags(_) => None,
        }
    }

    /// The tags, if there are any.
    pub fn tags(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::User(_) => None,
            Self::Tags(tags) => Some(tags),
        }
    }
}

/// Where a node's name came from, which decides whether it still follows the machine's host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameOrigin {
    /// Made from the host name; follows it.
    Hostname,
    /// Chosen by an operator; stays.
    Chosen,
}

/// How a node came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registered {
    /// With a join key (which may have been deleted since).
    Key(KeyId),
    /// An operator approved it.
    Approved,
    /// A person signed in at an identity provider.
    SignIn,
}

/// A device in the registry. What it says about itself while it is connected is [`SoftRow`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Positive, never used again.
    pub id: NodeId,
    /// The name of the record for clients; the decimal id.
    pub stable_id: StableId,
    /// The machine, as its Noise handshake proved it.
    pub machine_key: MachinePublic,
    /// The current node key; unique over all nodes and bound to this machine.
    pub node_key: NodePublic,
    /// Whose it is.
    pub owner: Owner,
    /// First label of its DNS name; unique.
    pub name: String,
    /// Whether the name follows the host name.
    pub name_origin: NameOrigin,
    /// The host name as the machine last said it, unsanitised, cut to 255 bytes.
    pub hostname: String,
    /// IPv4 address in the mesh, for the life of the record.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address in the mesh, for the life of the record.
    pub v6: Option<Ipv6Addr>,
    /// When it registered first.
    pub created: UnixTime,
    /// When the node key stops being accepted; `None` is never.
    pub expiry: Option<UnixTime>,
    /// Whether `expiry` has passed and peers have been told. Follows `expiry` by the expiry tick.
    pub expired: bool,
    /// It expired because it logged out, or because an operator or a provider said so: no clock brings it back, only a
    /// login or an operator does.
    pub logged_out: bool,
    /// Removed when it has been away for a while.
    pub ephemeral: bool,
    /// How it came in, the last time.
    pub registered: Registered,
    /// An operator, a key or the settings have let it into the network. Until then it has an account of itself and
    /// nothing else: no peers, no relay. Stays once it is true, until an operator takes it back.
    pub approved: bool,
    /// An operator has kept it out. Then nothing but an operator lets it in: no login, no key and no setting.
    pub kept_out: bool,
    /// Routes that an operator or the policy has approved; served are those that the node also announces.
    pub approved_routes: BTreeSet<Prefix>,
    /// Peers are not told its underlay addresses: it is met through relays.
    pub hides_endpoints: bool,
    /// Facts for postures that were set, by name.
    pub attributes: BTreeMap<String, CustomAttribute>,
}

impl Node {
    /// Whether its key is past use at `now`, told to peers or not.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expired || self.expiry.is_some_and(|expiry| expiry <= now)
    }

    /// Its own addresses as host prefixes, IPv4 first.
    pub fn addresses(&self) -> Vec<Prefix> {
        let v4 = self.v4.map(|v4| Prefix::host(v4.into()));
        let v6 = self.v6.map(|v6| Prefix::host(v6.into()));
        v4.into_iter().chain(v6).collect()
    }
}

/// Something that the network offers at addresses of its own, whichever node answers there (`svc:<name>`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Positive, never used again.
    pub id: ServiceId,
    /// First label of its DNS name, without `svc:`; unique among services and nodes.
    pub name: String,
    /// IPv4 address in the mesh, for the life of the record.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address in the mesh, for the life of the record.
    pub v6: Option<Ipv6Addr>,
    /// Where it listens, as clients are told: `tcp:443`, `udp:53`, `8000-8099`, `*`.
    pub ports: Vec<String>,
    /// What the operator notes about it; may be empty.
    pub comment: String,
    /// Roles by which `autoApprovers.services` may name it; each begins `tag:`.
    pub tags: BTreeSet<String>,
    /// Nodes that an operator or the policy has approved; hosts are those that also offer it.
    pub approved: BTreeSet<NodeId>,
    /// When the row was made.
    pub created: UnixTime,
}

impl Service {
    /// As policies and nodes write it: with its `svc:`.
    pub fn full_name(&self) -> String {
        format!("svc:{}", self.name)
    }

    /// Its addresses as host prefixes, IPv4 first.
    pub fn addresses(&self) -> Vec<Prefix> {
        let v4 = self.v4.map(|v4| Prefix::host(v4.into()));
        let v6 = self.v6.map(|v6| Prefix::host(v6.into()));
        v4.into_iter().chain(v6).collect()
    }
}

/// A key that lets machines join. The secret itself was shown once and is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreAuthKey {
    /// Positive, never used again.
    pub id: KeyId,
    /// The part that finds the row: 12 hex digits, unique, not secret.
    pub prefix: String,
    /// SHA-256 of the secret part. A plain fast hash is right here: the secret is 32 random bytes, so there is nothing
    /// to guess that a slow hash (bcrypt) would slow down, and a slow one would let strangers burn our CPU.
    pub secret_sha256: [u8; 32],
    /// Whom nodes will belong to, unless `tags` are given.
    pub user: Option<UserId>,
    /// Tags that nodes will carry; not empty means that they belong to nobody.
    pub tags: BTreeSet<String>,
    /// May be used more than once.
    pub reusable: bool,
    /// Nodes that use it are removed when they have been away for a while.
    pub ephemeral: bool,
    /// Its nodes need no operator where [`crate::Settings::device_approval`] asks for one.
    pub preapproved: bool,
    /// Has been used at least once.
    pub used: bool,
    /// An operator ended it before its time.
    pub revoked: bool,
    /// When it was made.
    pub created: UnixTime,
    /// When it stops; `None` is never.
    pub expiry: Option<UnixTime>,
}

/// A key by which a program or a person far away uses the API. The secret itself was shown once and is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Positive, never used again.
    pub id: ApiKeyId,
    /// The part that finds the row: 12 hex digits, unique, not secret.
    pub prefix: String,
    /// SHA-256 of the secret part, for the reason that [`PreAuthKey::secret_sha256`] gives.
    pub secret_sha256: [u8; 32],
    /// What it may do; not empty.
    pub scopes: BTreeSet<ApiScope>,
    /// When it was made.
    pub created: UnixTime,
    /// When it stops.
    pub expiry: UnixTime,
    /// When it was used last, to some minutes; `None` before the first time.
    pub last_seen: Option<UnixTime>,
}

impl User {
    /// Whether a word is the person's name or address. Words of addresses mean the same in capitals.
    pub(crate) fn is_called(&self, word: &str) -> bool {
        !word.is_empty() && (self.email.eq_ignore_ascii_case(word) || self.name.eq_ignore_ascii_case(word))
    }
}

/// What an identity provider says about a person, as of the last time that it was asked. Absent for people whom an
/// operator made by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// Whom.
    pub user: UserId,
    /// Groups by the provider's own names; a policy may use them as sources.
    pub groups: BTreeSet<String>,
    /// With what the provider can be asked again; `None` if it gave nothing for that.
    pub refresh: Option<Sealed>,
    /// When the provider last vouched for the person.
    pub checked: UnixTime,
    /// The provider does not vouch for the person any more, or the person may not be here any more. Their nodes are
    /// logged out and their join keys let nobody in until they sign in again.
    pub ended: bool,
}

/// A secret of somebody else's, encrypted with a key that is not in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// HuJSON as the operator wrote it, comments included.
    pub text: String,
    /// When it was replaced last.
    pub updated: UnixTime,
}

/// Counters of the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// The id that the next user gets.
    pub next_user: i64,
    /// The id that the next node gets.
    pub next_node: i64,
    /// The id that the next join key gets.
    pub next_key: i64,
    /// The id that the next service gets.
    pub next_service: i64,
    /// The id that the next API key gets.
    pub next_api_key: i64,
}

impl Default for ServerFacts {
    fn default() -> Self {
        Self { next_user: 1, next_node: 1, next_key: 1, next_service: 1, next_api_key: 1 }
    }
}

/// What a node said about itself last. Soft: written in batches, may be some seconds old after a crash, and the node
/// says most of it again when it comes back. It is kept so that peers can reach each other before that: by the home
/// relay (which stock clients do not repeat unless it changed) and with the disco key.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftRow {
    /// Whose facts.
    pub node: NodeId,
    /// Disco key; `None` before the first map request.
    pub disco: Option<DiscoPublic>,
    /// Where it may be reached over the underlay, best first.
    pub endpoints: Vec<Endpoint>,
    /// Host facts, with the last known network facts (and so the home relay) inside.
    pub hostinfo: Arc<Hostinfo>,
    /// The capability version that it speaks.
    pub capability: CapabilityVersion,
    /// When its last map session ended; `None` before the first did.
    pub last_seen: Option<UnixTime>,
    /// The services that it offers, as of the last time that it was asked.
    pub offered: Arc<Offered>,
}

/// A whole registry, as loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Of the last commit.
    pub revision: Revision,
    /// Sorted by id, like all of these.
    pub users: Vec<Arc<User>>,
    /// What identity providers say about them, sorted by user.
    pub sign_ins: Vec<Arc<SignIn>>,
    /// Devices.
    pub nodes: Vec<Arc<Node>>,
    /// Join keys.
    pub keys: Vec<Arc<PreAuthKey>>,
    /// Services with addresses of their own.
    pub services: Vec<Arc<Service>>,
    /// API keys.
    pub api_keys: Vec<Arc<ApiKey>>,
    /// `None`: everyone may reach everyone.
    pub policy: Option<Arc<PolicyRow>>,
    /// Counters.
    pub facts: ServerFacts,
    /// What nodes said last.
    pub soft: Vec<SoftRow>,
}

/// One row written or deleted. A batch holds at most one change for a row: the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// Insert or replace.
    PutUser(Arc<User>),
    /// Delete.
    DeleteUser(UserId),
    /// Insert or replace.
    PutSignIn(Arc<SignIn>),
    /// Delete.
    DeleteSignIn(UserId),
    /// Insert or replace.
    PutNode(Arc<Node>),
    /// Delete, and its soft facts with it.
    DeleteNode(NodeId),
    /// Insert or replace.
    PutKey(Arc<PreAuthKey>),
    /// Delete.
    DeleteKey(KeyId),
    /// Insert or replace.
    PutService(Arc<Service>),
    /// Delete.
    DeleteService(ServiceId),
    /// Insert or replace.
    PutApiKey(Arc<ApiKey>),
    /// Delete.
    DeleteApiKey(ApiKeyId),
    /// Insert or replace.
    PutPolicy(Arc<PolicyRow>),
    /// Replace.
    PutFacts(ServerFacts),
}

/// Which row a [`RowChange`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowId {
    /// The server's counters.
    Facts,
    /// The policy.
    Policy,
    /// A user.
    User(UserId),
    /// What a provider says about a user.
    SignIn(UserId),
    /// A node.
    Node(NodeId),
    /// A join key.
    Key(KeyId),
    /// A service.
    Service(ServiceId),
    /// An API key.
    ApiKey(ApiKeyId),
}

impl RowId {
    /// The name of the kind of row, as `changes` lists it, and the number of the row (0 where there is only one).
    pub fn kind_and_number(self) -> (&'static str, i64) {
        match self {
            Self::Facts => ("facts", 0),
            Self::Policy => ("policy", 0),
            Self::User(id) => ("user", id.0),
            Self::SignIn(id) => ("sign_in", id.0),
            Self::Node(id) => ("node", id.0),
            Self::Key(id) => ("key", id.0),
            Self::Service(id) => ("service", id.0),
            Self::ApiKey(id) => ("api_key", id.0),
        }
    }
}

impl RowChange {
    /// Which row this writes or deletes.
    pub fn id(&self) -> RowId {
        match self {
            Self::PutUser(user) => RowId::User(user.id),
            Self::DeleteUser(id) => RowId::User(*id),
            Self::PutSignIn(sign_in) => RowId::SignIn(sign_in.user),
            Self::DeleteSignIn(id) => RowId::SignIn(*id),
            Self::PutNode(node) => RowId::Node(node.id),
            Self::DeleteNode(id) => RowId::Node(*id),
            Self::PutKey(key) => RowId::Key(key.id),
            Self::DeleteKey(id) => RowId::Key(*id),
            Self::PutService(service) => RowId::Service(service.id),
            Self::DeleteService(id) => RowId::Service(*id),
            Self::PutApiKey(key) => RowId::ApiKey(key.id),
            Self::DeleteApiKey(id) => RowId::ApiKey(*id),
            Self::PutPolicy(_) => RowId::Policy,
            Self::PutFacts(_) => RowId::Facts,
        }
    }
}

/// One line of the audit table, committed with the change that it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// When it was decided.
    pub at: UnixTime,
    /// Who asked; [`crate::Actor`] as text.
    pub actor: String,
    /// What was asked, one word (`create_key`, `rename_node`, …).
    pub action: &'static str,
    /// On what, as `kind:number`, or empty.
    pub target: String,
    /// What an operator wants to know of it, without secrets.
    pub detail: String,
}
