//! A relay of its own: listener, certificate, key, STUN.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use warren_crypto::{Random, RelayPublic};
use warren_io::certificates::{Shown, Source};
use warren_io::listener::{self, BindError, Caps};
use warren_io::tls::{TlsError, Trust};
use warren_io::web_socket::Origins;
use warren_relay::server::{Counters, ServerConfig};

use crate::admission::{self, Admission};
use crate::key_file::{self, KeyFileError};
use crate::relay::Relay;
use crate::stun::{self, StunCounters};
use crate::verifier::{NotAnAddress, Verifier};

/// Who may use the relay. There is no default: a relay open to the world is a decision.
#[derive(Clone)]
pub enum Who {
    /// A control server says, by `POST` to this address; about those inside it is asked again `every` so often.
    VerifiedBy { url: String, trust: Trust, every: Duration },
    /// Somebody in this process says.
    Decided(Admission),
    /// Everybody who finds it.
    Everyone,
}

/// A relay's configuration.
#[derive(Clone)]
pub struct RelayConfig {
    /// TCP, usually `[::]:443`.
    pub listen: SocketAddr,
    /// TCP for plain HTTP beside it, usually `[::]:80`: captive-portal checks of clients, and an authority that asks by HTTP.
    pub http_listen: Option<SocketAddr>,
    /// UDP, usually `[::]:3478`. `None`: no STUN.
    pub stun: Option<SocketAddr>,
    /// Folder for the key; it must exist.
    pub state: PathBuf,
    pub certificate: Source,
    pub who: Who,
    /// Pages that may use the relay by WebSocket.
    pub origins: Origins,
    pub caps: Caps,
}

/// Why the relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("listen for STUN on {address}")]
    BindStun {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Certificate(#[from] TlsError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    VerifyAddress(#[from] NotAnAddress),
    #[error("this system gives no randomness: {0}")]
    Randomness(String),
}

/// A relay that has everything it needs and answers nobody yet.
pub struct Prepared {
    relay: Relay,
    listener: TcpListener,
    stun_socket: Option<UdpSocket>,
    stun_counters: Arc<StunCounters>,
    tls: Arc<rustls::ServerConfig>,
    shown: Shown,
    /// Plain HTTP, for whoever looks for port 80.
    plain: Option<TcpListener>,
    random: Random,
    caps: Caps,
    review: Option<(Admission, Duration)>,
    origins: Origins,
}

/// Binds, loads or makes key and certificate. Nothing is left behind if a step fails, but what was made stays for the next try.
///
/// # Errors
/// [`RunError`]
pub async fn prepare(config: RelayConfig) -> Result<Prepared, RunError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| RunError::Randomness(error.to_string()))?;
    let mut random = Random::from_seed(seed);
    let (admission, review) = match config.who {
        Who::VerifiedBy { url, trust, every } => {
            let verifier = Verifier::new(&url, trust)?;
            (verifier.at_the_door(), Some((verifier.afresh(), every)))
        }
        Who::Decided(admission) => (admission, None),
        Who::Everyone => (admission::by(|_, _| async { true }), None),
    };
    let shown = Shown::open(config.certificate)?;
    let secret = key_file::load_or_make(&config.state.join("relay.key"), &mut random)?;
    let listener = listener::bind(config.listen)?;
    let plain = config.http_listen.map(listener::bind).transpose()?;
    let stun_socket = match config.stun {
        Some(address) => Some(stun::bind(address).await.map_err(|source| RunError::BindStun { address, source })?),
        None => None,
    };
    let tls = shown.server_config()?;
    let relay = Relay::new(secret, ServerConfig::default(), admission, random.fork());
    Ok(Prepared {
        relay,
        listener,
        plain,
        stun_socket,
        stun_counters: Arc::default(),
        tls,
        shown,
        random,
        caps: config.caps,
        review,
        origins: config.origins,
    })
}

impl Prepared {
    /// Where it listens, with the port that was given if 0 was asked for.
    ///
    /// # Errors
    /// The operating system's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn stun_address(&self) -> Option<SocketAddr> {
        self.stun_socket.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    pub fn public(&self) -> RelayPublic {
        self.relay.public()
    }

    /// SHA-256 of a self-made certificate, as a relay map states it: `CertName: sha256-raw:<this in hex>`. `None`: an
    /// authority vouches for it.
    pub fn pin(&self) -> Option<[u8; 32]> {
        self.shown.pin()
    }

    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    pub fn stun_counters(&self) -> &Arc<StunCounters> {
        &self.stun_counters
    }

    /// Serves until `shutdown` turns true, then ends every connection.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Counters {
        let tls = self.tls;
        let routes = self
            .relay
            .routes(self.origins)
            .merge(self.relay.debug_routes(Arc::clone(&self.stun_counters), Vec::new))
            .merge(self.shown.routes());
        let routes = Arc::new(routes);
        let serving = listener::serve(self.listener, Arc::clone(&routes), Some(tls), self.caps, shutdown.clone());
        let plain = async {
            if let Some(plain) = self.plain {
                listener::serve(plain, routes, None, self.caps, shutdown.clone()).await;
            }
        };
        let stun = async {
            if let Some(socket) = self.stun_socket {
                stun::serve(socket, self.stun_counters, shutdown.clone()).await;
            }
        };
        let relay = self.relay.clone();
        let (announcing, certificates) = (self.relay.clone(), Arc::clone(self.shown.certificates()));
        let reviewing = async {
            match self.review {
                Some((admission, every)) => review(&relay, &admission, every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = async { tokio::join!(serving, plain, stun) } => {}
            () = reviewing => {}
            () = announcing.announce(certificates) => {}
            () = self.shown.keep(self.random) => {}
        }
        self.relay.close().await;
        self.relay.counters()
    }
}

async fn review(relay: &Relay, admission: &Admission, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        relay.review(admission).await;
    }
}

/// [`prepare`] and [`Prepared::run`], with a line in the log for the operator.
///
/// # Errors
/// [`RunError`]
pub async fn run(config: RelayConfig, shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
    let prepared = prepare(config).await?;
    let listen = prepared.address().map(|address| address.to_string()).unwrap_or_default();
    let stun = prepared.stun_address().map(|address| address.to_string()).unwrap_or_default();
    let cert_name = prepared.pin().map(|pin| format!("sha256-raw:{}", hex::encode(pin))).unwrap_or_default();
    tracing::info!(%listen, %stun, relay = %prepared.public(), %cert_name, "relay is ready");
    prepared.run(shutdown).await;
    Ok(())
}
