//! Who may do without asking an operator: tags that users own, routes and services that approve themselves, and where a
//! new node gets its address from.
//! user-surface.md §4.7.

use warren_ip::Prefix;

use crate::diagnostics::Complaints;
use crate::document::{self, Document, Names};
use crate::people::Directory;
use crate::policy::Policy;
use crate::raw::Raw;
use crate::rewrites;
use crate::selector::{Autogroup, Selector, parse_address};
use crate::tailnet::{PolicyNode, PolicyUser};

/// The section `autoApprovers`.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct AutoApprovers {
    pub(crate) routes: Vec<(Prefix, Vec<Selector>)>,
    pub(crate) exit_node: Vec<Selector>,
    /// By a service, or by a tag that hosts of any service may have.
    pub(crate) services: Vec<(Selector, Vec<Selector>)>,
}

impl AutoApprovers {
    pub(crate) fn read(policy: &Policy, document: &Document, complaints: &mut Complaints) -> AutoApprovers {
        let path = "autoApprovers";
        let mut approvers = AutoApprovers::default();
        let section = document.section(path).and_then(|value| document::object(value, Names::Fields, path, complaints));
        for field in section.unwrap_or_default() {
            let value = &field.value;
            match field.name.to_ascii_lowercase().as_str() {
                "exitnode" => approvers.exit_node = read_list(policy, value, "autoApprovers.exitNode", complaints),
                "routes" => {
                    let path = "autoApprovers.routes";
                    for field in document::object(value, Names::Given, path, complaints).unwrap_or_default() {
                        let path = format!("{path}[{:?}]", field.name);
                        let list = read_list(policy, &field.value, &path, complaints);
                        match parse_address(&field.name) {
                            Some(prefix) => approvers.routes.push((prefix, list)),
                            None => complaints.add(field.at, &path, "must be a network, as in 10.0.0.0/8"),
                        }
                    }
                }
                "services" => {
                    let path = "autoApprovers.services";
                    for field in document::object(value, Names::Given, path, complaints).unwrap_or_default() {
                        let path = format!("{path}[{:?}]", field.name);
                        let list = read_list(policy, &field.value, &path, complaints);
                        match Selector::parse(&field.name) {
                            Ok(name @ Selector::Service(_)) => approvers.services.push((name, list)),
                            Ok(name @ Selector::Tag(_)) => match policy.check_defined(&name) {
                                Ok(()) => approvers.services.push((name, list)),
                                Err(error) => complaints.add(field.at, &path, error),
                            },
                            _ => complaints.add(field.at, &path, "must be a service or a tag, as in svc:web"),
                        }
                    }
                }
                _ => complaints.add(
                    field.at,
                    path,
                    rewrites::unknown_field(&field.name, &["routes", "exitNode", "services"]),
                ),
            }
        }
        approvers
    }
}

fn read_list(policy: &Policy, value: &Raw, path: &str, complaints: &mut Complaints) -> Vec<Selector> {
    let mut approvers = Vec::new();
    for (at, word) in document::texts(value, path, complaints) {
        let checked = match Selector::parse(word) {
            Ok(
                selector @ (Selector::User(_)
                | Selector::Domain(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::Autogroup(Autogroup::Member | Autogroup::Tagged | Autogroup::Role(_))),
            ) => policy.check_defined(&selector).map(|()| selector),
            _ => Err(format!("invalid auto approver format: {word:?}")),
        };
        match checked {
            Ok(selector) => approvers.push(selector),
            Err(error) => complaints.add(at, path, error),
        }
    }
    approvers
}

impl Policy {
    /// Whether `user` may put `tag` on a node. A tag may own a tag: whoever owns the one then owns the other.
    pub fn owns_tag(&self, users: &[PolicyUser], user: &PolicyUser, tag: &str) -> bool {
        let directory = Directory::new(users);
        let mut asked = vec![tag];
        let mut at = 0;
        // Each tag is asked once, so owners in a circle end.
        while let Some(tag) = asked.get(at).copied() {
            at += 1;
            for owner in self.tag_owners.get(tag).into_iter().flatten() {
                match owner {
                    Selector::Tag(next) if !asked.contains(&next.as_str()) => asked.push(next),
                    Selector::Tag(_) => {}
                    _ if directory.is_named(self, owner, user.id) => return true,
                    _ => {}
                }
            }
        }
        false
    }

    /// Whether this network behind `node` is approved without an operator: an entry of `routes` approves what it contains.
    /// Default routes are the exit nodes' alone: an entry for `0.0.0.0/0` approves every network but those.
    pub fn approves_route(&self, users: &[PolicyUser], node: &PolicyNode, route: Prefix) -> bool {
        let is_approver = |selector: &Selector| names_node(self, users, node, selector);
        if route.is_default_route() {
            return self.approvers.exit_node.iter().any(is_approver);
        }
        let containing = self.approvers.routes.iter().filter(|(prefix, _)| prefix.contains_prefix(&route));
        containing.flat_map(|(_, approvers)| approvers).any(is_approver)
    }

    /// Whether `node` may offer a service, named with its `svc:`, without an operator. `service_tags` are the tags that
    /// the service itself carries, for entries that name a tag in place of a service.
    pub fn approves_service(
        &self,
        users: &[PolicyUser],
        node: &PolicyNode,
        service: &str,
        service_tags: &[String],
    ) -> bool {
        let is_meant = |name: &Selector| match name {
            Selector::Service(name) => name == service,
            Selector::Tag(tag) => service_tags.contains(tag),
            _ => false,
        };
        let meant = self.approvers.services.iter().filter(|(name, _)| is_meant(name));
        meant.flat_map(|(_, approvers)| approvers).any(|selector| names_node(self, users, node, selector))
    }
}

impl Policy {
    /// Where a node that is about to join gets its IPv4 address from (`ipPool`), in the order of the policy; empty: from
    /// anywhere. Of `node` its owner and its tags count: it has no addresses yet.
    pub fn ip_pools(&self, users: &[PolicyUser], node: &PolicyNode) -> Vec<Prefix> {
        let is_meant = |target: &Selector| *target == Selector::Everyone || names_node(self, users, node, target);
        let entries = self.extras.node_attrs.iter().filter(|entry| !entry.ip_pool.is_empty());
        let meant = entries.filter(|entry| entry.targets.iter().any(is_meant));
        meant.flat_map(|entry| entry.ip_pool.iter().copied()).collect()
    }
}

fn names_node(policy: &Policy, users: &[PolicyUser], node: &PolicyNode, selector: &Selector) -> bool {
    match selector {
        Selector::Tag(tag) => node.tags.contains(tag),
        Selector::Autogroup(Autogroup::Member) => node.tags.is_empty(),
        Selector::Autogroup(Autogroup::Tagged) => !node.tags.is_empty(),
        _ => {
            let directory = Directory::new(users);
            node.owner().is_some_and(|owner| directory.is_named(policy, selector, owner))
        }
    }
}
