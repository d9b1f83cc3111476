//! A relay of its own: listener, certificate, key, STUN.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use warren_crypto::{Random, RelayPublic};
use warren_io::listener::{self, BindError, Caps};
use warren_io::tls::{Certificate, TlsError, Trust};
use warren_relay::server::{Counters, ServerConfig};

use crate::admission::{self, Admission, NotAnAddress, Verifier};
use crate::key_file::{self, KeyFileError};
use crate::relay::Relay;
use crate::stun::{self, StunCounters};

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// PEM files, chain and key.
    Files { chain: PathBuf, key: PathBuf },
    /// Made once for these names and addresses and kept in the state folder. Nodes know it by its fingerprint.
    SelfMade { names: Vec<String> },
}

/// Who may use the relay. There is no default: a relay open to the world is a decision.
#[derive(Clone)]
pub enum Who {
    /// A control server says, by `POST` to this address.
    VerifiedBy { url: String, trust: Trust },
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
    /// UDP, usually `[::]:3478`. `None`: no STUN.
    pub stun: Option<SocketAddr>,
    /// Folder for the key and a self-made certificate; it must exist.
    pub state: PathBuf,
    pub certificate: CertificateSource,
    pub who: Who,
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
    caps: Caps,
    fingerprint: [u8; 32],
}

/// Binds, loads or makes key and certificate. Nothing is left behind if a step fails, but what was made stays for the next try.
///
/// # Errors
/// [`RunError`]
pub async fn prepare(config: RelayConfig) -> Result<Prepared, RunError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| RunError::Randomness(error.to_string()))?;
    let mut random = Random::from_seed(seed);
    let admission = match config.who {
        Who::VerifiedBy { url, trust } => Verifier::new(&url, trust)?.admission(),
        Who::Decided(admission) => admission,
        Who::Everyone => admission::by(|_, _| async { true }),
    };
    let certificate = match &config.certificate {
        CertificateSource::Files { chain, key } => Certificate::from_files(chain, key)?,
        CertificateSource::SelfMade { names } => Certificate::kept_in(&config.state, names)?,
    };
    let fingerprint = certificate.fingerprint();
    let tls = certificate.into_server_config()?;
    let secret = key_file::load_or_make(&config.state.join("relay.key"), &mut random)?;
    let listener = listener::bind(config.listen)?;
    let stun_socket = match config.stun {
        Some(address) => Some(stun::bind(address).await.map_err(|source| RunError::BindStun { address, source })?),
        None => None,
    };
    let relay = Relay::new(secret, ServerConfig::default(), admission, random);
    Ok(Prepared { relay, listener, stun_socket, stun_counters: Arc::default(), tls, caps: config.caps, fingerprint })
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

    /// SHA-256 of the certificate, as a relay map states it: `CertName: sha256-raw:<this in hex>`.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    pub fn stun_counters(&self) -> &Arc<StunCounters> {
        &self.stun_counters
    }

    /// Serves until `shutdown` turns true, then ends every connection.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Counters {
        let routes = Arc::new(self.relay.routes().merge(self.relay.debug_routes()));
        let serving = listener::serve(self.listener, routes, Some(self.tls), self.caps, shutdown.clone());
        let stun = async {
            if let Some(socket) = self.stun_socket {
                stun::serve(socket, self.stun_counters, shutdown).await;
            }
        };
        tokio::join!(serving, stun);
        self.relay.close().await;
        self.relay.counters()
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
    let cert_name = format!("sha256-raw:{}", hex::encode(prepared.fingerprint()));
    tracing::info!(%listen, %stun, relay = %prepared.public(), %cert_name, "relay is ready");
    prepared.run(shutdown).await;
    Ok(())
}
