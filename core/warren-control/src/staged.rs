//! The overlay on which waiting commands are decided, one after the other, before one commit.
//!
//! ```text
//! begin(&control) → decide, decide, decide → finish → Batch → (store commits it) → control.apply(batch) → answers leave
//! ```
//!
//! The second command sees what the first took: addresses, names, one-off keys. Nothing outside sees either of them
//! before [`crate::Control::apply`], and that comes after the commit; a commit that went wrong is a batch dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use warren_crypto::{Random, UnixTime};
use warren_ip::source_of;
use warren_policy::Policy;
use warren_wire::{CapabilityVersion, Hostinfo, NodeId};

use crate::command::{Actor, Answer, Command, Refusal, What};
use crate::control::Control;
use crate::event::Event;
use crate::pending::Pending;
use crate::presence::Present;
use crate::register::cut;
use crate::registry::Registry;
use crate::roles::UserRole;
use crate::rows::{ApiKey, ApiKeyId, AuditLine, KeyId, Node, PreAuthKey, Revision, RowChange, Service, SignIn, User};
use crate::settings::Settings;
use crate::table::Table;
use crate::tags::RefusedTags;

/// See the module.
#[derive(Debug)]
pub struct Staged {
    pub(crate) base: Revision,
    pub(crate) settings: Arc<Settings>,
    pub(crate) state: Draft,
    /// Who is connected, as of the beginning.
    pub(crate) presence: Table<NodeId, Arc<Present>>,
    pub(crate) rows: Vec<RowChange>,
    pub(crate) audit: Vec<AuditLine>,
    pub(crate) events: Vec<Event>,
    pub(crate) said: Vec<Said>,
    /// Who asks now; for the audit line.
    actor: Option<(Actor, &'static str)>,
}

/// What a refused command must leave as it was. Copies share, so keeping one to go back to is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) registry: Registry,
    pub(crate) pending: Pending,
    pub(crate) refused_tags: RefusedTags,
    /// The policy as read.
    pub(crate) policy: Arc<Policy>,
}

/// What a registering machine said about itself, for [`crate::Presence`].
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) node: NodeId,
    pub(crate) hostinfo: Arc<Hostinfo>,
    pub(crate) capability: CapabilityVersion,
    /// Of the tags that it asks for, those that were refused just now.
    pub(crate) refused_tags: BTreeSet<String>,
}

/// Decided and not yet true: what the store commits, and what becomes the state afterwards.
#[derive(Debug)]
pub struct Batch {
    /// Of the state that this was decided on.
    pub base: Revision,
    /// Of the state after it; equal to `base` if no row changed.
    pub revision: Revision,
    /// At most one change a row.
    pub rows: Vec<RowChange>,
    /// To be committed in the same transaction.
    pub audit: Vec<AuditLine>,
    /// What happened, in order.
    pub events: Vec<Event>,
    pub(crate) state: Draft,
    pub(crate) said: Vec<Said>,
}

impl Batch {
    /// Whether there is anything to commit. A batch without need not wait for the disk.
    pub fn needs_commit(&self) -> bool {
        !self.rows.is_empty() || !self.audit.is_empty()
    }
}

impl Staged {
    /// An overlay on what `control` holds now.
    pub fn begin(control: &Control) -> Self {
        Self {
            base: control.registry().revision(),
            settings: Arc::clone(control.settings()),
            state: control.draft(),
            presence: control.presence().known(),
            rows: Vec::new(),
            audit: Vec::new(),
            events: Vec::new(),
            said: Vec::new(),
            actor: None,
        }
    }

    /// Decides one command on top of those before it. `random` names new keys and waiting registrations.
    ///
    /// # Errors
    /// The refusal, which may be answered at once; the overlay is as before.
    pub fn decide(&mut self, command: Command, now: UnixTime, random: &mut Random) -> Result<Answer, Refusal> {
        let before = self.state.clone();
        let lengths = (self.rows.len(), self.audit.len(), self.events.len(), self.said.len());
        if let Actor::ApiKey { prefix, .. } = &command.actor {
            // It was good when the request began; what ended it may lie in between, or in this very batch.
            let key = self.state.registry.api_key_by_prefix(prefix);
            if key.is_none_or(|key| key.expiry <= now) {
                return Err(Refusal::Conflict(format!("the API key {prefix} has ended meanwhile")));
            }
        }
        self.actor = Some((command.actor, command.what.action()));
        let answer = self.decide_what(command.what, now, random);
        if answer.is_err() {
            self.state = before;
            self.rows.truncate(lengths.0);
            self.audit.truncate(lengths.1);
            self.events.truncate(lengths.2);
            self.said.truncate(lengths.3);
        }
        answer
    }

    fn decide_what(&mut self, what: What, now: UnixTime, random: &mut Random) -> Result<Answer, Refusal> {
        match what {
            What::Register { machine, request } => self.register(machine, &request, now, random),
            What::FollowUp { machine, node_key, id } => self.ask_after(machine, node_key, id, now),
            What::ApproveRegistration { id, user } => self.approve_registration(id, user, now),
            What::RejectRegistration { id } => self.reject_registration(id, now),
            What::Enrol { id, person, refresh, until } => self.enrol(id, *person, refresh, until, now),
            What::RefreshPerson { user, person, refresh, asked } => {
                self.refresh_person(*person, refresh, user, &asked, now)
            }
            What::EndSignIn { user, reason, asked } => self.end_sign_in(user, &reason, &asked, now),
            What::ApproveNode { node, approved } => self.approve_node(node, approved, now),
            What::ExpireNode { node, at } => self.expire_node(node, at, now),
            What::DisableExpiry { node } => self.disable_expiry(node, now),
            What::RenameNode { node, name } => self.rename_node(node, name, now),
            What::DeleteNode { node } => self.delete_node(node, now),
            What::SetTags { node, tags } => self.set_tags(node, tags, now),
            What::MoveNode { node, user } => self.move_node(node, user, now),
            What::HideEndpoints { node, hide } => self.hide_endpoints(node, hide, now),
            What::SetAttributes { node, changes, comment } => self.set_attributes(node, changes, &comment, now),
            What::SetRoutes { node, routes } => self.set_routes(node, routes, now),
            What::CreateUser { name, display_name, email, picture_url } => {
                self.create_user(User {
                    id: warren_wire::UserId(0), // given there
                    issuer: crate::rows::LOCAL_ISSUER.to_owned(),
                    subject: String::new(),
                    name,
                    self_named: false,
                    display_name,
                    email,
                    picture_url,
                    role: UserRole::Member,
                    created: now,
                })
            }
            What::RenameUser { user, name } => self.rename_user(user, name, now),
            What::SetRole { user, role } => self.set_role(user, role, now),
            What::DeleteUser { user, with_nodes } => self.delete_user(user, with_nodes, now),
            What::CreateKey { user, tags, reusable, ephemeral, preapproved, expiry } => {
                let wish = crate::operator_keys::KeyWish { user, tags, reusable, ephemeral, preapproved, expiry };
                self.create_key(wish, now, random)
            }
            What::ExpireKey { key } => self.expire_key(key, now),
            What::DeleteKey { key } => self.delete_key(key, now),
            What::CreateApiKey { scopes, expiry } => self.create_api_key(scopes, expiry, now, random),
            What::ExpireApiKey { key } => self.expire_api_key(key, now),
            What::DeleteApiKey { key } => self.delete_api_key(key, now),
            What::SeeApiKey { key } => self.see_api_key(key, now),
            What::Note { node, detail, .. } => {
                let node = self.node(node)?;
                self.note(now, format!("node:{}", node.id.0), cut(&detail, 255));
                Ok(Answer::Done)
            }
            What::CreateService { name, wish } => self.create_service(&name, wish, now),
            What::ChangeService { service, change } => self.change_service(service, change, now),
            What::DeleteService { service } => self.delete_service(service, now),
            What::ApproveHost { service, node, approved } => self.approve_host(service, node, approved, now),
            What::ReplacePolicy { text } => self.replace_policy(text, now),
            What::FollowHostname { node, hostname } => self.follow_hostname(node, &hostname, now),
            What::ApproveAnnounced { node } => self.approve_announced(node, now),
            What::BackfillAddresses => self.backfill_addresses(now),
            What::ExpireDue => self.expire_due(now),
            What::RemoveAway { node } => self.remove_away(node, now),
        }
    }

    /// The registry with all that was granted so far.
    pub fn registry(&self) -> &Registry {
        &self.state.registry
    }

    /// Ends the overlay: what to commit, and what to apply afterwards.
    pub fn finish(mut self) -> Batch {
        // The last change of a row is the one that counts.
        let rows: BTreeMap<_, _> = self.rows.drain(..).map(|change| (change.id(), change)).collect();
        let rows: Vec<RowChange> = rows.into_values().collect();
        let revision = if rows.is_empty() { self.base } else { Revision(self.base.0 + 1) };
        self.state.registry.revision = revision;
        #[cfg(debug_assertions)]
        self.state.registry.check_invariants();
        Batch {
            base: self.base,
            revision,
            rows,
            audit: self.audit,
            events: self.events,
            state: self.state,
            said: self.said,
        }
    }

    pub(crate) fn put_node(&mut self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        self.state.registry.put_node(Arc::clone(&node));
        self.rows.push(RowChange::PutNode(Arc::clone(&node)));
        node
    }

    pub(crate) fn put_user(&mut self, user: User) -> Arc<User> {
        let user = Arc::new(user);
        self.state.registry.put_user(Arc::clone(&user));
        self.rows.push(RowChange::PutUser(Arc::clone(&user)));
        user
    }

    pub(crate) fn put_sign_in(&mut self, sign_in: SignIn) {
        let sign_in = Arc::new(sign_in);
        self.state.registry.put_sign_in(Arc::clone(&sign_in));
        self.rows.push(RowChange::PutSignIn(sign_in));
    }

    pub(crate) fn put_key(&mut self, key: PreAuthKey) -> Arc<PreAuthKey> {
        let key = Arc::new(key);
        self.state.registry.put_key(Arc::clone(&key));
        self.rows.push(RowChange::PutKey(Arc::clone(&key)));
        self.events.push(Event::KeyChanged(key.id));
        key
    }

    pub(crate) fn remove_key(&mut self, id: KeyId) {
        self.state.registry.remove_key(id);
        self.rows.push(RowChange::DeleteKey(id));
        self.events.push(Event::KeyChanged(id));
    }

    pub(crate) fn put_api_key(&mut self, key: ApiKey) -> Arc<ApiKey> {
        let key = Arc::new(key);
        self.state.registry.put_api_key(Arc::clone(&key));
        self.rows.push(RowChange::PutApiKey(Arc::clone(&key)));
        key
    }

    pub(crate) fn remove_api_key(&mut self, id: ApiKeyId) {
        self.state.registry.remove_api_key(id);
        self.rows.push(RowChange::DeleteApiKey(id));
    }

    pub(crate) fn put_service(&mut self, service: Service) -> Arc<Service> {
        let before = self.state.registry.service(service.id).map(|before| before.approved.clone()).unwrap_or_default();
        let service = Arc::new(service);
        self.state.registry.put_service(Arc::clone(&service));
        self.rows.push(RowChange::PutService(Arc::clone(&service)));
        let hosts = before.union(&service.approved).copied().collect();
        self.events.push(Event::ServiceChanged { service: service.id, hosts });
        service
    }

    pub(crate) fn remove_service(&mut self, service: &Service) {
        self.state.registry.remove_service(service.id);
        self.rows.push(RowChange::DeleteService(service.id));
        let hosts = service.approved.iter().copied().collect();
        self.events.push(Event::ServiceChanged { service: service.id, hosts });
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) {
        let hosted: Vec<Arc<Service>> =
            self.state.registry.services().filter(|service| service.approved.contains(&id)).cloned().collect();
        for service in hosted {
            let mut approved = service.approved.clone();
            approved.remove(&id);
            self.put_service(Service { approved, ..Service::clone(&service) });
        }
        self.state.registry.remove_node(id);
        self.rows.push(RowChange::DeleteNode(id));
        self.events.push(Event::NodeRemoved(id));
    }

    /// Changes one counter; the rest stay.
    pub(crate) fn count(&mut self, change: impl FnOnce(&mut crate::rows::ServerFacts) -> i64) -> i64 {
        let id = change(&mut self.state.registry.facts);
        self.rows.push(RowChange::PutFacts(self.state.registry.facts));
        id
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<Arc<Node>, Refusal> {
        let missing = || Refusal::NotFound { kind: "node", name: id.0.to_string() };
        self.state.registry.node(id).cloned().ok_or_else(missing)
    }

    /// Who asks now.
    pub(crate) fn asking(&self) -> Option<&Actor> {
        self.actor.as_ref().map(|(actor, _)| actor)
    }

    /// Where the machine that asks now comes from.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        match &self.actor {
            Some((Actor::Machine { from, .. }, _)) => from.map(source_of),
            _ => None,
        }
    }

    /// Writes the audit line of the command that is being decided.
    pub(crate) fn note(&mut self, now: UnixTime, target: impl Into<String>, detail: impl Into<String>) {
        let Some((actor, action)) = &self.actor else { return };
        self.audit.push(AuditLine {
            at: now,
            actor: actor.to_string(),
            action,
            target: target.into(),
            detail: detail.into(),
        });
    }
}
