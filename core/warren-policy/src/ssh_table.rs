//! The section `ssh` over one tailnet: what each node is told, and who gets in.
//!
//! Rules become sets of nodes once. What a node is told is then put together from the rules whose sets it is in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use warren_wire::UserId;
use warren_wire::ssh::SshRule as WireRule;
use warren_wire::ssh::{SshAction, SshPolicy, SshPrincipal, SshRecorderFailureAction};

use crate::logins::Logins;
use crate::node_set::NodeSet;
use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::sources::Resolver;
use crate::ssh::{CheckPeriod, SshRule, Verb};
use crate::tailnet::Tailnet;

/// Where recorders listen.
const RECORDER_PORT: u16 = 80;

/// Every rule over one tailnet: those that check before those that only accept, for the stricter one decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct SshTable {
    entries: Vec<Entry>,
    /// By place; empty if there are no rules.
    nodes: Vec<Facts>,
}

#[derive(Clone, Debug)]
struct Facts {
    owner: Option<UserId>,
    is_tagged: bool,
    addrs: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
struct Entry {
    verb: Verb,
    logins: Logins,
    accept_env: Vec<String>,
    recorders: Vec<String>,
    enforces_recorder: bool,
    /// Sources that belong to people, by owner.
    people: BTreeMap<UserId, Vec<usize>>,
    /// Whom `localpart:` makes what.
    local_parts: BTreeMap<UserId, String>,
    /// Sources with tags, each as often as it has tags: so the field's service counts them out.
    tagged: Vec<usize>,
    from: NodeSet,
    /// Destinations other than `autogroup:self`; `None` if there are none.
    to: Option<NodeSet>,
    to_selves: bool,
}

/// Whether a node is a person's, and for each rule: whether it is a source, a destination, and its owner's local part is the
/// user asked about. Rules treat nodes of one kind alike, but for who belongs to whom.
type Kind = (bool, Vec<(bool, bool, bool)>);

/// Sources that one wire rule names, and the person whose they are if they are one person's.
type Part = (Vec<usize>, Option<UserId>);

/// What a session is to be let in with once its person was checked.
#[derive(Clone, PartialEq, Debug)]
pub struct SshCheck {
    /// For how long an earlier check suffices.
    pub period: CheckPeriod,
    /// What to answer after it.
    pub accept: SshAction,
}

impl SshTable {
    pub(crate) fn new(
        policy: &Policy,
        rules: &[SshRule],
        tailnet: &Tailnet<'_>,
        resolver: &mut Resolver<'_>,
    ) -> SshTable {
        if rules.is_empty() {
            return SshTable::default();
        }
        let entry = |rule: &SshRule| Entry::new(policy, rule, tailnet, resolver);
        let mut entries: Vec<Entry> = rules.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.verb == Verb::Accept);
        let facts = tailnet.nodes.iter().map(|node| Facts {
            owner: node.owner(),
            is_tagged: !node.tags.is_empty(),
            addrs: node.addrs.clone(),
        });
        SshTable { entries, nodes: facts.collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the node at `place` is told. `server_url`: by which nodes reach the control server.
    pub(crate) fn policy_for(&self, place: usize, server_url: &str) -> SshPolicy {
        let mut rules = Vec::new();
        for entry in &self.entries {
            for (sources, owner) in entry.parts(place, self.owner(place)) {
                let addrs = sources.iter().filter_map(|source| self.nodes.get(*source)).flat_map(|facts| &facts.addrs);
                let principals: Vec<SshPrincipal> =
                    addrs.map(|addr| SshPrincipal { node_ip: addr.to_string(), ..SshPrincipal::default() }).collect();
                let rule = |ssh_users| WireRule {
                    principals: principals.clone(),
                    ssh_users,
                    action: Some(entry.action(server_url)),
                    accept_env: entry.accept_env.clone(),
                    ..WireRule::default()
                };
                rules.push(rule(entry.logins.common.clone()));
                if let Some(local) = owner.and_then(|owner| entry.local_parts.get(&owner)) {
                    rules.push(rule(BTreeMap::from([(local.clone(), local.clone())])));
                }
            }
        }
        SshPolicy { rules }
    }

    /// What happens to a session of `from` that asks to be `user` on `to`, by places. `None`: no rule, so it is refused.
    pub(crate) fn verb(&self, from: usize, to: usize, user: &str) -> Option<Verb> {
        self.matching(from, to, user).map(|entry| entry.verb)
    }

    /// With what such a session is let in, checked or not.
    pub(crate) fn accept(&self, from: usize, to: usize, user: &str) -> Option<SshAction> {
        self.matching(from, to, user).map(Entry::accept)
    }

    /// How such a session is checked, if it is.
    pub(crate) fn check(&self, from: usize, to: usize, user: &str) -> Option<SshCheck> {
        let entry = self.matching(from, to, user)?;
        match entry.verb {
            Verb::Accept => None,
            Verb::Check(period) => Some(SshCheck { period, accept: entry.accept() }),
        }
    }

    /// Pairs of a source and a destination such that what holds for all of them holds for every source with every
    /// destination, where `user` is who one asks to be. Their number does not grow with that of the people or nodes.
    pub(crate) fn pairs(&self, sources: &NodeSet, destinations: &NodeSet, user: &str) -> Vec<(usize, usize)> {
        let (from, to) = (self.representatives(sources, user), self.representatives(destinations, user));
        from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))).collect()
    }

    /// The same for sources and destinations that are one person's, or one node.
    pub(crate) fn own_pairs(&self, sources: &NodeSet, destinations: &NodeSet, user: &str) -> Vec<(usize, usize)> {
        let mut seen = BTreeSet::new();
        let mut people: BTreeMap<Option<UserId>, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        let mut pairs = Vec::new();
        for (place, facts) in self.nodes.iter().enumerate() {
            let (is_from, is_to) = (sources.contains(place), destinations.contains(place));
            if is_from && is_to && seen.insert((self.kind(place, user), None)) {
                pairs.push((place, place));
            }
            let own = people.entry(facts.owner).or_default();
            own.0.extend(is_from.then_some(place));
            own.1.extend(is_to.then_some(place));
        }
        people.remove(&None);
        for (from, to) in people.values() {
            let kinds = |places: &[usize]| -> BTreeMap<Kind, usize> {
                places.iter().map(|place| (self.kind(*place, user), *place)).collect()
            };
            let to = kinds(to);
            for (from_kind, from) in kinds(from) {
                for (to_kind, to) in &to {
                    if seen.insert((from_kind.clone(), Some(to_kind.clone()))) {
                        pairs.push((from, *to));
                    }
                }
            }
        }
        pairs
    }

    /// Two nodes of each kind at most, of different people if there are such: what rules say of a node of one person and
    /// a node of another depends on their kinds alone.
    fn representatives(&self, nodes: &NodeSet, user: &str) -> Vec<usize> {
        let mut kinds: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
        for place in nodes.clone().into_iter() {
            let known = kinds.entry(self.kind(place, user)).or_default();
            let owner = self.owner(place);
            let is_another = |known: &usize| owner.is_none() || self.owner(*known) != owner;
            if known.len() < 2 && known.iter().all(is_another) {
                known.push(place);
            }
        }
        kinds.into_values().flatten().collect()
    }

    fn kind(&self, place: usize, user: &str) -> Kind {
        let owner = self.owner(place);
        let facts = |entry: &Entry| {
            let is_to = entry.to.as_ref().is_some_and(|to| to.contains(place));
            (entry.from.contains(place), is_to, entry.is_local_part(owner, user))
        };
        (owner.is_some(), self.entries.iter().map(facts).collect())
    }

    /// The first rule that lets `from` in. What `policy_for` puts into lists, asked of one pair.
    fn matching(&self, from: usize, to: usize, user: &str) -> Option<&Entry> {
        let (from_owner, to_owner) = (self.owner(from), self.owner(to));
        let is_one_person = from_owner.is_some() && from_owner == to_owner;
        let is_known = from_owner.is_some() || self.nodes.get(from).is_some_and(|facts| facts.is_tagged);
        self.entries.iter().filter(|entry| is_known && entry.from.contains(from)).find(|entry| {
            let as_person = || entry.logins.allows(user) || entry.is_local_part(from_owner, user);
            if entry.to_selves && is_one_person && as_person() {
                return true;
            }
            let Some(to_nodes) = &entry.to else { return false };
            let is_personal = entry.logins.is_personal();
            if to_nodes.contains(to) {
                return if is_personal { as_person() } else { entry.logins.allows(user) };
            }
            // As in `parts`: a source is told its own part of a rule whose users depend on the person.
            is_personal
                && entry.from.contains(to)
                && if to_owner.is_some() {
                    is_one_person && as_person()
                } else {
                    from == to && entry.logins.allows(user)
                }
        })
    }

    fn owner(&self, place: usize) -> Option<UserId> {
        self.nodes.get(place).and_then(|facts| facts.owner)
    }
}

impl Entry {
    fn new(policy: &Policy, rule: &SshRule, tailnet: &Tailnet<'_>, resolver: &mut Resolver<'_>) -> Entry {
        let mut entry = Entry {
            verb: rule.verb,
            logins: rule.logins.clone(),
            accept_env: rule.accept_env.clone(),
            recorders: recorders(policy, rule, tailnet),
            enforces_recorder: rule.enforces_recorder,
            people: BTreeMap::new(),
            local_parts: BTreeMap::new(),
            tagged: Vec::new(),
            from: resolver.nodes_meeting(&rule.sources, &rule.postures),
            to: None,
            to_selves: rule.destinations.contains(&Selector::Autogroup(Autogroup::Selves)),
        };
        for (place, node) in tailnet.nodes.iter().enumerate().filter(|(place, _)| entry.from.contains(*place)) {
            match node.owner() {
                Some(owner) => entry.people.entry(owner).or_default().push(place),
                None => entry.tagged.extend(node.tags.iter().map(|_| place)),
            }
        }
        let people = tailnet.users.iter().filter(|user| entry.people.contains_key(&user.id));
        entry.local_parts =
            people.filter_map(|user| Some((user.id, entry.logins.local_part(&user.email)?.to_owned()))).collect();
        let others: Vec<Selector> = rule.destinations.iter().filter(|word| !is_selves(word)).cloned().collect();
        if !others.is_empty() {
            entry.to = Some(resolver.nodes_meeting(&others, &[]));
        }
        entry
    }

    /// Whether `localpart:` makes this person that local user.
    fn is_local_part(&self, person: Option<UserId>, user: &str) -> bool {
        person.and_then(|person| self.local_parts.get(&person)).is_some_and(|local| local == user)
    }

    /// The sources that the node at `place` is told of, each part a rule of its own.
    fn parts(&self, place: usize, owner: Option<UserId>) -> Vec<Part> {
        let own = || owner.and_then(|owner| Some((self.people.get(&owner)?.clone(), Some(owner))));
        let mut parts: Vec<Part> = Vec::new();
        if self.to_selves {
            parts.extend(own());
        }
        let Some(to) = &self.to else { return parts };
        let is_personal = self.logins.is_personal();
        if !to.contains(place) {
            // As the field does: where users depend on the person, every source is told its own part of the rule too.
            if is_personal && self.from.contains(place) {
                parts.extend(own().or_else(|| self.tagged.contains(&place).then(|| (vec![place], None))));
            }
            return parts;
        }
        if is_personal {
            parts.extend(self.people.iter().map(|(owner, places)| (places.clone(), Some(*owner))));
            parts.push((self.tagged.clone(), None));
        } else {
            parts.push((self.people.values().flatten().chain(&self.tagged).copied().collect(), None));
        }
        parts.retain(|(sources, _)| !sources.is_empty());
        parts
    }

    fn action(&self, server_url: &str) -> SshAction {
        match self.verb {
            Verb::Accept => self.accept(),
            // The client fills in the variables and asks there, inside its connection to the control server.
            Verb::Check(_) => SshAction {
                hold_and_delegate: format!(
                    "{}/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER",
                    server_url.trim_end_matches('/')
                ),
                ..SshAction::default()
            },
        }
    }

    fn accept(&self) -> SshAction {
        let message = "This session must be recorded, and no recorder could be reached.";
        let refuses = self.enforces_recorder && !self.recorders.is_empty();
        SshAction {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            recorders: self.recorders.clone(),
            on_recording_failure: refuses.then(|| SshRecorderFailureAction {
                reject_session_with_message: message.to_owned(),
                terminate_session_with_message: message.to_owned(),
                ..SshRecorderFailureAction::default()
            }),
            ..SshAction::default()
        }
    }
}

fn is_selves(word: &Selector) -> bool {
    *word == Selector::Autogroup(Autogroup::Selves)
}

/// The sockets of the nodes, hosts and addresses that record, in the order of the policy.
fn recorders(policy: &Policy, rule: &SshRule, tailnet: &Tailnet<'_>) -> Vec<String> {
    let mut addrs: Vec<IpAddr> = Vec::new();
    for recorder in &rule.recorders {
        match recorder {
            Selector::Tag(tag) => {
                let nodes = tailnet.nodes.iter().filter(|node| node.tags.contains(tag));
                addrs.extend(nodes.flat_map(|node| &node.addrs));
            }
            Selector::Address(prefix) => addrs.push(prefix.addr()),
            Selector::Host(name) => addrs.extend(policy.hosts.get(name).map(warren_ip::Prefix::addr)),
            _ => {}
        }
    }
    addrs.into_iter().map(|addr| SocketAddr::new(addr, RECORDER_PORT).to_string()).collect()
}
