//! A control server for tests: it admits whoever comes, numbers them, and shows each to all others.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_crypto::{DiscoPublic, MachinePublic, MachineSecret, NodePublic, Random};
use warren_io::http_upgrade::Rewound;
use warren_io::noise_stream::NoiseStream;
use warren_ip::Prefix;
use warren_wire::{
    FilterRule, MapRequest, MapResponse, NetPortRange, Node, NodeId, PortRange, RegionId, RegisterRequest,
    RegisterResponse, RelayMap, StableId, framing,
};

/// A running server; dropping it ends it.
pub struct Control {
    pub url: String,
    pub key: MachinePublic,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    machine: MachineSecret,
    relays: RelayMap,
    nodes: Mutex<BTreeMap<NodePublic, Entry>>,
    /// Grows with every change; streams send the whole map again.
    revision: watch::Sender<u64>,
}

#[derive(Clone, Default)]
struct Entry {
    id: i64,
    name: String,
    disco: Option<DiscoPublic>,
    endpoints: Vec<SocketAddr>,
    home: Option<RegionId>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Control {
    pub async fn start() -> Self {
        Self::with_relays(RelayMap::default()).await
    }

    /// The nodes are told of these relays.
    pub async fn with_relays(relays: RelayMap) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut random = Random::from_seed([7; 32]);
        let machine = MachineSecret::generate(&mut random);
        let key = machine.public();
        let (revision, _) = watch::channel(0);
        let shared = Arc::new(Shared { machine, relays, nodes: Mutex::default(), revision });
        let mut tasks = JoinSet::new();
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&serving), random.fork()));
            }
        });
        Self { url, key, shared, _tasks: tasks }
    }

    /// How many nodes have registered.
    pub fn registered(&self) -> usize {
        self.shared.nodes.lock().unwrap().len()
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>, mut random: Random) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) if head.len() < 8192 => head.push(byte),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let handshake = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-tailscale-handshake").then(|| value.trim().to_owned())
    });
    let Some(handshake) = handshake else { return };
    let initiation = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(handshake).unwrap()
    };
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n";
    stream.write_all(switching.as_bytes()).await.unwrap();
    let io = Rewound::new(stream, Vec::new());
    let Ok((stream, _)) = NoiseStream::accept(io, &shared.machine, &initiation, None, &mut random).await else {
        return;
    };
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let full = |bytes: Vec<u8>| Full::new(Bytes::from(bytes)).boxed_unsync();
    let body = match path.as_str() {
        "/machine/register" => {
            let request: RegisterRequest = serde_json::from_slice(&body).unwrap();
            let name = request.hostinfo.map(|info| info.hostname.clone()).unwrap_or_default();
            shared.change(request.node_key, |entry| entry.name = name);
            full(serde_json::to_vec(&RegisterResponse { machine_authorized: true, ..Default::default() }).unwrap())
        }
        "/machine/map" => {
            let request: MapRequest = serde_json::from_slice(&body).unwrap();
            let key = request.node_key;
            let (disco, endpoints) = (request.disco_key, request.endpoints.clone());
            let home = request.hostinfo.and_then(|info| info.net_info.as_ref()?.preferred_derp);
            shared.change(key, |entry| {
                entry.home = home.or(entry.home);
                entry.disco = disco;
                entry.endpoints = endpoints;
            });
            if request.stream { map_stream(shared, key, request.compress == "zstd") } else { full(Vec::new()) }
        }
        _ => full(Vec::new()),
    };
    Ok(Response::new(body))
}

/// The whole map, now and after every change.
fn map_stream(shared: Arc<Shared>, key: NodePublic, zstd: bool) -> Body {
    let mut revisions = shared.revision.subscribe();
    revisions.mark_changed();
    let frames = stream::unfold((shared, revisions), move |(shared, mut revisions)| async move {
        revisions.changed().await.ok()?;
        revisions.mark_unchanged();
        let mut message = serde_json::to_vec(&shared.map_for(&key)).unwrap();
        if zstd {
            message = zstd::stream::encode_all(&message[..], 1).unwrap();
        }
        let frame = [&framing::encode_len(message.len()).unwrap()[..], &message].concat();
        Some((Ok(Frame::data(Bytes::from(frame))), (shared, revisions)))
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

impl Shared {
    fn change(&self, key: NodePublic, change: impl FnOnce(&mut Entry)) {
        let mut nodes = self.nodes.lock().unwrap();
        let next = nodes.len() as i64 + 1;
        change(nodes.entry(key).or_insert_with(|| Entry { id: next, ..Entry::default() }));
        drop(nodes);
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn map_for(&self, key: &NodePublic) -> MapResponse {
        let nodes = self.nodes.lock().unwrap();
        let all = FilterRule {
            src_ips: vec!["*".into()],
            dst_ports: vec![NetPortRange {
                ip: "*".into(),
                ports: PortRange { first: 0, last: 65535 },
                ..Default::default()
            }],
            ..FilterRule::default()
        };
        MapResponse {
            node: nodes.get(key).map(|entry| Box::new(record(key, entry))),
            peers: nodes.iter().filter(|(peer, _)| *peer != key).map(|(peer, entry)| record(peer, entry)).collect(),
            derp_map: Some(self.relays.to_update()),
            packet_filter: Some(vec![all]),
            domain: "test".into(),
            ..MapResponse::default()
        }
    }
}

fn record(key: &NodePublic, entry: &Entry) -> Node {
    let addresses: Vec<Prefix> = vec![
        format!("100.64.0.{}/32", entry.id).parse().unwrap(),
        format!("fd7a:115c:a1e0::{}/128", entry.id).parse().unwrap(),
    ];
    Node {
        id: NodeId(entry.id),
        stable_id: StableId(format!("n{}", entry.id)),
        name: format!("node{}.test.", entry.id),
        key: *key,
        disco_key: entry.disco,
        addresses: addresses.clone(),
        allowed_ips: Some(addresses),
        endpoints: entry.endpoints.clone(),
        home_derp: entry.home,
        machine_authorized: true,
        online: Some(true),
        ..Node::default()
    }
}
