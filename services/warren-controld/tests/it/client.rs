//! A machine that joins: our own dialling code, HTTP/2 in the channel, and the map folded as a node folds it.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use url::Url;
use warren_api::admin::CreateUser;
use warren_controld::Overrides;
use warren_crypto::{DiscoPublic, MachineSecret, NodeSecret, Random, UnixTime};
use warren_io::listener::Caps;
use warren_io::{DialOptions, dial_control};
use warren_wire::netmap::{NetMap, fold};
use warren_wire::{
    AuthKey, CapabilityVersion, Hostinfo, MapRequest, MapResponse, RegisterAuth, RegisterRequest, RegisterResponse,
    framing,
};

use crate::world::{PATIENCE, World, start, start_with};

pub const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A machine with its keys and one open channel.
pub struct Machine {
    pub secret: MachineSecret,
    pub node: NodeSecret,
    pub hostname: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Machine {
    pub async fn new(world: &World, seed: u8, hostname: &str) -> Self {
        Self::at(&world.url(), world, seed, hostname).await
    }

    /// A machine that reaches the server at another address than its own.
    pub async fn at(url: &Url, world: &World, seed: u8, hostname: &str) -> Self {
        let mut random = Random::from_seed([seed; 32]);
        let (secret, node) = (MachineSecret::generate(&mut random), NodeSecret::generate(&mut random));
        let sender = channel(url, world, &secret).await;
        Self { secret, node, hostname: hostname.to_owned(), sender }
    }

    /// The same machine with a channel to another server (or the same one, started again).
    pub async fn reconnect(&mut self, world: &World) {
        self.sender = channel(&world.url(), world, &self.secret).await;
    }

    pub fn register_request(&self, key: Option<&str>) -> RegisterRequest {
        RegisterRequest {
            version: CapabilityVersion::OUR_NODE,
            node_key: self.node.public(),
            auth: key.map(|key| RegisterAuth { auth_key: Some(AuthKey::new(key)) }),
            hostinfo: Some(Box::new(Hostinfo {
                hostname: self.hostname.clone(),
                os: "linux".into(),
                ..Hostinfo::default()
            })),
            ..RegisterRequest::default()
        }
    }

    pub async fn register(&self, request: &RegisterRequest) -> RegisterResponse {
        let (status, body) = self.post("/machine/register", request).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("a registration's answer")
    }

    /// Joins with a key and must succeed.
    pub async fn join(&self, key: &str) {
        let answer = self.register(&self.register_request(Some(key))).await;
        assert_eq!((answer.error.as_str(), answer.machine_authorized), ("", true));
    }

    pub fn map_request(&self) -> MapRequest {
        MapRequest {
            version: CapabilityVersion::OUR_NODE,
            node_key: self.node.public(),
            disco_key: Some(DiscoPublic::from_bytes(*self.node.public().as_bytes())),
            hostinfo: Some(Box::new(Hostinfo {
                hostname: self.hostname.clone(),
                os: "linux".into(),
                ..Hostinfo::default()
            })),
            ..MapRequest::default()
        }
    }

    pub async fn stream(&self) -> Maps {
        self.stream_with(MapRequest { stream: true, keep_alive: true, ..self.map_request() }).await
    }

    pub async fn stream_with(&self, request: MapRequest) -> Maps {
        let is_packed = request.compress == "zstd";
        let response = self.send(Method::POST, "/machine/map", &request).await;
        assert_eq!(response.status(), StatusCode::OK);
        let decoder = framing::Decoder::new(framing::LARGEST_FRAME);
        Maps { body: response.into_body(), decoder, is_packed, map: None, last: MapResponse::default() }
    }

    pub async fn post(&self, path: &str, body: &impl serde::Serialize) -> (StatusCode, Bytes) {
        self.ask(Method::POST, path, body).await
    }

    pub async fn ask(&self, method: Method, path: &str, body: &impl serde::Serialize) -> (StatusCode, Bytes) {
        self.say(method, path, serde_json::to_vec(body).expect("plain data")).await
    }

    /// Any bytes as a request's body.
    pub async fn say(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let response = self.send_bytes(method, path, body).await;
        let status = response.status();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("in time");
        (status, body.expect("whole").to_bytes())
    }

    async fn send(&self, method: Method, path: &str, body: &impl serde::Serialize) -> http::Response<Incoming> {
        self.send_bytes(method, path, serde_json::to_vec(body).expect("plain data")).await
    }

    async fn send_bytes(&self, method: Method, path: &str, body: Vec<u8>) -> http::Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://unused{path}"))
            .body(Full::new(body.into()))
            .expect("well formed");
        let mut sender = self.sender.clone();
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer")
    }
}

async fn channel(url: &Url, world: &World, secret: &MachineSecret) -> SendRequest<Full<Bytes>> {
    let version = CapabilityVersion::OUR_NODE.0 as u16;
    let mut random = Random::from_seed([9; 32]);
    let options = DialOptions::default();
    let stream = dial_control(url, world.key, secret, version, &mut random, &options).await.expect("a channel");
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2 in the channel");
    tokio::spawn(connection);
    sender
}

/// A map stream as its node reads it.
pub struct Maps {
    body: Incoming,
    decoder: framing::Decoder,
    is_packed: bool,
    pub map: Option<NetMap>,
    pub last: MapResponse,
}

impl Maps {
    /// The next message, folded into the map; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<&MapResponse> {
        let body = loop {
            if let Some(body) = self.decoder.pull().expect("well framed") {
                break body;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
            let Ok(frame) = frame else { return None };
            self.decoder.push(frame.data_ref().expect("no trailers"));
        };
        let json = if self.is_packed { zstd::bulk::decompress(&body, 1 << 20).expect("zstd") } else { body };
        self.last = serde_json::from_slice(&json).expect("a map response");
        fold(&mut self.map, self.last.clone(), NOW).expect("a message that folds");
        Some(&self.last)
    }

    /// Reads until the map satisfies `wish`.
    pub async fn until(&mut self, what: &str, wish: impl Fn(&NetMap) -> bool) -> &NetMap {
        while !self.map.as_ref().is_some_and(&wish) {
            let read = tokio::time::timeout(PATIENCE, self.next()).await;
            assert!(matches!(read, Ok(Some(_))), "waiting for: {what}; map: {:?}", self.map);
        }
        self.map.as_ref().expect("just seen")
    }
}

/// Names of the peers in a map, in order of id.
pub fn peers(map: &NetMap) -> Vec<&str> {
    map.peers.values().map(|peer| peer.full_name().split('.').next().unwrap_or_default()).collect()
}

/// A server with these settings, and one machine of ann's.
pub async fn one_with(said: Overrides) -> (World, Machine) {
    let world = start_with(said, Caps::default()).await;
    world.admin.create_user(&CreateUser { name: "ann".into(), ..CreateUser::default() }).await.expect("new");
    let machine = Machine::new(&world, 1, "a").await;
    machine.join(&world.join_key(false).await).await;
    (world, machine)
}

/// Two machines of ann's, nodes 1 and 2, under a policy.
pub async fn two_under(policy: &str, hostnames: [&str; 2]) -> (World, [Machine; 2]) {
    let world = start().await;
    let key = world.join_key(true).await;
    let [first, second] = hostnames;
    let machines = [Machine::new(&world, 1, first).await, Machine::new(&world, 2, second).await];
    for machine in &machines {
        machine.join(&key).await;
    }
    world.admin.set_policy(policy).await.expect("a policy");
    (world, machines)
}
