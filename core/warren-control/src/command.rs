//! What may be asked of the control server, by whom, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use warren_crypto::{MachinePublic, NodePublic, UnixTime};
use warren_ip::Prefix;
use warren_wire::{NodeId, RegisterRequest, UserId};

use crate::api_keys::ApiScope;
use crate::attributes::AttributeWish;
use crate::auth_keys::KeySecret;
use crate::pending::AuthId;
use crate::people::Person;
use crate::register::RegisterAnswer;
use crate::roles::UserRole;
use crate::rows::{ApiKey, ApiKeyId, KeyId, Node, PolicyRow, PreAuthKey, Sealed, Service, ServiceId, SignIn, User};
use crate::services::{ServiceChange, ServiceWish};

/// Something that someone asks for.
#[derive(Clone, Debug)]
pub struct Command {
    /// Who asks, and from where.
    pub actor: Actor,
    /// What for.
    pub what: What,
}

impl Command {
    /// A command of the server's own clock and housekeeping.
    pub fn by_server(what: What) -> Self {
        Self { actor: Actor::Server, what }
    }
}

/// Who asks. Whether they may is the caller's to decide before it gets here; this is for the audit line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The server itself: expiry, clean-up.
    Server,
    /// A machine, by the key that its Noise handshake proved.
    Machine {
        /// The proven key.
        key: MachinePublic,
        /// Where it came from, if known.
        from: Option<IpAddr>,
    },
    /// A person, as an identity provider vouches for them.
    Person {
        /// Who vouches.
        issuer: String,
        /// For whom.
        subject: String,
    },
    /// A person or program with an operator's rights.
    Operator {
        /// As the door knows them (`uid 1000`, a name).
        name: String,
        /// Which door (`admin socket`, `policy file`).
        door: &'static str,
    },
    /// Whoever has an API key.
    ApiKey {
        /// The part of the key that is not secret.
        prefix: String,
        /// Where the request came from.
        from: IpAddr,
    },
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Machine { key, from: None } => write!(f, "machine {}", key.short()),
            Self::Machine { key, from: Some(from) } => write!(f, "machine {} from {from}", key.short()),
            Self::Person { issuer, subject } => write!(f, "{subject} of {issuer}"),
            Self::Operator { name, door } => write!(f, "{name} by {door}"),
            Self::ApiKey { prefix, from } => write!(f, "api key {prefix} from {from}"),
        }
    }
}

/// Everything that can be asked.
#[derive(Clone, Debug)]
pub enum What {
    /// A machine registers, re-registers, follows up or logs out.
    Register {
        /// The machine key of the Noise handshake that carried the request: never taken from the request itself.
        machine: MachinePublic,
        /// The request, as far as it is used ([`crate::register::only_used`]). Shared, for it is decided on more than once.
        request: Arc<RegisterRequest>,
    },
    /// A registration that was answered [`RegisterAnswer::Wait`] and whose client still waits: how does it stand?
    FollowUp {
        /// As in the registration.
        machine: MachinePublic,
        /// The key that it wants registered.
        node_key: NodePublic,
        /// What it waits for.
        id: AuthId,
    },
    /// An operator lets a waiting machine in, as a device of `user`.
    ApproveRegistration {
        /// From the page that the machine was sent to.
        id: AuthId,
        /// The owner.
        user: UserId,
    },
    /// An operator turns a waiting machine away.
    RejectRegistration {
        /// From the page that the machine was sent to.
        id: AuthId,
    },
    /// A person signed in for a waiting machine: it becomes theirs.
    Enrol {
        /// From the page that the machine was sent to.
        id: AuthId,
        /// What the identity provider says.
        person: Box<Person>,
        /// With what it can be asked again.
        refresh: Option<Sealed>,
        /// When the node must log in anew at the latest; `None` leaves it to the settings.
        until: Option<UnixTime>,
    },
    /// The identity provider was asked again about somebody.
    RefreshPerson {
        /// Whom.
        user: UserId,
        /// What it says now.
        person: Box<Person>,
        /// With what it can be asked the next time.
        refresh: Option<Sealed>,
        /// What was known when it was asked. If that has changed, somebody signed in meanwhile: the answer is old.
        asked: Arc<SignIn>,
    },
    /// The identity provider does not vouch for somebody any more, or they may not be here: their nodes are logged out.
    EndSignIn {
        /// Whom.
        user: UserId,
        /// For the audit line.
        reason: String,
        /// As in [`What::RefreshPerson`].
        asked: Arc<SignIn>,
    },
    /// Lets a node into the network, or keeps it out (see [`crate::Settings::device_approval`]).
    ApproveNode {
        /// Which.
        node: NodeId,
        /// In, or out.
        approved: bool,
    },
    /// Sets when a node's key expires. `None` is at once.
    ExpireNode {
        /// Which.
        node: NodeId,
        /// When; times in the past count as now.
        at: Option<UnixTime>,
    },
    /// A node's key never expires. An already expired key is good again.
    DisableExpiry {
        /// Which.
        node: NodeId,
    },
    /// Gives a node a name that no longer follows its host name.
    RenameNode {
        /// Which.
        node: NodeId,
        /// One DNS label.
        name: String,
    },
    /// Forgets a node; its addresses are free again.
    DeleteNode {
        /// Which.
        node: NodeId,
    },
    /// Gives a node tags, and so takes it from its user.
    SetTags {
        /// Which.
        node: NodeId,
        /// At least one, each `tag:` and a name.
        tags: BTreeSet<String>,
    },
    /// Gives a node to a person, and so takes its tags away.
    MoveNode {
        /// Which.
        node: NodeId,
        /// Whose it is from now on.
        user: UserId,
    },
    /// Shows or hides where a node is in the underlay.
    HideEndpoints {
        /// Which.
        node: NodeId,
        /// Peers are not told.
        hide: bool,
    },
    /// Sets or removes facts about a node that postures ask for: all of them or none. Of a machine, for its own node.
    SetAttributes {
        /// Which.
        node: NodeId,
        /// By name; `None` removes.
        changes: BTreeMap<String, Option<AttributeWish>>,
        /// For the audit line; may be empty.
        comment: String,
    },
    /// Replaces the approved routes of a node.
    SetRoutes {
        /// Which.
        node: NodeId,
        /// The whole set.
        routes: BTreeSet<Prefix>,
    },
    /// Makes a person of issuer `local`.
    CreateUser {
        /// Short, unique.
        name: String,
        /// May be empty.
        display_name: String,
        /// May be empty.
        email: String,
        /// May be empty.
        picture_url: String,
    },
    /// Changes the short name. Policies may mean the person by it from now on, whoever had chosen it before.
    RenameUser {
        /// Whom.
        user: UserId,
        /// Short, unique.
        name: String,
    },
    /// Gives somebody an office, or takes it back.
    SetRole {
        /// Whom.
        user: UserId,
        /// What they are from now on.
        role: UserRole,
    },
    /// Forgets a person; their join keys go too.
    DeleteUser {
        /// Whom.
        user: UserId,
        /// Their nodes as well; without this, a person who has any is not forgotten.
        with_nodes: bool,
    },
    /// Makes a join key.
    CreateKey {
        /// Whose nodes they will be; may be `None` only with tags.
        user: Option<UserId>,
        /// Roles of the nodes; empty for a person's devices.
        tags: BTreeSet<String>,
        /// More than once.
        reusable: bool,
        /// Nodes go when they have been away for a while.
        ephemeral: bool,
        /// Nodes need no approval where the settings ask for one.
        preapproved: bool,
        /// `None` is never.
        expiry: Option<UnixTime>,
    },
    /// The key lets nobody in from now on.
    ExpireKey {
        /// Which.
        key: KeyId,
    },
    /// Forgets the key. Nodes that used it stay.
    DeleteKey {
        /// Which.
        key: KeyId,
    },
    /// Makes an API key.
    CreateApiKey {
        /// What it may do; at least one.
        scopes: BTreeSet<ApiScope>,
        /// When it stops.
        expiry: UnixTime,
    },
    /// The key is good for nothing from now on.
    ExpireApiKey {
        /// Which.
        key: ApiKeyId,
    },
    /// Forgets the key.
    DeleteApiKey {
        /// Which.
        key: ApiKeyId,
    },
    /// A key was used. Written down only when it was not a moment ago.
    SeeApiKey {
        /// Which.
        key: ApiKeyId,
    },
    /// Makes a service with addresses of its own.
    CreateService {
        /// One DNS label, with or without `svc:`.
        name: String,
        /// The rest of it.
        wish: ServiceWish,
    },
    /// Changes what is said of a service; name, addresses and approvals stay.
    ChangeService {
        /// Which.
        service: ServiceId,
        /// And what.
        change: ServiceChange,
    },
    /// Forgets a service; its addresses are free again.
    DeleteService {
        /// Which.
        service: ServiceId,
    },
    /// Lets a node be a host of a service, or no longer.
    ApproveHost {
        /// Which.
        service: ServiceId,
        /// The host.
        node: NodeId,
        /// It may, or may not.
        approved: bool,
    },
    /// Replaces the policy.
    ReplacePolicy {
        /// HuJSON.
        text: String,
    },
    /// A machine's host name changed: the node's name follows if it was made from it.
    FollowHostname {
        /// Which.
        node: NodeId,
        /// The new host name, unsanitised.
        hostname: String,
    },
    /// A node announces other routes or offers other services: those that the policy approves are approved.
    ApproveAnnounced {
        /// Which.
        node: NodeId,
    },
    /// Something is done at a node that changes no row: a shell's check is answered, a question put. The line of the audit
    /// table is there before it is done.
    Note {
        /// For the line: what is done.
        action: &'static str,
        /// At which node.
        node: NodeId,
        /// What exactly; cut at 255 bytes.
        detail: String,
    },
    /// Gives nodes that lack them addresses of the families that the settings have now.
    BackfillAddresses,
    /// Marks the keys that have expired by now, so that peers hear of it.
    ExpireDue,
    /// Removes an ephemeral node that has been away for long. Refused if it came back.
    RemoveAway {
        /// Which.
        node: NodeId,
    },
}

impl What {
    /// The action's name in the audit table.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Register { .. } | Self::FollowUp { .. } => "register",
            Self::ApproveRegistration { .. } => "approve_registration",
            Self::RejectRegistration { .. } => "reject_registration",
            Self::Enrol { .. } => "enrol",
            Self::RefreshPerson { .. } => "refresh_person",
            Self::EndSignIn { .. } => "end_sign_in",
            Self::ApproveNode { .. } => "approve_node",
            Self::ExpireNode { .. } => "expire_node",
            Self::DisableExpiry { .. } => "disable_expiry",
            Self::RenameNode { .. } => "rename_node",
            Self::DeleteNode { .. } => "delete_node",
            Self::SetTags { .. } => "set_tags",
            Self::MoveNode { .. } => "move_node",
            Self::HideEndpoints { .. } => "hide_endpoints",
            Self::SetAttributes { .. } => "set_attributes",
            Self::SetRoutes { .. } => "set_routes",
            Self::CreateUser { .. } => "create_user",
            Self::RenameUser { .. } => "rename_user",
            Self::SetRole { .. } => "set_role",
            Self::DeleteUser { .. } => "delete_user",
            Self::CreateKey { .. } => "create_key",
            Self::ExpireKey { .. } => "expire_key",
            Self::DeleteKey { .. } => "delete_key",
            Self::CreateApiKey { .. } => "create_api_key",
            Self::ExpireApiKey { .. } => "expire_api_key",
            Self::DeleteApiKey { .. } => "delete_api_key",
            Self::SeeApiKey { .. } => "see_api_key",
            Self::Note { action, .. } => action,
            Self::CreateService { .. } => "create_service",
            Self::ChangeService { .. } => "change_service",
            Self::DeleteService { .. } => "delete_service",
            Self::ApproveHost { .. } => "approve_host",
            Self::ReplacePolicy { .. } => "replace_policy",
            Self::FollowHostname { .. } => "follow_hostname",
            Self::ApproveAnnounced { .. } => "approve_announced",
            Self::BackfillAddresses => "backfill_addresses",
            Self::ExpireDue => "expire_due",
            Self::RemoveAway { .. } => "remove_away",
        }
    }
}

/// What a granted command answers. It may leave the server only after its batch is committed.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`What::Register`].
    Register(RegisterAnswer),
    /// The node as it is now.
    Node(Arc<Node>),
    /// The user as it is now.
    User(Arc<User>),
    /// The key as it is now, and when it was just made the whole text, this once.
    Key {
        /// The row.
        key: Arc<PreAuthKey>,
        /// The text for `--auth-key`; `Some` only in answer to [`What::CreateKey`].
        secret: Option<KeySecret>,
    },
    /// The API key as it is now, and when it was just made the whole text, this once.
    ApiKey {
        /// The row.
        key: Arc<ApiKey>,
        /// The text for `Authorization: Bearer`; `Some` only in answer to [`What::CreateApiKey`].
        secret: Option<KeySecret>,
    },
    /// The service as it is now.
    Service(Arc<Service>),
    /// The policy as it is now.
    Policy {
        /// The row.
        row: Arc<PolicyRow>,
        /// Sections that have no effect yet, words that mean nobody: one line each, for whoever replaced it.
        warnings: Vec<String>,
    },
    /// To [`What::RefreshPerson`]: the sign-in goes on, but the profile stays as it was, for this reason.
    Kept(String),
    /// To [`What::Enrol`]: the device may not be let in, and hears so.
    Refused(RegisterRefusal),
    /// What was changed, one line each.
    Changes(Vec<String>),
    /// Done; there is nothing to show.
    Done,
}

/// Why a command was not granted. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A row that was named does not exist.
    #[error("no such {kind}: {name}")]
    NotFound {
        /// `node`, `user`, `key`, `API key`, `service`, `registration`.
        kind: &'static str,
        /// As it was asked for.
        name: String,
    },
    /// Someone else has it.
    #[error("{what} {value:?} is taken")]
    Taken {
        /// `name`, …
        what: &'static str,
        /// As it was asked for.
        value: String,
    },
    /// What was asked cannot be right, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// Not in this state.
    #[error("{0}")]
    Conflict(String),
    /// The policy does not compile.
    #[error("policy: {0}")]
    Policy(String),
    /// A machine may not register like this. The text is what its user sees.
    #[error("{0}")]
    Register(RegisterRefusal),
    /// No address is left.
    #[error("no address left in {0}")]
    NoAddress(Prefix),
}

/// Why a registration was refused. Flat on purpose: the first five are the field's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterRefusal {
    /// No such key, or the wrong secret for it.
    #[error("invalid pre auth key")]
    InvalidKey,
    /// An operator ended the key.
    #[error("authkey revoked")]
    KeyRevoked,
    /// The key's time is over.
    #[error("authkey expired")]
    KeyExpired,
    /// A one-off key was used before.
    #[error("authkey already used")]
    KeyUsed,
    /// The node key belongs to another machine.
    #[error("node exists with a different machine key")]
    OtherMachine,
    /// Only an operator may extend.
    #[error("extending key is not allowed")]
    Extending,
    /// The node asks for tags that are not its to ask for: these.
    #[error("requested tags [{}] are invalid or not permitted", crate::tags::shown(.0))]
    Tags(BTreeSet<String>),
    /// An operator said no.
    #[error("registration was rejected")]
    Rejected,
    /// The request has no node key.
    #[error("node key is missing")]
    NoNodeKey,
    /// The follow-up is not one of our links.
    #[error("invalid followup URL")]
    Followup,
}

impl From<RegisterRefusal> for Refusal {
    fn from(refusal: RegisterRefusal) -> Self {
        Self::Register(refusal)
    }
}
