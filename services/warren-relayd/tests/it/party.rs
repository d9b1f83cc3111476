//! A relay with everything real but the network, and nodes that dial it.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use warren_crypto::{NodePublic, NodeSecret, Random};
use warren_io::certificates::Source;
use warren_io::listener::Caps;
use warren_io::relay_stream::{self, RelayStream, RelayTarget};
use warren_io::tls::Trust;
use warren_io::web_socket::Origins;
use warren_relay::client::{Client, Event};
use warren_relayd::service::{RelayConfig, Who};
use warren_relayd::{Relay, prepare};

pub struct House {
    pub address: SocketAddr,
    pub stun_address: SocketAddr,
    fingerprint: [u8; 32],
    relay: Relay,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    _state: tempfile::TempDir,
}

fn secret(seed: u8) -> NodeSecret {
    NodeSecret::from_seed([seed; 32])
}

pub fn key(seed: u8) -> NodePublic {
    secret(seed).public()
}

impl House {
    pub async fn open(who: Who) -> House {
        let state = tempfile::tempdir().expect("a folder");
        let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let config = RelayConfig {
            listen: anywhere,
            stun: Some(anywhere),
            state: state.path().to_owned(),
            certificate: Source::SelfMade { folder: state.path().to_owned(), names: vec!["127.0.0.1".to_owned()] },
            http_listen: None,
            who,
            origins: Origins::new(["https://pages.example"]).expect("an origin"),
            caps: Caps::default(),
        };
        let prepared = prepare(config).await.expect("a relay");
        let (stop, stopped) = watch::channel(false);
        House {
            address: prepared.address().expect("bound"),
            stun_address: prepared.stun_address().expect("bound"),
            fingerprint: prepared.pin().expect("self-made"),
            relay: prepared.relay().clone(),
            stop,
            serving: tokio::spawn(async move {
                prepared.run(stopped).await;
            }),
            _state: state,
        }
    }

    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    pub fn target(&self) -> RelayTarget {
        RelayTarget {
            host: "127.0.0.1".to_owned(),
            addresses: vec![self.address.ip()],
            port: self.address.port(),
            trust: Trust::Pinned(self.fingerprint),
        }
    }

    /// Ends it, and proves that every task of it ended.
    pub async fn close(self) {
        self.stop.send_replace(true);
        self.serving.await.expect("an orderly end");
        assert_eq!(self.relay.counters().connections, 0);
    }
}

pub struct Guest {
    orders: mpsc::UnboundedSender<(NodePublic, Vec<u8>)>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guest {
    /// Dials and logs in.
    pub async fn join(house: &House, seed: u8) -> Guest {
        let mut guest = Guest::dial(house, seed).await;
        assert!(matches!(guest.next_event().await, Some(Event::Connected { .. })));
        guest
    }

    pub async fn dial(house: &House, seed: u8) -> Guest {
        Guest::over(relay_stream::dial(&house.target()).await.expect("dialled"), seed)
    }

    /// Speaks over a stream to a relay.
    pub fn over(mut stream: RelayStream, seed: u8) -> Guest {
        let mut client = Client::new(secret(seed), false, Random::from_seed([seed; 32]), Instant::now());
        let (orders, mut ordered) = mpsc::unbounded_channel::<(NodePublic, Vec<u8>)>();
        // One slot: a guest that does not take its events soon reads nothing more.
        let (tell, events) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                while let Some(frame) = client.poll_transmit() {
                    if stream.write_all(&frame).await.is_err() {
                        return;
                    }
                }
                if stream.flush().await.is_err() {
                    return;
                }
                while let Some(event) = client.poll_event() {
                    if tell.send(event).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    read = stream.read(&mut buffer) => match read {
                        Ok(count @ 1..) => client.handle_bytes(&buffer[..count], Instant::now()).expect("the protocol"),
                        _ => return,
                    },
                    Some((to, packet)) = ordered.recv() => client.send(to, &packet, Instant::now()),
                }
            }
        });
        Guest { orders, events, task }
    }

    pub fn send(&mut self, to: u8, packet: &[u8]) {
        self.orders.send((key(to), packet.to_vec())).expect("connected");
    }

    /// `None`: the relay has closed the connection.
    pub async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub async fn next_packet(&mut self) -> (NodePublic, Vec<u8>) {
        match self.next_event().await {
            Some(Event::Packet { src, bytes }) => (src, bytes),
            other => panic!("a packet was expected, not {other:?}"),
        }
    }
}
