//! What everybody is shown, what the database holds, and what must always be true.

use super::*;

impl Model {
    pub(super) fn is_online(&self, id: i64) -> bool {
        self.connected.contains(&id) || self.leaving.contains_key(&id)
    }

    pub(super) fn sees(&self, a: i64, b: i64) -> bool {
        let (one, other) = (&self.nodes[&a], &self.nodes[&b]);
        let may = |from: &Node, to: &Node| match (self.policy, &from.owner, &to.owner) {
            (None | Some(0 | 4), _, _) => true,
            (Some(2), Owner::Tags(from), Owner::Tags(to)) => from.contains("tag:a") && to.contains("tag:b"),
            (Some(3), Owner::User(_), Owner::Tags(_)) => true,
            (Some(ROLES), Owner::User(user), _) => self.is_admin(*user),
            _ => false,
        };
        // Whoever must log in again sees nobody; others see that it must.
        one.approved && !one.expired && other.approved && (may(one, other) || may(other, one))
    }

    /// Whoever owns the network is one, too.
    pub(super) fn is_admin(&self, user: i64) -> bool {
        self.users.get(&user).is_some_and(|user| ["owner", "admin"].contains(&user.role.as_str()))
    }

    /// The map that `id` must hold, in words.
    pub fn map_of(&self, id: i64) -> Vec<String> {
        let mut lines = vec![self.in_map(id, true)];
        let peers = self.nodes.keys().filter(|peer| **peer != id && self.sees(id, **peer));
        lines.extend(peers.map(|peer| self.in_map(*peer, false)));
        lines
    }

    pub(super) fn in_map(&self, id: i64, is_self: bool) -> String {
        let node = &self.nodes[&id];
        let said = self.said.get(&id);
        let owner = match &node.owner {
            Owner::User(user) => {
                let user = &self.users[user];
                if user.email.is_empty() { user.name.clone() } else { user.email.clone() }
            }
            Owner::Tags(tags) => tags.iter().cloned().collect::<Vec<_>>().join(","),
        };
        let endpoint = said.and_then(|said| said.endpoint).filter(|_| !is_self && !node.expired && !node.hidden);
        let online = is_self || self.is_online(id);
        // Who serves a network while nobody is there is a matter of what was before.
        let allows_all = matches!(self.policy, None | Some(0 | 4));
        let serves = node.approved && !node.expired && self.is_online(id) && (allows_all || is_self);
        let announced = said.map(|said| said.routes.as_slice()).unwrap_or_default();
        let contended = self.contended();
        let is_served =
            |route: &&Prefix| serves && node.routes.contains(route) && !contended.contains(&route.to_string());
        let routes: Vec<String> = announced.iter().filter(is_served).map(ToString::to_string).collect();
        format!(
            "{id} {} key {} {:?} of {owner}, expires {:?} {}, online {online}, at {endpoint:?}, serves {routes:?}",
            node.name, node.key, node.addresses, node.expiry, node.expired
        )
    }

    /// The database, in words.
    pub fn rows(&self) -> Vec<String> {
        let mut lines = vec![format!("made {:?}, policy {:?}", self.made, self.policy.map(|number| POLICIES[number]))];
        for (id, user) in &self.users {
            let (role, sign_in) = (user.role, &user.sign_in);
            lines.push(format!("user {id} {} {:?} {:?} {role} {sign_in:?}", user.identity, user.name, user.email));
        }
        for (id, node) in &self.nodes {
            lines.push(format!("node {id} {node:?}"));
        }
        for (id, key) in &self.keys {
            lines.push(format!("key {id} {:?}", Key { secret: String::new(), ..key.clone() }));
        }
        lines.extend(self.api_keys.iter().map(|(id, key)| key.line(*id)));
        lines
    }

    /// What must hold of any state, however it came about.
    pub fn check(&self) {
        assert!(self.users.values().filter(|user| user.role == UserRole::OWNER).count() <= 1, "two owners");
        let nodes: Vec<&Node> = self.nodes.values().collect();
        let count = nodes.len();
        let distinct = |of: BTreeSet<String>| assert_eq!(of.len(), count);
        distinct(nodes.iter().map(|node| node.name.clone()).collect());
        distinct(nodes.iter().map(|node| node.key.to_string()).collect());
        assert!(nodes.iter().all(|node| node.created <= self.now));
        let addresses: BTreeSet<IpAddr> = nodes.iter().flat_map(|node| node.addresses.iter().copied()).collect();
        assert_eq!(addresses.len(), 2 * count, "every node has two addresses of its own");
    }
}
