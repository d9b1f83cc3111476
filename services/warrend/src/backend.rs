//! LocalAPI's questions put to the running node. What is asked and changed together happens in one turn of the node.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use warren_api::local::{
    LoginProfile, MaskedPrefs, NetcheckReport, Notify, PingKind, PingResult, Prefs, StartOptions, Status, WhoIs,
};
use warren_driver::{AskError, DialError, DriverHandle, Stopped};
use warren_node::{Command, CommandError, Node, Notice, ProfileId, ProfileSummary, Reply};
use warren_wire::{AuthKey, RelayMap};

use crate::local_api::{Backend, Refusal, Stream, WhoIsQuestion};
use crate::{metrics, shapes};

/// Who pings says by hanging up how long to wait; nobody waits longer than this.
const PING_PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions of one ping that has no answer yet: the first may be lost while relays and paths are still being
/// connected, and nobody should wait until it is given up.
const PING_AGAIN: Duration = Duration::from_secs(1);

/// A whole look at the network has rounds of STUN and of HTTPS, a few seconds each.
const NETCHECK_PATIENCE: Duration = Duration::from_secs(20);

/// News that a watcher may be behind.
const WATCHER_ROOM: usize = 256;

/// The running node behind LocalAPI.
#[derive(Clone)]
pub struct NodeBackend {
    handle: DriverHandle,
    version: String,
    /// What LocalAPI was sent and is no request.
    refused: Arc<AtomicU64>,
}

impl NodeBackend {
    /// `version` is this program's own, stated beside that of the contract.
    pub fn new(handle: DriverHandle, version: String) -> Self {
        NodeBackend { handle, version, refused: Arc::default() }
    }

    async fn command(&self, command: Command) -> Result<Reply, Refusal> {
        self.handle.command(command).await.map_err(ask_refusal)
    }

    /// Makes the edit that `change` derives from the preferences of now, with nothing in between.
    async fn change(
        &self,
        change: impl FnOnce(&warren_node::Prefs) -> Result<Command, Refusal> + Send + 'static,
    ) -> Result<warren_node::Prefs, Refusal> {
        let done = self.handle.ask(move |node, now, wall| {
            let command = change(node.prefs())?;
            match node.handle_command(command, now, wall) {
                Ok(Reply::Prefs(prefs)) => Ok(*prefs),
                Ok(_) => Ok(node.prefs().clone()),
                Err(error) => Err(command_refusal(&error)),
            }
        });
        done.await.map_err(stopped)?
    }
}

impl Backend for NodeBackend {
    async fn status(&self, with_peers: bool) -> Result<Status, Refusal> {
        let (version, socks5) = (self.version.clone(), self.handle.socks5());
        let asked = self.handle.ask(move |node, now, wall| {
            let regions = shapes::region_codes(node.net_map().map(|map| &map.relay_map));
            shapes::status(&node.status(now, wall), &regions, with_peers)
        });
        let mut status = asked.await.map_err(stopped)?;
        status.health.extend(self.handle.facts().await.map_err(stopped)?.host_problem);
        status.warren_version = version;
        status.warren_socks5 = socks5.map(|address| address.to_string());
        Ok(status)
    }

    async fn prefs(&self) -> Result<Prefs, Refusal> {
        let asked = self.handle.ask(|node, now, wall| {
            let active = match node.handle_command(Command::ListProfiles, now, wall) {
                Ok(Reply::Profiles(all)) => all.into_iter().find(|profile| profile.is_active),
                _ => None,
            };
            Prefs { config: active.as_ref().and_then(shapes::config), ..shapes::prefs(node.prefs()) }
        });
        asked.await.map_err(stopped)
    }

    async fn edit_prefs(&self, edit: MaskedPrefs) -> Result<Prefs, Refusal> {
        let after = self.change(move |current| {
            let wanted =
                edit.apply_to(&shapes::prefs(current)).map_err(|error| Refusal::new(400, error.to_string()))?;
            Ok(Command::EditPrefs(shapes::edit(wanted, current, None).map_err(|text| Refusal::new(400, text))?))
        });
        Ok(shapes::prefs(&after.await?))
    }

    async fn check_prefs(&self, prefs: Prefs) -> Result<Option<String>, Refusal> {
        let checked = self.change(move |current| {
            Ok(Command::CheckPrefs(shapes::edit(prefs, current, None).map_err(|text| Refusal::new(400, text))?))
        });
        match checked.await {
            Ok(_) => Ok(None),
            Err(refusal) if refusal.status == 400 => Ok(Some(refusal.text)),
            Err(refusal) => Err(refusal),
        }
    }

    async fn start(&self, options: StartOptions) -> Result<(), Refusal> {
        let StartOptions { update_prefs, auth_key, warren_server_key } = options;
        let server_key = Some(warren_server_key).filter(|key| !key.is_empty());
        let started = self.change(move |current| {
            let wanted = update_prefs.unwrap_or_else(|| shapes::prefs(current));
            let prefs = shapes::edit(wanted, current, server_key).map_err(|text| Refusal::new(400, text))?;
            let auth_key = Some(auth_key).filter(|key| !key.trim().is_empty()).map(|key| AuthKey::new(&key));
            Ok(Command::Start { auth_key, prefs })
        });
        started.await.map(drop)
    }

    async fn login_interactive(&self) -> Result<(), Refusal> {
        self.command(Command::LoginInteractive).await.map(drop)
    }

    async fn logout(&self) -> Result<(), Refusal> {
        self.command(Command::Logout).await.map(drop)
    }

    async fn profiles(&self) -> Result<(Vec<LoginProfile>, LoginProfile), Refusal> {
        let Reply::Profiles(all) = self.command(Command::ListProfiles).await? else {
            return Err(no_answer("profiles"));
        };
        let shape = |profiles: &[ProfileSummary]| profiles.iter().map(shapes::profile).collect::<Vec<_>>();
        let (active, _): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|profile| profile.is_active);
        Ok((shape(&all), shape(&active).pop().unwrap_or_default()))
    }

    async fn new_profile(&self) -> Result<(), Refusal> {
        self.command(Command::NewProfile).await.map(drop)
    }

    async fn switch_profile(&self, id: String) -> Result<(), Refusal> {
        self.command(Command::SwitchProfile(ProfileId(id))).await.map(drop)
    }

    async fn delete_profile(&self, id: String) -> Result<(), Refusal> {
        self.command(Command::DeleteProfile(ProfileId(id))).await.map(drop)
    }

    async fn ping(&self, ip: IpAddr, kind: PingKind, size: usize) -> Result<PingResult, Refusal> {
        let kind = match kind {
            PingKind::Disco => warren_node::PingKind::Disco,
            PingKind::Tsmp => warren_node::PingKind::Tsmp,
            PingKind::Icmp => warren_node::PingKind::Icmp,
            PingKind::PeerApi => return Err(Refusal::new(501, "ping by peerapi is not built yet in this node")),
        };
        // News from before the question, so that the answer cannot be missed.
        let mut news = self.handle.watch().await.map_err(stopped)?;
        let give_up = Instant::now() + PING_PATIENCE;
        let mut asked = Vec::new();
        let result = loop {
            match self.command(Command::Ping { ip, kind, size }).await? {
                Reply::Pinged(result) => break result,
                Reply::Ping(number) if Instant::now() < give_up => asked.push(number),
                _ => return Err(no_answer("the ping")),
            }
            let answer = async {
                while let Some(notice) = news.recv().await {
                    match notice {
                        // One that was given up says nothing about the others.
                        Notice::Ping { number, result } if asked.contains(&number) && result.error.is_empty() => {
                            return Some(result);
                        }
                        _ => {}
                    }
                }
                None
            };
            match timeout(PING_AGAIN, answer).await {
                Ok(Some(result)) => break result,
                Ok(None) => return Err(no_answer("the ping")),
                Err(_) => {}
            }
        };
        let mut shape = shapes::ping(&result);
        if result.region.is_some() {
            shape.warren_why = self.handle.ask(move |node, now, _| why(node, ip, now)).await.map_err(stopped)?;
        }
        Ok(shape)
    }

    async fn whois(&self, who: WhoIsQuestion) -> Result<Option<WhoIs>, Refusal> {
        let found = match who {
            WhoIsQuestion::Address(address) => self.handle.whois(address).await,
            WhoIsQuestion::Key(key) => {
                let by_key = self.handle.ask(move |node, _, _| {
                    let map = node.net_map()?;
                    let all = std::iter::once(&map.self_node).chain(map.peers.values());
                    let address = all.into_iter().find(|one| one.key == key)?.addresses.first()?.addr();
                    node.whois((address, 0).into())
                });
                by_key.await
            }
        };
        Ok(found.map_err(stopped)?.map(shapes::who_is))
    }

    async fn derp_map(&self) -> Result<Option<RelayMap>, Refusal> {
        self.handle.ask(|node, _, _| node.net_map().map(|map| map.relay_map.clone())).await.map_err(stopped)
    }

    async fn netcheck(&self) -> Result<NetcheckReport, Refusal> {
        if self.derp_map().await?.is_none_or(|map| map.regions.is_empty()) {
            return Err(Refusal::new(
                409,
                "there is nothing to measure against: the relays are named by the network, and this node is in none yet",
            ));
        }
        let mut news = self.handle.watch().await.map_err(stopped)?;
        self.command(Command::CheckNetwork).await?;
        let checked = async {
            while let Some(notice) = news.recv().await {
                if notice == Notice::NetworkChecked {
                    return Some(());
                }
            }
            None
        };
        timeout(NETCHECK_PATIENCE, checked).await.ok().flatten().ok_or_else(|| no_answer("the measurement"))?;
        let report = self.handle.ask(|node, now, wall| {
            node.engine().paths().report().map(|report| shapes::netcheck(report, now, node.time(now, wall)))
        });
        report.await.map_err(stopped)?.ok_or_else(|| no_answer("the measurement"))
    }

    async fn counters(&self) -> Result<serde_json::Value, Refusal> {
        let counted = self.handle.ask(|node, _, _| shapes::Counted::of(node)).await.map_err(stopped)?;
        let driver = self.handle.facts().await.map_err(stopped)?;
        Ok(shapes::counters(&counted, &driver, self.refused.load(Ordering::Relaxed)))
    }

    async fn user_metrics(&self) -> Result<String, Refusal> {
        let asked = self.handle.ask(|node, now, wall| (node.status(now, wall), shapes::Counted::of(node)));
        let (status, counted) = asked.await.map_err(stopped)?;
        Ok(metrics::text(&status, &counted.engine))
    }

    fn note_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    async fn dial(&self, host: String, port: u16) -> Result<Box<dyn Stream>, Refusal> {
        match self.handle.dial(&host, port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(DialError::NoSuchHost) => Err(Refusal::new(502, format!("resolve failure: {host}: no such host"))),
            Err(error) => Err(Refusal::new(502, format!("dial failure: {host}:{port}: {error}"))),
        }
    }

    async fn watch(&self) -> mpsc::Receiver<Notify> {
        let (lines, receiver) = mpsc::channel(WATCHER_ROOM);
        // A node that has stopped has no news: the stream ends at once.
        if let Ok(news) = self.handle.watch().await {
            tokio::spawn(translate(self.handle.clone(), news, lines));
        }
        receiver
    }

    async fn operator(&self) -> Option<String> {
        let name = self.handle.ask(|node, _, _| node.prefs().operator_user.clone()).await.ok()?;
        Some(name).filter(|name| !name.is_empty())
    }
}

/// Carries news to one watcher until either end leaves, or the watcher is too far behind.
async fn translate(handle: DriverHandle, mut news: mpsc::Receiver<Notice>, lines: mpsc::Sender<Notify>) {
    loop {
        let notice = tokio::select! {
            notice = news.recv() => notice,
            () = lines.closed() => None,
        };
        let Some(notice) = notice else { return };
        let own = match notice {
            Notice::SelfChanged => {
                handle.ask(|node, _, _| node.net_map().map(|map| map.self_node.clone())).await.ok().flatten()
            }
            _ => None,
        };
        if let Some(line) = shapes::notify(notice, own)
            && lines.try_send(line).is_err()
        {
            return;
        }
    }
}

/// Why packets to `ip` take the way that they take.
fn why(node: &Node, ip: IpAddr, now: std::time::Instant) -> String {
    let peer = node.engine().peer_for(ip);
    peer.map(|peer| node.engine().paths().path_of(&peer, now).why).unwrap_or_default()
}

fn ask_refusal(error: AskError) -> Refusal {
    match error {
        AskError::Refused(error) => command_refusal(&error),
        AskError::Stopped(error) => stopped(error),
    }
}

fn command_refusal(error: &CommandError) -> Refusal {
    let status = match error {
        CommandError::Prefs(_) | CommandError::NoControlServer => 400,
        CommandError::NoSuchProfile => 404,
        CommandError::TooManyProfiles(_) => 409,
    };
    Refusal::new(status, error.to_string())
}

fn stopped(error: Stopped) -> Refusal {
    Refusal::new(503, error.to_string())
}

fn no_answer(what: &str) -> Refusal {
    Refusal::new(504, format!("{what} brought no answer in time"))
}
