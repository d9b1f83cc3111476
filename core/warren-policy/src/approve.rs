//! Who may do without asking an operator: tags that users own, routes that approve themselves. user-surface.md §4.7.

use warren_ip::Prefix;

use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyNode, PolicyUser, find_users};

/// The section `autoApprovers`.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct AutoApprovers {
    pub(crate) routes: Vec<(Prefix, Vec<Selector>)>,
    pub(crate) exit_node: Vec<Selector>,
}

impl Policy {
    /// Whether `user` may put `tag` on a node. A tag may own a tag: whoever owns the one then owns the other.
    pub fn owns_tag(&self, users: &[PolicyUser], user: &PolicyUser, tag: &str) -> bool {
        let is_user = |token: &str| matches!(find_users(users, token)[..], [one] if one.id == user.id);
        let mut asked = vec![tag];
        let mut at = 0;
        // Each tag is asked once, so owners in a circle end.
        while let Some(tag) = asked.get(at).copied() {
            at += 1;
            for owner in self.tag_owners.get(tag).into_iter().flatten() {
                match owner {
                    Selector::User(token) if is_user(token) => return true,
                    Selector::Group(name) if self.members(name).any(is_user) => return true,
                    Selector::Autogroup(Autogroup::Member) => return true,
                    Selector::Tag(next) if !asked.contains(&next.as_str()) => asked.push(next),
                    _ => {}
                }
            }
        }
        false
    }

    /// Whether this network behind `node` is approved without an operator. Default routes are the exit nodes' alone: a
    /// `routes` entry for `0.0.0.0/0` approves neither them nor, by containing them, anything else.
    pub fn approves_route(&self, users: &[PolicyUser], node: &PolicyNode, route: Prefix) -> bool {
        let is_approver = |selector: &Selector| names_node(self, users, node, selector);
        if route.is_default_route() {
            return self.approvers.exit_node.iter().any(is_approver);
        }
        let containing = self.approvers.routes.iter().filter(|(prefix, _)| prefix.contains_prefix(&route));
        containing
            .filter(|(prefix, _)| !prefix.is_default_route())
            .any(|(_, approvers)| approvers.iter().any(is_approver))
    }
}

fn names_node(policy: &Policy, users: &[PolicyUser], node: &PolicyNode, selector: &Selector) -> bool {
    let is_owner = |token: &str| matches!(find_users(users, token)[..], [one] if node.owner() == Some(one.id));
    match selector {
        Selector::User(token) => is_owner(token),
        Selector::Group(name) => policy.members(name).any(is_owner),
        Selector::Tag(tag) => node.tags.contains(tag),
        Selector::Autogroup(Autogroup::Member) => node.tags.is_empty(),
        Selector::Autogroup(Autogroup::Tagged) => !node.tags.is_empty(),
        Selector::Autogroup(_) | Selector::Everyone | Selector::Host(_) | Selector::Address(_) => false,
    }
}
