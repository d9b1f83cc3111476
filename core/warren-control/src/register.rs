//! How a machine gets in, comes back, and leaves (control-protocol.md §5).
//!
//! The order of the checks is the field's (§5.4): log out, known node, follow-up, join key, and last the link for a
//! person. Rules that are easy to break, each with a test:
//!
//! - The machine key is the one that Noise proved. A node key that another machine holds is refused.
//! - A restart (same node key, no key or even a used-up key) changes nothing, expiry least of all.
//! - A new node key, an expired node or another owner needs a key that is good now.
//! - The same person on the same machine is the same node: id, addresses and name stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use warren_crypto::{MachinePublic, NodePublic, Random, UnixTime};
use warren_wire::{Hostinfo, Login, NodeId, RegisterRequest, RegisterResponse, User as WireUser, UserId};

use crate::auth_keys;
use crate::command::{Answer, Refusal, RegisterRefusal};
use crate::event::Event;
use crate::names;
use crate::pending::{AuthId, Verdict, Waiting};
use crate::routes::MOST_ROUTES;
use crate::rows::{NameOrigin, Node, Owner, Registered, User};
use crate::staged::{Said, Staged};
use crate::visibility;

/// How a registration stands.
#[derive(Clone, Debug)]
pub enum RegisterAnswer {
    /// It is in.
    Authorized {
        /// The node.
        node: Arc<Node>,
        /// The person who owns it; `None` when its tags do.
        user: Option<Arc<User>>,
    },
    /// Its node key cannot be used (any more): the client makes another and comes back at once.
    KeyExpired {
        /// The node, if the machine has one by this key and it still exists.
        node: Option<Arc<Node>>,
        /// Its owner.
        user: Option<Arc<User>>,
    },
    /// A person must visit `<server>/register/<id>`.
    Visit(AuthId),
    /// That link is still open: hold the request, and decide it again when [`Event::RegistrationSettled`] names it.
    Wait(AuthId),
    /// It is in, and stays as it was: this once it is told that it may not have these tags ([`crate::tags`]).
    TagsRefused(BTreeSet<String>),
    /// The link that it waited for is not good any more: its client must register anew, with all that it has to say.
    Over,
}

impl RegisterAnswer {
    /// The response for the machine; `None` for [`RegisterAnswer::Wait`], which has none yet, and for
    /// [`RegisterAnswer::Over`], which is none. `server_url` has no slash at its end.
    pub fn response(&self, server_url: &str) -> Option<RegisterResponse> {
        let mut response = RegisterResponse::default();
        match self {
            Self::Authorized { node, user } => {
                (response.user, response.login) = owner_on_the_wire(&node.owner, user.as_deref());
                response.machine_authorized = node.approved;
            }
            Self::KeyExpired { node, user } => {
                if let Some(node) = node {
                    (response.user, response.login) = owner_on_the_wire(&node.owner, user.as_deref());
                }
                response.node_key_expired = true;
            }
            Self::Visit(id) => response.auth_url = link(server_url, *id),
            Self::TagsRefused(tags) => response.error = RegisterRefusal::Tags(tags.clone()).to_string(),
            Self::Wait(_) | Self::Over => return None,
        }
        Some(response)
    }
}

/// What of a request is used here: the rest need not lie in memory while a person makes up their mind.
pub fn only_used(request: RegisterRequest) -> RegisterRequest {
    /// A link of ours is shorter, whatever the server's address is.
    const LONGEST_LINK: usize = 2048;
    let RegisterRequest { version, node_key, old_node_key, auth, expiry, followup, hostinfo, ephemeral, .. } = request;
    let followup = cut(&followup, LONGEST_LINK).to_owned();
    RegisterRequest {
        version,
        node_key,
        old_node_key,
        auth,
        expiry,
        followup,
        hostinfo,
        ephemeral,
        ..RegisterRequest::default()
    }
}

/// The page on which a person lets a machine in.
pub fn link(server_url: &str, id: AuthId) -> String {
    format!("{server_url}/register/{id}")
}

/// A refusal as the machine's user sees it: HTTP 200 with a text, since any other status hides it (§12.2, trap 15).
pub fn refused(refusal: &Refusal) -> RegisterResponse {
    RegisterResponse { error: refusal.to_string(), ..RegisterResponse::default() }
}

/// Owner as profile: a person, or the pseudo user of tagged nodes, which must not be empty (trap 29).
fn owner_on_the_wire(owner: &Owner, user: Option<&User>) -> (WireUser, Login) {
    let (id, login, shown, picture, created) = match (owner, user) {
        (Owner::User(id), Some(user)) => {
            (*id, user.login_name(), user.shown_name(), user.picture_url.as_str(), Some(user.created))
        }
        (Owner::User(id), None) => (*id, "", "", "", None),
        (Owner::Tags(_), _) => (UserId::TAGGED_DEVICES, TAGGED_LOGIN, TAGGED_NAME, "", None),
    };
    let wire_user = WireUser { id, display_name: shown.to_owned(), profile_pic_url: picture.to_owned(), created };
    let login = Login {
        id: warren_wire::LoginId(id.0),
        provider: String::new(),
        login_name: login.to_owned(),
        display_name: shown.to_owned(),
        profile_pic_url: picture.to_owned(),
    };
    (wire_user, login)
}

/// Login name of the pseudo user that owns tagged nodes.
pub(crate) const TAGGED_LOGIN: &str = "tagged-devices";
/// Display name of the pseudo user that owns tagged nodes.
pub(crate) const TAGGED_NAME: &str = "Tagged Devices";

/// Somebody is to be let in: by whom, as what.
struct Admission<'a> {
    machine: MachinePublic,
    request: &'a RegisterRequest,
    owner: Owner,
    ephemeral: bool,
    registered: Registered,
    /// Whoever lets it in may do so for the network, too, where an operator must.
    approved: bool,
    /// When it must log in anew at the latest.
    until: Option<UnixTime>,
}

/// How somebody lets a waiting machine in.
pub(crate) struct LetIn {
    pub(crate) registered: Registered,
    pub(crate) approved: bool,
    pub(crate) until: Option<UnixTime>,
}

impl Staged {
    /// Decides one registration request; see the module for the order.
    pub(crate) fn register(
        &mut self,
        machine: MachinePublic,
        request: &Arc<RegisterRequest>,
        now: UnixTime,
        random: &mut Random,
    ) -> Result<Answer, Refusal> {
        if request.node_key.is_zero() {
            return Err(RegisterRefusal::NoNodeKey.into());
        }
        let known = self.state.registry.node_by_key(&request.node_key).cloned();
        if let Some(node) = &known
            && node.machine_key != machine
        {
            // Whoever merely knows a node key must not act for it (trap 22).
            return Err(RegisterRefusal::OtherMachine.into());
        }
        let asks_past = request.expiry.is_some_and(|expiry| expiry <= now);
        if asks_past && let Some(node) = &known {
            return Ok(self.log_out(node, now));
        }
        let auth_key =
            request.auth.as_ref().and_then(|auth| auth.auth_key.clone()).filter(|key| !key.expose().is_empty());
        if auth_key.is_none()
            && let Some(node) = &known
        {
            return self.come_back(node, request, now);
        }
        if !request.followup.is_empty()
            && let Some(answer) = self.follow_up(machine, request, now)?
        {
            return Ok(answer);
        }
        match auth_key {
            Some(text) => self.register_with_key(machine, text.expose(), request, now),
            None => {
                let request = Arc::clone(request);
                let node_key = request.node_key;
                let source = self.source();
                self.outdate(machine, node_key);
                let waiting = Waiting { machine, node_key, request, source, since: now, verdict: None };
                let id = self.state.pending.add(waiting, now, random);
                self.events.push(Event::RegistrationWaiting(id));
                Ok(Answer::Register(RegisterAnswer::Visit(id)))
            }
        }
    }

    /// The field's logout: a time in the past, with the node key. The time itself (123 s after the epoch) is no
    /// expiry to show to anybody, so the key expires now (trap 17).
    fn log_out(&mut self, node: &Arc<Node>, now: UnixTime) -> Answer {
        let target = format!("node:{}", node.id.0);
        if node.ephemeral && !node.kept_out {
            self.note(now, target, "logged out, ephemeral");
            self.remove_node(node.id);
            return Answer::Register(RegisterAnswer::KeyExpired { node: None, user: None });
        }
        let node = if node.logged_out {
            Arc::clone(node)
        } else {
            self.note(now, target, "logged out");
            let expiry = node.expiry.filter(|expiry| *expiry <= now).unwrap_or(now);
            self.events.push(Event::NodeExpired(node.id));
            self.put_node(Node { expiry: Some(expiry), expired: true, logged_out: true, ..Node::clone(node) })
        };
        self.key_expired(node)
    }

    /// A known node without a key: a restart changes nothing, unless it asks for other tags than before.
    fn come_back(&mut self, node: &Arc<Node>, request: &RegisterRequest, now: UnixTime) -> Result<Answer, Refusal> {
        if request.expiry.is_some() {
            return Err(RegisterRefusal::Extending.into());
        }
        if node.is_expired(now) {
            return Ok(self.key_expired(Arc::clone(node)));
        }
        match self.retag(node, request, now) {
            Ok(node) => {
                self.hear(&node, request, now);
                Ok(self.authorized(node))
            }
            Err(Refusal::Register(RegisterRefusal::Tags(refused))) => {
                let tags = requested_tags(request);
                // What it was in without before, it stays in without.
                if !self.asked_before(node.id, &tags) && !self.state.refused_tags.was_told(node.id, &tags, now) {
                    return Ok(Answer::Register(RegisterAnswer::TagsRefused(refused)));
                }
                self.hear_without(node, request, refused, now);
                Ok(self.authorized(Arc::clone(node)))
            }
            Err(other) => Err(other),
        }
    }

    /// A node that asks for tags: a person's node gets those that the person may give, a tagged one no others than it has.
    ///
    /// Clients repeat what they ask for at every start. What was asked before is not judged again, unless it was
    /// refused: else a node whose tags an operator changed, or whose policy did, would be locked out when it restarts.
    fn retag(&mut self, node: &Arc<Node>, request: &RegisterRequest, now: UnixTime) -> Result<Arc<Node>, Refusal> {
        let tags = requested_tags(request);
        let was_refused = self.presence.get(&node.id).is_some_and(|present| !present.refused_tags.is_disjoint(&tags));
        if tags.is_empty() || self.asked_before(node.id, &tags) && !was_refused {
            return Ok(Arc::clone(node));
        }
        let user = match &node.owner {
            Owner::Tags(has) if tags.is_subset(has) => return Ok(Arc::clone(node)),
            Owner::Tags(has) => return Err(RegisterRefusal::Tags(&tags - has).into()),
            Owner::User(user) => self.user(*user)?,
        };
        self.check_tags(&user, &tags)?;
        self.set_tags(node.id, tags, now)?;
        self.node(node.id)
    }

    /// Whether these are the very tags that the node asked for last.
    fn asked_before(&self, node: NodeId, tags: &BTreeSet<String>) -> bool {
        let before = self.presence.get(&node).map(|present| present.hostinfo.request_tags.as_slice());
        tags.iter().eq(before.unwrap_or_default().iter().collect::<BTreeSet<_>>())
    }

    /// Whether a person may give all of these tags; else which not.
    fn check_tags(&self, user: &User, tags: &BTreeSet<String>) -> Result<(), RegisterRefusal> {
        let refused = tags.iter().filter(|tag| !(names::is_tag(tag) && self.may_own_tag(user, tag)));
        let refused: BTreeSet<String> = refused.cloned().collect();
        if refused.is_empty() { Ok(()) } else { Err(RegisterRefusal::Tags(refused)) }
    }

    /// `None`: the link is not (or no longer) known, so the machine gets a new one (trap 23).
    fn follow_up(
        &mut self,
        machine: MachinePublic,
        request: &RegisterRequest,
        now: UnixTime,
    ) -> Result<Option<Answer>, Refusal> {
        let id = AuthId::from_link(&request.followup).ok_or(RegisterRefusal::Followup)?;
        self.standing(machine, request.node_key, id, now)
    }

    /// The same for a client that has waited since: it hears how it stands, and says nothing more itself.
    pub(crate) fn ask_after(
        &mut self,
        machine: MachinePublic,
        node_key: NodePublic,
        id: AuthId,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        match self.state.registry.node_by_key(&node_key).cloned() {
            Some(node) if node.machine_key != machine => Err(RegisterRefusal::OtherMachine.into()),
            Some(node) if node.is_expired(now) => Ok(self.key_expired(node)),
            Some(node) => Ok(self.authorized(node)),
            None => {
                let standing = self.standing(machine, node_key, id, now)?;
                Ok(standing.unwrap_or(Answer::Register(RegisterAnswer::Over)))
            }
        }
    }

    /// What became of a link of this machine; `None` if that says nothing about its registration now.
    fn standing(
        &self,
        machine: MachinePublic,
        node_key: NodePublic,
        id: AuthId,
        now: UnixTime,
    ) -> Result<Option<Answer>, Refusal> {
        match self.state.pending.get(id, now) {
            Some(waiting) if waiting.machine == machine && waiting.node_key == node_key => match &waiting.verdict {
                None => Ok(Some(Answer::Register(RegisterAnswer::Wait(id)))),
                Some(Verdict::Rejected) => Err(RegisterRefusal::Rejected.into()),
                Some(Verdict::Refused(refusal)) => Err(refusal.clone().into()),
                // It was let in, but its node is gone again: else it had been known by its key.
                Some(Verdict::Approved(_)) => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn register_with_key(
        &mut self,
        machine: MachinePublic,
        text: &str,
        request: &RegisterRequest,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let key = match auth_keys::find(&self.state.registry, text) {
            Ok(key) => Arc::clone(key),
            Err(invalid) => {
                // A container that starts again with the key that it joined with, which an operator has tidied away since:
                // its node key and machine key are what lets it in, as they would without any key.
                let known = self.state.registry.node_by_key(&request.node_key).cloned();
                let node = known.filter(|node| !node.is_expired(now)).ok_or(invalid)?;
                return self.come_back(&node, request, now);
            }
        };
        let owner = match (key.user, key.tags.is_empty()) {
            (Some(user), true) => Owner::User(user),
            _ => Owner::Tags(key.tags.clone()),
        };
        if let Some(node) = self.state.registry.node_by_key(&request.node_key).cloned() {
            let same_owner = match (&node.owner, &owner) {
                (Owner::User(a), Owner::User(b)) => a == b,
                (Owner::Tags(_), Owner::Tags(_)) => true,
                _ => false,
            };
            // A container that starts again with the key that it joined with (trap 20): whether that key would still
            // let anybody new in does not matter.
            if same_owner && !node.is_expired(now) {
                self.hear(&node, request, now);
                return Ok(self.authorized(node));
            }
        }
        auth_keys::check(&key, now)?;
        if let Some(user) = key.user
            && self.state.registry.sign_in(user).is_some_and(|sign_in| sign_in.ended)
        {
            // Somebody who was removed must not come back by a key that is theirs, nor bring tagged machines in.
            return Err(RegisterRefusal::KeyRevoked.into());
        }
        let tags = requested_tags(request);
        if !tags.is_empty() {
            // A key says what its nodes are; they may not say otherwise.
            return Err(RegisterRefusal::Tags(tags).into());
        }
        let admission = Admission {
            machine,
            request,
            owner,
            ephemeral: key.ephemeral || request.ephemeral,
            registered: Registered::Key(key.id),
            approved: key.preapproved,
            until: None,
        };
        let answer = self.admit(admission, now)?;
        if matches!(answer, Answer::Register(RegisterAnswer::Authorized { .. })) && !key.used {
            self.put_key(crate::rows::PreAuthKey { used: true, ..(*key).clone() });
        }
        Ok(answer)
    }

    /// An operator lets a waiting machine in.
    pub(crate) fn approve_registration(&mut self, id: AuthId, user: UserId, now: UnixTime) -> Result<Answer, Refusal> {
        let user = self.user(user)?;
        self.let_in(id, &user, LetIn { registered: Registered::Approved, approved: true, until: None }, now)
    }

    /// Makes a waiting machine the node of `user`, or of the tags that it asks for and that `user` may give.
    pub(crate) fn let_in(&mut self, id: AuthId, user: &User, how: LetIn, now: UnixTime) -> Result<Answer, Refusal> {
        let waiting = self.waiting(id, now)?;
        let tags = requested_tags(&waiting.request);
        let owner = if tags.is_empty() {
            Owner::User(user.id)
        } else {
            self.check_tags(user, &tags)?;
            Owner::Tags(tags)
        };
        let taken = self.state.registry.node_by_key(&waiting.node_key);
        if taken.is_some_and(|node| node.machine_key != waiting.machine) {
            return Err(RegisterRefusal::OtherMachine.into());
        }
        let admission = Admission {
            machine: waiting.machine,
            request: &waiting.request,
            owner,
            ephemeral: waiting.request.ephemeral,
            registered: how.registered,
            approved: how.approved,
            until: how.until,
        };
        let Answer::Register(RegisterAnswer::Authorized { node, .. }) = self.admit(admission, now)? else {
            return Err(Refusal::Conflict("this machine has registered otherwise meanwhile".to_owned()));
        };
        self.state.pending.settle(id, Verdict::Approved(node.id));
        self.events.push(Event::RegistrationSettled(id));
        Ok(Answer::Node(node))
    }

    /// Turns a waiting machine away. Whoever waits hears so, until the link's time is over.
    pub(crate) fn reject_registration(&mut self, id: AuthId, now: UnixTime) -> Result<Answer, Refusal> {
        let waiting = self.waiting(id, now)?;
        self.note(now, "", format!("rejected machine {}", waiting.machine.short()));
        self.state.pending.settle(id, Verdict::Rejected);
        self.events.push(Event::RegistrationSettled(id));
        Ok(Answer::Done)
    }

    /// The machine that waits may not be let in as it asks: whoever waits hears why.
    pub(crate) fn refuse_registration(&mut self, id: AuthId, refusal: RegisterRefusal, now: UnixTime) -> Answer {
        self.note(now, "", refusal.to_string());
        self.state.pending.settle(id, Verdict::Refused(refusal.clone()));
        self.events.push(Event::RegistrationSettled(id));
        Answer::Refused(refusal)
    }

    fn waiting(&self, id: AuthId, now: UnixTime) -> Result<Waiting, Refusal> {
        let waiting = self.state.pending.get(id, now).filter(|waiting| waiting.verdict.is_none());
        waiting.cloned().ok_or_else(|| Refusal::NotFound { kind: "registration", name: id.to_string() })
    }

    /// Makes or updates the node. The caller has made sure that it may.
    fn admit(&mut self, admission: Admission<'_>, now: UnixTime) -> Result<Answer, Refusal> {
        let Admission { machine, request, owner, ephemeral, registered, approved, until } = admission;
        let node_key = request.node_key;
        let existing = self.same_node(machine, &owner, node_key, request.old_node_key);
        let holder = self.state.registry.node_by_key(&node_key);
        if let Some(holder) = holder
            && existing.as_ref().is_none_or(|existing| existing.id != holder.id)
        {
            // The machine holds this node key for another person's node, which stays. Two nodes must not share a key,
            // so the client is told to make one; it comes back at once with the same join key.
            return Ok(self.key_expired(Arc::clone(holder)));
        }
        // Whom an operator has kept out, only an operator lets in: not even anew, as another person's device.
        let is_kept_out = match &existing {
            Some(old) => old.kept_out,
            None => self.state.registry.nodes_of_machine(&machine).any(|node| node.kept_out),
        };
        let kept_out = is_kept_out && registered != Registered::Approved;
        let approved = !kept_out && (approved || !self.settings.device_approval);
        // A time in the past is no wish for a shorter one, and must not hide that the sign-in ends.
        let asked = request.expiry.filter(|asked| *asked > now);
        let expiry = self.fresh_expiry(&owner, sooner(asked, until), now);
        let hostname = cut(request.hostinfo.as_ref().map_or("", |hostinfo| hostinfo.hostname.as_str()), 255).to_owned();
        let node = match existing {
            Some(old) => {
                let name = self.following_name(&old, &hostname);
                // Whoever was let in before need not be let in again.
                let approved = approved || old.approved && !kept_out;
                if approved && !old.approved {
                    self.events.push(Event::NodeApproved(old.id));
                }
                if old.expired {
                    self.events.push(Event::NodeRenewed(old.id));
                }
                if old.owner != owner {
                    self.events.push(Event::NodeOwnerChanged(old.id));
                }
                let node = Node {
                    node_key,
                    owner,
                    name,
                    hostname,
                    expiry,
                    expired: false,
                    logged_out: false,
                    ephemeral,
                    registered,
                    approved,
                    kept_out,
                    ..Node::clone(&old)
                };
                self.note(now, format!("node:{}", node.id.0), describe(&node, "came back as"));
                let node = self.put_node(node);
                self.events.push(Event::NodeRekeyed(Arc::clone(&node)));
                node
            }
            None => {
                let id = warren_wire::NodeId(self.count(|facts| next(&mut facts.next_node)));
                let (v4, pool) = self.take_v4_for(&owner)?;
                let node = Node {
                    id,
                    stable_id: warren_wire::StableId(id.0.to_string()),
                    machine_key: machine,
                    node_key,
                    owner,
                    name: self.free_name(&hostname),
                    name_origin: NameOrigin::Hostname,
                    hostname,
                    v4,
                    v6: self.take_v6()?,
                    created: now,
                    expiry,
                    expired: false,
                    logged_out: false,
                    ephemeral,
                    registered,
                    approved,
                    kept_out,
                    approved_routes: BTreeSet::new(),
                    hides_endpoints: false,
                    attributes: BTreeMap::new(),
                };
                self.note(now, format!("node:{}", node.id.0), describe(&node, "joined as") + pool);
                let node = self.put_node(node);
                self.events.push(Event::NodeAdded(Arc::clone(&node)));
                node
            }
        };
        self.outdate(machine, node_key);
        self.hear(&node, request, now);
        Ok(self.authorized(node))
    }

    /// Links that the machine asked for with other node keys are void, and whoever waits at one hears so.
    fn outdate(&mut self, machine: MachinePublic, node_key: NodePublic) {
        let old = self.state.pending.outdate(machine, node_key);
        self.events.extend(old.into_iter().map(Event::RegistrationSettled));
    }

    /// The node that this machine already is for this owner. For a person: their node on the machine, else a tagged
    /// one that returns. For tags: the node that held this key or the one before, else a tagged one.
    fn same_node(
        &self,
        machine: MachinePublic,
        owner: &Owner,
        key: NodePublic,
        old_key: Option<NodePublic>,
    ) -> Option<Arc<Node>> {
        let on_machine = || self.state.registry.nodes_of_machine(&machine);
        let held = |node: &&Arc<Node>| node.node_key == key || Some(node.node_key) == old_key;
        let tagged = |node: &&Arc<Node>| node.owner.tags().is_some();
        let found = match owner {
            Owner::User(_) => {
                on_machine().find(|node| node.owner == *owner).or_else(|| on_machine().find(|n| held(n) && tagged(n)))
            }
            Owner::Tags(_) => on_machine().find(held).or_else(|| on_machine().find(tagged)),
        };
        found.cloned()
    }

    /// When a key that is registered now expires: by the server's rule, or sooner if the machine asks for it.
    pub(crate) fn fresh_expiry(&self, owner: &Owner, asked: Option<UnixTime>, now: UnixTime) -> Option<UnixTime> {
        if owner.tags().is_some() {
            return None;
        }
        let by_rule = self.settings.key_lifetime.and_then(|lifetime| now.checked_add(lifetime));
        match (asked.filter(|asked| *asked > now), by_rule) {
            (Some(asked), Some(by_rule)) => Some(asked.min(by_rule)),
            (asked, by_rule) => asked.or(by_rule),
        }
    }

    /// For a new node of this owner, and what there is to note about it: where the policy has pools for it, the first of
    /// them that is not full gives the address. Where all are, any other is better than none.
    fn take_v4_for(&mut self, owner: &Owner) -> Result<(Option<std::net::Ipv4Addr>, &'static str), Refusal> {
        let pools = visibility::ip_pools(&self.state.policy, &self.state.registry, owner);
        if let Some(range) = &mut self.state.registry.v4
            && let Some(std::net::IpAddr::V4(v4)) = pools.iter().find_map(|pool| range.take_within(*pool))
        {
            return Ok((Some(v4), ""));
        }
        let note = if pools.is_empty() { "" } else { "; no address left in its ipPool within the server's range" };
        Ok((self.take_v4()?, note))
    }

    pub(crate) fn take_v4(&mut self) -> Result<Option<std::net::Ipv4Addr>, Refusal> {
        let Some(pool) = &mut self.state.registry.v4 else { return Ok(None) };
        match pool.take() {
            Some(std::net::IpAddr::V4(v4)) => Ok(Some(v4)),
            _ => Err(Refusal::NoAddress(pool.range())),
        }
    }

    pub(crate) fn take_v6(&mut self) -> Result<Option<std::net::Ipv6Addr>, Refusal> {
        let Some(pool) = &mut self.state.registry.v6 else { return Ok(None) };
        match pool.take() {
            Some(std::net::IpAddr::V6(v6)) => Ok(Some(v6)),
            _ => Err(Refusal::NoAddress(pool.range())),
        }
    }

    /// A new node's name.
    pub(crate) fn free_name(&self, hostname: &str) -> String {
        names::first_free(&names::from_hostname(hostname), |name| self.state.registry.is_name_taken(name))
    }

    /// A known node's name once its host is called `hostname`: the same, unless it follows and the host name now makes
    /// another. A machine that says nothing keeps what it has.
    pub(crate) fn following_name(&self, node: &Node, hostname: &str) -> String {
        let makes = names::from_hostname;
        if node.name_origin == NameOrigin::Chosen || hostname.is_empty() || makes(&node.hostname) == makes(hostname) {
            return node.name.clone();
        }
        names::first_free(&makes(hostname), |name| name != node.name && self.state.registry.is_name_taken(name))
    }

    /// Keeps what the machine says about itself: routes and services may not be said again soon (trap 30).
    fn hear(&mut self, node: &Arc<Node>, request: &RegisterRequest, now: UnixTime) {
        self.hear_without(node, request, BTreeSet::new(), now);
    }

    /// The same of one that does not get these tags that it asks for.
    fn hear_without(
        &mut self,
        node: &Arc<Node>,
        request: &RegisterRequest,
        refused_tags: BTreeSet<String>,
        now: UnixTime,
    ) {
        if let Some(hostinfo) = &request.hostinfo {
            let hostinfo = Arc::new(Hostinfo::clone(hostinfo));
            let announced = &hostinfo.routable_ips[..hostinfo.routable_ips.len().min(MOST_ROUTES)];
            let node = self.approve(Arc::clone(node), announced, now);
            // Its roles may be others now.
            self.approve_offered(&node, now);
            self.said.push(Said { node: node.id, hostinfo, capability: request.version, refused_tags });
        }
    }

    fn authorized(&self, node: Arc<Node>) -> Answer {
        let user = self.owner_of(&node);
        Answer::Register(RegisterAnswer::Authorized { node, user })
    }

    fn key_expired(&self, node: Arc<Node>) -> Answer {
        let user = self.owner_of(&node);
        Answer::Register(RegisterAnswer::KeyExpired { node: Some(node), user })
    }

    fn may_own_tag(&self, user: &User, tag: &str) -> bool {
        visibility::may_own_tag(&self.state.policy, &self.state.registry, user, tag)
    }

    fn owner_of(&self, node: &Node) -> Option<Arc<User>> {
        node.owner.user().and_then(|user| self.state.registry.user(user)).cloned()
    }
}

/// The earlier of two times, where there are any.
fn sooner(a: Option<UnixTime>, b: Option<UnixTime>) -> Option<UnixTime> {
    a.into_iter().chain(b).min()
}

fn describe(node: &Node, verb: &str) -> String {
    match &node.owner {
        Owner::User(user) => format!("{verb} {} of user:{}", node.name, user.0),
        Owner::Tags(tags) => {
            format!("{verb} {} with {}", node.name, tags.iter().cloned().collect::<Vec<_>>().join(","))
        }
    }
}

fn requested_tags(request: &RegisterRequest) -> BTreeSet<String> {
    request.hostinfo.iter().flat_map(|hostinfo| hostinfo.request_tags.iter().cloned()).collect()
}

pub(crate) fn next(counter: &mut i64) -> i64 {
    let id = *counter;
    *counter += 1;
    id
}

/// Tags as they may stand in a log: a few, and nothing but what can be in a tag.
pub fn shown_tags(tags: &BTreeSet<String>) -> String {
    crate::tags::shown(tags)
}

/// The longest beginning of at most `most` bytes that ends between characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
