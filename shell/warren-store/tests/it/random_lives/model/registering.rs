//! How machines get in: by keys, by links, and what they are called then.

use super::*;

impl Model {
    pub(super) fn register(&mut self, request: &Register) -> Verdict {
        let now = self.now;
        let known = self.nodes.iter().find(|(_, node)| node.key == request.key).map(|(id, node)| (*id, node.clone()));
        if known.as_ref().is_some_and(|(_, node)| node.machine != request.machine) {
            return refuse("node exists with a different machine key");
        }
        if let (Some((id, node)), Some(true)) = (&known, request.expiry.map(|expiry| expiry <= now)) {
            if node.ephemeral && !node.kept_out {
                self.remove(*id);
                return Ok("key expired".into());
            }
            end(self.nodes.get_mut(id).expect("known"), now);
            return Ok(format!("key expired {id}"));
        }
        // A key that is gone says nothing about a node that is in.
        let has_key = |secret: &String| self.keys.values().any(|key| key.secret == *secret);
        let comes_back = match (&known, &request.auth) {
            (Some(_), None) => true,
            (Some((_, node)), Some(secret)) => !has_key(secret) && !is_expired(node, now),
            (None, _) => false,
        };
        if let (Some((id, node)), true) = (&known, comes_back) {
            if request.expiry.is_some() {
                return refuse("extending key is not allowed");
            }
            if is_expired(node, now) {
                return Ok(format!("key expired {id}"));
            }
            let before = self.said_before.get(id).cloned().unwrap_or_default();
            let is_judged = request.tags != before.tags || !before.refused.is_disjoint(&request.tags);
            let refused: BTreeSet<String> = match &node.owner {
                _ if !is_judged => BTreeSet::new(),
                Owner::Tags(has) => &request.tags - has,
                Owner::User(user) => self.not_to_give(*user, &request.tags),
            };
            if !refused.is_empty() {
                // Said once; whoever repeats it all the same is let in without, and stays so.
                if request.tags != before.tags {
                    let told = self.told.insert(*id, (request.tags.clone(), now));
                    let was_told =
                        |(tags, since): &(BTreeSet<String>, u64)| *tags == request.tags && now < since + TOLD;
                    let Some(told) = told.filter(was_told) else { return Ok("tags refused".into()) };
                    self.told.insert(*id, told);
                }
                self.hear(*id, request);
                self.said.entry(*id).or_default().refused = refused;
                return Ok(format!("in {id}"));
            }
            if !request.tags.is_empty() && is_judged && matches!(node.owner, Owner::User(_)) {
                self.give_tags(*id, &request.tags);
            }
            self.hear(*id, request);
            return Ok(format!("in {id}"));
        }
        if let Some(follow) = request.follow {
            let found = self.link_of(follow, request.machine, request.key);
            if let Some(standing) = found.and_then(standing) {
                return standing;
            }
        }
        let Some(auth) = &request.auth else {
            self.new_link = Some(request.clone());
            return Ok("visit".into());
        };
        let Some((key_id, key)) = self.keys.iter().find(|(_, key)| key.secret == *auth) else {
            return refuse("invalid pre auth key");
        };
        let (key_id, key) = (*key_id, key.clone());
        let owner = match key.user {
            Some(user) if key.tags.is_empty() => Owner::User(user),
            _ => Owner::Tags(key.tags.clone()),
        };
        if let Some((id, node)) = &known {
            let is_same = match (&node.owner, &owner) {
                (Owner::Tags(_), Owner::Tags(_)) => true,
                (a, b) => a == b,
            };
            if is_same && !is_expired(node, now) {
                self.hear(*id, request);
                return Ok(format!("in {id}"));
            }
        }
        if key.revoked {
            return refuse("authkey revoked");
        }
        if key.expiry.is_some_and(|expiry| expiry <= now) {
            return refuse("authkey expired");
        }
        if key.used && !key.reusable {
            return refuse("authkey already used");
        }
        if let Some(user) = &key.user
            && self.users[user].sign_in.as_ref().is_some_and(|(_, _, over)| *over)
        {
            return refuse("authkey revoked");
        }
        if !request.tags.is_empty() {
            return refuse_tags(&request.tags);
        }
        let ephemeral = key.ephemeral || request.ephemeral;
        let verdict = self.admit(request, owner, ephemeral, &format!("key {key_id}"), key.preapproved, None);
        if verdict.starts_with("in ") {
            self.keys.get_mut(&key_id).expect("found").used = true;
        }
        Ok(verdict)
    }

    pub(super) fn is_open(&self, id: AuthId) -> bool {
        self.waiting.get(&id).is_some_and(|w| w.verdict.is_none() && self.now < w.since + LINK_LIFETIME)
    }

    pub(super) fn let_in(&mut self, id: AuthId, user: i64, how: &str, approved: bool, until: Option<u64>) -> Verdict {
        if !self.is_open(id) {
            return no_such("registration", id);
        }
        let request = self.waiting[&id].request.clone();
        let owner = if request.tags.is_empty() {
            Owner::User(user)
        } else {
            let refused = self.not_to_give(user, &request.tags);
            if !refused.is_empty() {
                return refuse_tags(&refused);
            }
            Owner::Tags(request.tags.clone())
        };
        if self.nodes.values().any(|node| node.key == request.key && node.machine != request.machine) {
            return refuse("node exists with a different machine key");
        }
        let until = until.map(|after| self.now + after);
        let verdict = self.admit(&request, owner, request.ephemeral, how, approved, until);
        let Some(node) = verdict.strip_prefix("in ").and_then(|id| id.parse().ok()) else {
            return refuse("this machine has registered otherwise meanwhile");
        };
        self.waiting.get_mut(&id).expect("open").verdict = Some(Settled::Approved);
        node_answer(node)
    }

    pub(super) fn admit(
        &mut self,
        request: &Register,
        owner: Owner,
        ephemeral: bool,
        registered: &str,
        approved: bool,
        until: Option<u64>,
    ) -> String {
        let now = self.now;
        let here = |node: &&(i64, Node)| node.1.machine == request.machine;
        let all: Vec<(i64, Node)> = self.nodes.iter().map(|(id, node)| (*id, node.clone())).collect();
        let of_machine: Vec<&(i64, Node)> = all.iter().filter(here).collect();
        let held = |node: &Node| node.key == request.key || Some(node.key) == request.old_key;
        let tagged = |node: &Node| matches!(node.owner, Owner::Tags(_));
        let first = |wish: &dyn Fn(&Node) -> bool| of_machine.iter().find(|(_, node)| wish(node)).map(|found| found.0);
        let existing = match &owner {
            Owner::User(_) => first(&|node| node.owner == owner).or_else(|| first(&|node| held(node) && tagged(node))),
            Owner::Tags(_) => first(&held).or_else(|| first(&tagged)),
        };
        if let Some((holder, _)) = all.iter().find(|(_, node)| node.key == request.key)
            && Some(*holder) != existing
        {
            return format!("key expired {holder}");
        }
        let is_kept_out = match existing {
            Some(id) => self.nodes[&id].kept_out,
            None => of_machine.iter().any(|(_, node)| node.kept_out),
        };
        let kept_out = is_kept_out && registered != "approved";
        let approved = !kept_out && (approved || !self.device_approval);
        let by_rule = match &owner {
            Owner::Tags(_) => None,
            Owner::User(_) => Some(now + KEY_LIFETIME),
        };
        // Whatever a machine asks for, it is never longer than the rule's and the sign-in's time.
        let asked = request.expiry.filter(|asked| *asked > now);
        let expiry = by_rule.map(|by_rule| asked.into_iter().chain(until).fold(by_rule, u64::min));
        let hostname = HOSTS[request.host].0.to_owned();
        let id = match existing {
            Some(id) => {
                let old = self.nodes[&id].clone();
                let name = self.following_name(id, &old, request.host);
                let node = self.nodes.get_mut(&id).expect("existing");
                node.key = request.key;
                (node.owner, node.name, node.hostname) = (owner, name, hostname);
                (node.expiry, node.expired, node.ephemeral) = (expiry, false, ephemeral);
                node.approved = approved || old.approved && !kept_out;
                (node.registered, node.logged_out, node.kept_out) = (registered.to_owned(), false, kept_out);
                id
            }
            None => {
                self.made[1] += 1;
                let node = Node {
                    machine: request.machine,
                    key: request.key,
                    owner,
                    name: self.free_name(HOSTS[request.host].1, 0),
                    chosen: false,
                    hostname,
                    addresses: Vec::new(),
                    created: now,
                    expiry,
                    expired: false,
                    logged_out: false,
                    ephemeral,
                    approved,
                    kept_out,
                    registered: registered.to_owned(),
                    routes: BTreeSet::new(),
                    hidden: false,
                };
                self.nodes.insert(self.made[1], node);
                self.made[1]
            }
        };
        if ephemeral && !self.connected.contains(&id) {
            self.away.insert(id, now + GRACE + EPHEMERAL_TIMEOUT);
        }
        self.outdate(request.machine, request.key);
        self.hear(id, request);
        format!("in {id}")
    }

    /// A machine waits with its last key only.
    pub(super) fn outdate(&mut self, machine: u8, key: u8) {
        self.waiting.retain(|_, w| w.verdict.is_some() || w.request.machine != machine || w.request.key == key);
    }

    pub(super) fn free_name(&self, base: &str, own: i64) -> String {
        let is_free = |name: &String| !self.nodes.iter().any(|(id, node)| *id != own && node.name == *name);
        let numbered = (1..).map(|number| format!("{base}-{number}"));
        std::iter::once(base.to_owned()).chain(numbered).find(is_free).expect("numbers do not end")
    }

    pub(super) fn following_name(&self, id: i64, node: &Node, host: usize) -> String {
        let makes = |hostname: &str| HOSTS.iter().find(|(said, _)| *said == hostname).expect("of the table").1;
        let says_nothing = HOSTS[host].0.is_empty();
        if node.chosen || says_nothing || makes(&node.hostname) == HOSTS[host].1 {
            return node.name.clone();
        }
        self.free_name(HOSTS[host].1, id)
    }

    pub(super) fn give_tags(&mut self, id: i64, tags: &BTreeSet<String>) {
        let owner = Owner::Tags(tags.clone());
        let node = self.nodes.get_mut(&id).expect("looked up before");
        if node.owner != owner {
            (node.owner, node.expiry, node.expired, node.logged_out) = (owner, None, false, false);
            self.approve_announced(id);
        }
    }

    pub(super) fn move_node(&mut self, id: i64, user: i64) -> Verdict {
        let Some(node) = self.nodes.get(&id) else { return no_such("node", id) };
        let Some(person) = self.users.get(&user) else { return no_such("user", user) };
        let owner = Owner::User(user);
        if node.owner == owner {
            return node_answer(id);
        }
        let same = |(_, other): &(&i64, &Node)| other.machine == node.machine && other.owner == owner;
        if let Some((_, other)) = self.nodes.iter().find(same) {
            return Err(format!("{} has a node on the same machine already: {}", person.name, other.name));
        }
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("there");
        // Whoever was put out stays out, with the time at which it was.
        if matches!(node.owner, Owner::Tags(_)) && !is_expired(node, now) {
            node.expiry = Some(now + KEY_LIFETIME);
        }
        node.owner = owner;
        self.approve_announced(id);
        node_answer(id)
    }

    /// Which of these tags a person may not give.
    pub(super) fn not_to_give(&self, user: i64, tags: &BTreeSet<String>) -> BTreeSet<String> {
        // Whoever owns the owner of a tag may give that tag, too.
        let own: &[&str] = match self.policy {
            Some(2) => &["tag:a", "tag:b"],
            Some(3 | 4) => &["tag:a"],
            Some(ROLES) if self.is_admin(user) => &["tag:a"],
            _ => &[],
        };
        let may = |tag: &&String| self.users.contains_key(&user) && own.contains(&tag.as_str());
        tags.iter().filter(|tag| !may(tag)).cloned().collect()
    }

    pub(super) fn link_of(&self, id: AuthId, machine: u8, key: u8) -> Option<&Waiting> {
        let is_theirs = |waiting: &&Waiting| (waiting.request.machine, waiting.request.key) == (machine, key);
        self.waiting.get(&id).filter(|waiting| self.now < waiting.since + LINK_LIFETIME).filter(is_theirs)
    }

    pub(super) fn hear(&mut self, id: i64, request: &Register) {
        self.approve(id, &request.routes.clone());
        let endpoint = self.said.get(&id).and_then(|said| said.endpoint);
        self.said.insert(
            id,
            Said { routes: request.routes.clone(), tags: request.tags.clone(), endpoint, ..Said::default() },
        );
    }

    pub(super) fn approve_announced(&mut self, id: i64) {
        let routes = self.said_before.get(&id).map(|said| said.routes.clone()).unwrap_or_default();
        self.approve(id, &routes);
    }

    pub(super) fn approve(&mut self, id: i64, routes: &[Prefix]) {
        if let Some(node) = self.nodes.get_mut(&id)
            && self.policy == Some(4)
            && matches!(&node.owner, Owner::Tags(tags) if tags.contains("tag:a"))
        {
            node.routes.extend(routes.iter().copied());
        }
    }
}

pub(super) fn refuse_tags(tags: &BTreeSet<String>) -> Verdict {
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    Err(format!("requested tags [{}] are invalid or not permitted", tags.join(" ")))
}

/// What whoever waits for a link hears, if it says anything now.
pub(super) fn standing(waiting: &Waiting) -> Option<Verdict> {
    match &waiting.verdict {
        None => Some(Ok("wait".into())),
        Some(Settled::Refused(why)) => Some(Err(why.clone())),
        Some(Settled::Approved) => None,
    }
}
