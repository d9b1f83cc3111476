//! All the clients, and what every one of them should hold.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use warren_api::admin::{Client as Admin, CreateKey, CreateUser};
use warren_crypto::Random;

use crate::client::{Client, Place, Seat};
use crate::shelf::Shelf;

/// Clients that dial and register at a time: fewer than a listener allows one address before they ask for anything.
const AT_ONCE: usize = 400;

/// Between two looks at what the clients hold.
const LOOK: Duration = Duration::from_millis(1);

/// How many, and who sees whom.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub nodes: usize,
    /// How many others each node sees; `None`: all.
    pub visible: Option<usize>,
    /// Changes of one node's endpoints that are timed.
    pub moves: usize,
    /// Nodes that leave, and whose return is timed.
    pub returns: usize,
    /// Changes of the policy that are timed.
    pub policies: usize,
    /// For how long anything may take.
    pub patience: Duration,
}

/// See the module.
pub struct Crowd {
    plan: Plan,
    admin: Admin,
    clients: Vec<Arc<Client>>,
    following: JoinSet<Result<()>>,
    random: Random,
}

/// What was sent to one node, in the mean.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub bytes: f64,
    pub whole_maps: f64,
    pub deltas: f64,
}

impl Crowd {
    pub fn new(plan: Plan, place: &Place, admin: Admin) -> Self {
        let shelf = Arc::<Shelf>::default();
        let clients = (0..plan.nodes).map(|number| Arc::new(Client::new(place, number, &shelf))).collect();
        Self { plan, admin, clients, following: JoinSet::new(), random: Random::from_seed([7; 32]) }
    }

    /// Groups of nodes that see each other. Nodes are dealt round, so that neighbours by number are not neighbours.
    fn groups(&self) -> usize {
        self.plan.visible.map_or(1, |visible| (self.plan.nodes / (visible + 1)).max(1))
    }

    fn group_of(&self, number: usize) -> usize {
        number % self.groups()
    }

    fn members(&self, group: usize) -> impl Iterator<Item = &Arc<Client>> {
        self.clients.iter().skip(group).step_by(self.groups())
    }

    /// The policy under which the groups see each other, on ports up to `last`.
    fn policy(&self, last: u16) -> String {
        if self.plan.visible.is_none() {
            let rule = format!(r#"{{ "action": "accept", "src": ["*"], "dst": ["*:1-{last}"] }}"#);
            return format!(r#"{{ "acls": [{rule}] }}"#);
        }
        let groups = || 0..self.groups();
        let owners: Vec<String> = groups().map(|group| format!(r#""tag:g{group}": ["crowd@"]"#)).collect();
        let rule = |group: usize| {
            format!(r#"{{ "action": "accept", "src": ["tag:g{group}"], "dst": ["tag:g{group}:1-{last}"] }}"#)
        };
        let rules: Vec<String> = groups().map(rule).collect();
        format!(r#"{{ "tagOwners": {{ {} }}, "acls": [ {} ] }}"#, owners.join(", "), rules.join(", "))
    }

    async fn set_policy(&self, last: u16) -> Result<()> {
        self.admin.set_policy(&self.policy(last)).await.context("set the policy")?;
        Ok(())
    }

    /// Users, policy and keys: one for each group.
    pub async fn prepare(&self) -> Result<Vec<String>> {
        self.admin.create_user(&CreateUser { name: "crowd".to_owned(), ..CreateUser::default() }).await?;
        if self.plan.visible.is_some() {
            self.set_policy(65_000).await?;
        }
        let mut keys = Vec::new();
        for group in 0..self.groups() {
            let acl_tags = self.plan.visible.map(|_| format!("tag:g{group}")).into_iter().collect();
            let wish = CreateKey { user: "crowd".to_owned(), reusable: true, acl_tags, ..CreateKey::default() };
            keys.push(self.admin.create_key(&wish).await?.key);
        }
        Ok(keys)
    }

    /// Everybody comes at once; returns when everybody holds everybody else.
    pub async fn join(&mut self, keys: &[String]) -> Result<Duration> {
        let began = Instant::now();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        for (number, client) in self.clients.iter().enumerate() {
            let key = keys.get(number % self.groups()).context("a key for each group")?.clone();
            let (client, room) = (Arc::clone(client), Arc::clone(&room));
            self.following.spawn(async move {
                let place = room.acquire_owned().await?;
                client.dial().await.with_context(|| format!("client {number} dials"))?;
                client.register(&key).await.with_context(|| format!("client {number} registers"))?;
                let body = client.open().await.with_context(|| format!("client {number} asks for its map"))?;
                drop(place);
                client.follow(body).await.with_context(|| format!("client {number} follows its map"))
            });
        }
        self.until("everybody holds everybody else", |crowd| crowd.lacking() == 0).await?;
        Ok(began.elapsed())
    }

    /// How many clients hold something else than they should.
    pub fn lacking(&self) -> usize {
        (0..self.groups()).map(|group| self.lacking_in(group)).sum()
    }

    /// The same of one group.
    fn lacking_in(&self, group: usize) -> usize {
        let all: u64 = self.members(group).fold(0, |sum, client| sum.wrapping_add(client.seat.model.load(Relaxed)));
        let count = self.members(group).count();
        let lacks = |client: &&Arc<Client>| {
            let seat = &client.seat;
            let is_whole = seat.id.load(Relaxed) != 0 && seat.peers.load(Relaxed) + 1 == count;
            let is_right = seat.sum.load(Relaxed) == all.wrapping_sub(seat.model.load(Relaxed));
            !(is_whole && is_right || seat.is_away.load(Relaxed))
        };
        self.members(group).filter(lacks).count()
    }

    /// Waits until it is so; says how many lack what if it does not come to be.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !is_so(self) {
            if let Some(ended) = self.following.try_join_next() {
                ended.context("a client panicked")??;
                bail!("{what}: a client's map stream ended");
            }
            if began.elapsed() > self.plan.patience {
                bail!("{what}: not after {:?}: {} clients hold something else", self.plan.patience, self.lacking());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// One node after the other moves; each time everybody who sees it is waited for.
    pub async fn moves(&mut self) -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        for turn in 1..=self.plan.moves {
            let number = self.random.below(self.plan.nodes as u64) as usize;
            let began = Instant::now();
            let client = Arc::clone(&self.clients[number]);
            client.move_to(turn).await?;
            let group = self.group_of(number);
            self.until("everybody has heard of a move", |crowd| crowd.lacking_in(group) == 0).await?;
            took.push(began.elapsed());
        }
        Ok(took)
    }

    /// Some nodes leave; when everybody has heard of it (after a grace) they come back one by one.
    pub async fn returns(&mut self) -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        let leaving: Vec<usize> = (0..self.plan.returns).map(|at| at * self.plan.nodes / self.plan.returns).collect();
        for number in &leaving {
            self.clients[*number].hang_up();
            self.clients[*number].set_there(false);
        }
        for _ in &leaving {
            let ended = tokio::time::timeout(self.plan.patience, self.following.join_next()).await;
            ended.context("a client that hung up is not done")?.context("no clients")???;
        }
        self.until("everybody has heard of absences", |crowd| crowd.lacking() == 0).await?;
        for number in leaving {
            let client = Arc::clone(&self.clients[number]);
            client.set_there(true);
            let began = Instant::now();
            let body = client.open().await?;
            self.following.spawn(async move { client.follow(body).await });
            let group = self.group_of(number);
            self.until("everybody has heard of a return", |crowd| crowd.lacking_in(group) == 0).await?;
            took.push(began.elapsed());
        }
        Ok(took)
    }

    /// Policies that change what comes in at every node and nobody's sight.
    pub async fn policies(&mut self) -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        for turn in 0..self.plan.policies {
            let last = 40_000 + turn as u16;
            let began = Instant::now();
            self.set_policy(last).await?;
            let has_it = |crowd: &Self| {
                crowd.clients.iter().all(|client| client.seat.port.load(Relaxed) == usize::from(last))
                    && crowd.lacking() == 0
            };
            self.until("everybody has a new filter", has_it).await?;
            took.push(began.elapsed());
        }
        Ok(took)
    }

    /// Of all that was sent: bytes, whole maps and deltas a node.
    pub fn sent(&self) -> Sent {
        let nodes = self.clients.len().max(1) as f64;
        let mean = |of: fn(&Seat) -> f64| self.clients.iter().map(|client| of(&client.seat)).sum::<f64>() / nodes;
        Sent {
            bytes: mean(|seat| seat.bytes.load(Relaxed) as f64),
            whole_maps: mean(|seat| seat.whole_maps.load(Relaxed) as f64),
            deltas: mean(|seat| seat.deltas.load(Relaxed) as f64),
        }
    }
}
