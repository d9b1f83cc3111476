//! One simulated node: keys, one Noise channel with HTTP/2 in it, registration by key, one map stream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Mutex;
use url::Url;
use warren_crypto::{DiscoPublic, MachinePublic, MachineSecret, NodePublic, NodeSecret, Random, UnixTime};
use warren_io::{DialOptions, dial_control};
use warren_wire::{
    AuthKey, CapabilityVersion, Hostinfo, MapRequest, NetInfo, Node, RegionId, RegisterAuth, RegisterRequest,
    RegisterResponse, framing,
};

use crate::map::{Kind, Map};
use crate::shelf::{Shelf, hash_of};

/// Longer than any one answer takes while thousands wait for theirs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Clients behind one address: what a listener allows a large office, and the ports that one address has.
const CLIENTS_PER_ADDRESS: usize = 1000;

/// Where the server is.
#[derive(Clone, Debug)]
pub struct Place {
    pub url: Url,
    pub key: MachinePublic,
}

/// What a client holds and was told, for whoever compares.
#[derive(Debug, Default)]
pub struct Seat {
    /// Its number at the server; 0 before it knows.
    pub id: AtomicI64,
    /// The hash of its record as its peers should hold it: what it was told of itself, and what it said since.
    pub model: AtomicU64,
    /// Of the peers that it holds.
    pub sum: AtomicU64,
    pub peers: AtomicUsize,
    /// The last port of the first rule of its filter.
    pub port: AtomicUsize,
    /// Bytes of its map streams, as they came out of the channel.
    pub bytes: AtomicU64,
    pub whole_maps: AtomicUsize,
    pub deltas: AtomicUsize,
    /// It has left: what it holds does not count.
    pub is_away: AtomicBool,
}

/// See the module.
pub struct Client {
    place: Place,
    number: usize,
    machine: MachineSecret,
    node: NodeSecret,
    shelf: Arc<Shelf>,
    pub seat: Arc<Seat>,
    /// The open channel.
    channel: Mutex<Option<SendRequest<Full<Bytes>>>>,
    said: std::sync::Mutex<Said>,
    leave: tokio::sync::Notify,
}

/// What it says of itself, and what it was last told.
struct Said {
    endpoints: Vec<SocketAddr>,
    me: Option<Node>,
    is_there: bool,
}

impl Client {
    pub fn new(place: &Place, number: usize, shelf: &Arc<Shelf>) -> Self {
        let mut seed = [0x5c; 32];
        seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let mut random = Random::from_seed(seed);
        let endpoints = vec![endpoint(198, number, 0), endpoint(10, number, 0)];
        Self {
            place: place.clone(),
            number,
            machine: MachineSecret::generate(&mut random),
            node: NodeSecret::generate(&mut random),
            shelf: Arc::clone(shelf),
            seat: Arc::default(),
            channel: Mutex::default(),
            said: std::sync::Mutex::new(Said { endpoints, me: None, is_there: true }),
            leave: tokio::sync::Notify::new(),
        }
    }

    fn disco(&self) -> DiscoPublic {
        // Nobody pings these nodes, so any distinct bytes do.
        DiscoPublic::from_bytes(*self.machine.public().as_bytes())
    }

    fn hostinfo(&self) -> Box<Hostinfo> {
        Box::new(Hostinfo {
            hostname: format!("node-{}", self.number),
            os: "linux".to_owned(),
            os_version: "6.1".to_owned(),
            ipn_version: "1.90.1".to_owned(),
            net_info: Some(Box::new(NetInfo { preferred_derp: Some(RegionId(1)), ..NetInfo::default() })),
            ..Hostinfo::default()
        })
    }

    pub fn key(&self) -> NodePublic {
        self.node.public()
    }

    /// Opens the channel.
    pub async fn dial(&self) -> Result<()> {
        let block = self.number / CLIENTS_PER_ADDRESS;
        let source = Ipv4Addr::new(127, 1, (block >> 8) as u8, (block & 0xff) as u8);
        let options = DialOptions { source: Some(IpAddr::V4(source)), ..DialOptions::default() };
        let mut random = Random::from_seed(seed()?);
        let version = u16::try_from(CapabilityVersion::OUR_NODE.0).context("a version")?;
        let stream =
            dial_control(&self.place.url, self.place.key, &self.machine, version, &mut random, &options).await?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        *self.channel.lock().await = Some(sender);
        Ok(())
    }

    /// From now on peers should hold that it is there, or that it is not.
    pub fn set_there(&self, is_there: bool) {
        self.said().is_there = is_there;
        self.seat.is_away.store(!is_there, Relaxed);
        self.update_model();
    }

    /// Ends its map stream.
    pub fn hang_up(&self) {
        self.leave.notify_one();
    }

    pub async fn register(&self, key: &str) -> Result<()> {
        let request = RegisterRequest {
            version: CapabilityVersion::OUR_NODE,
            node_key: self.key(),
            auth: Some(RegisterAuth { auth_key: Some(AuthKey::new(key)) }),
            hostinfo: Some(self.hostinfo()),
            ..RegisterRequest::default()
        };
        let response = self.send("/machine/register", &request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "register: {status}: {}", String::from_utf8_lossy(&body));
        let answer: RegisterResponse = serde_json::from_slice(&body)?;
        ensure!(answer.error.is_empty() && answer.machine_authorized, "register: refused: {}", answer.error);
        Ok(())
    }

    fn map_request(&self) -> MapRequest {
        MapRequest {
            version: CapabilityVersion::OUR_NODE,
            node_key: self.key(),
            disco_key: Some(self.disco()),
            hostinfo: Some(self.hostinfo()),
            endpoints: self.said().endpoints.clone(),
            compress: "zstd".to_owned(),
            ..MapRequest::default()
        }
    }

    /// Asks for the map stream; it begins when this returns.
    pub async fn open(&self) -> Result<Incoming> {
        let request = MapRequest { stream: true, keep_alive: true, ..self.map_request() };
        let response = self.send("/machine/map", &request).await?;
        ensure!(response.status() == StatusCode::OK, "map: {}", response.status());
        Ok(response.into_body())
    }

    /// Folds the stream until it ends. What it holds then is forgotten, as a client's is at the next stream.
    pub async fn follow(&self, mut body: Incoming) -> Result<()> {
        let mut frames = framing::Decoder::new(framing::LARGEST_FRAME);
        let mut map = Map::new(&self.shelf);
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.leave.notified() => None,
            };
            let Some(Ok(frame)) = frame else { return Ok(()) };
            let Some(data) = frame.data_ref() else { continue };
            self.seat.bytes.fetch_add(data.len() as u64, Relaxed);
            frames.push(data);
            drop(frame);
            while let Some(packed) = frames.pull()? {
                self.take(&mut map, &packed)?;
            }
        }
    }

    fn take(&self, map: &mut Map, packed: &[u8]) -> Result<()> {
        let (kind, message) = map.take(packed, now())?;
        match kind {
            Kind::KeepAlive => return Ok(()),
            Kind::Whole => self.seat.whole_maps.fetch_add(1, Relaxed),
            Kind::Delta => self.seat.deltas.fetch_add(1, Relaxed),
        };
        let Some(rest) = &map.rest else { bail!("a map without its node") };
        if message.node.is_some() {
            self.said().me = Some(rest.self_node.clone());
            self.update_model();
        }
        let rules = rest.filters.values().flatten();
        let ports = rules.flat_map(|rule| &rule.dst_ports).map(|range| usize::from(range.ports.last));
        self.seat.port.store(ports.max().unwrap_or_default(), Relaxed);
        self.seat.peers.store(map.held.len(), Relaxed);
        self.seat.sum.store(map.held.sum, Relaxed);
        Ok(())
    }

    /// Says other endpoints than before, in an update beside the stream.
    pub async fn move_to(&self, turn: usize) -> Result<()> {
        self.said().endpoints = vec![endpoint(198, self.number, turn), endpoint(10, self.number, turn)];
        self.update_model();
        let request = MapRequest { omit_peers: true, ..self.map_request() };
        let response = self.send("/machine/map", &request).await?;
        ensure!(response.status() == StatusCode::OK, "update: {}", response.status());
        response.into_body().collect().await?;
        Ok(())
    }

    /// Its record as its peers should hold it.
    fn update_model(&self) {
        let said = self.said();
        let Some(me) = &said.me else { return };
        let shown = Node {
            endpoints: said.endpoints.clone(),
            key: self.key(),
            machine: Some(self.machine.public()),
            disco_key: Some(self.disco()),
            home_derp: Some(RegionId(1)),
            online: Some(said.is_there),
            cap_map: Default::default(),
            ..me.clone()
        };
        self.seat.model.store(hash_of(&shown), Relaxed);
        self.seat.id.store(me.id.0, Relaxed);
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn send(&self, path: &str, body: &impl serde::Serialize) -> Result<http::Response<Incoming>> {
        let request =
            Request::post(format!("https://unused{path}")).body(Full::new(serde_json::to_vec(body)?.into()))?;
        let sender = self.channel.lock().await.clone();
        let mut sender = sender.context("the channel is closed")?;
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        Ok(answer.with_context(|| format!("{path}: no answer in {PATIENCE:?}"))??)
    }
}

/// A distinct underlay address for each client and each of its moves.
fn endpoint(first: u8, number: usize, turn: usize) -> SocketAddr {
    let [.., a, b, c] = (number as u32).to_be_bytes();
    SocketAddr::from(([first, a.wrapping_add(18), b, c], 1024 + (turn % 60_000) as u16))
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_secs(since.as_secs())
}

fn seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    let mut random = std::fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut random, &mut seed)?;
    Ok(seed)
}
