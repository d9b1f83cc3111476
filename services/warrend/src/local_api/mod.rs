//! LocalAPI on its Unix socket: who may ask, what is asked, in which shape the answer goes back.
//!
//! The daemon behind it is a [`Backend`], so that this door is tested without one.

pub mod access;
mod bus;
mod dial;
mod door;
mod places;
mod routes;

pub use access::{Access, Caller, may};
pub use door::serve;

use std::future::Future;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use warren_api::local::{
    LoginProfile, MaskedPrefs, NetcheckReport, Notify, PingKind, PingResult, Prefs, StartOptions, Status, WhoIs,
};

/// A refusal with its HTTP status and one line for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub text: String,
}

impl Refusal {
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Refusal { status, text: text.into() }
    }
}

/// A byte stream that the daemon dialled.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What LocalAPI asks of the daemon. Every method may be dropped at any await without harm.
pub trait Backend: Clone + Send + Sync + 'static {
    fn status(&self, with_peers: bool) -> impl Future<Output = Result<Status, Refusal>> + Send;
    fn prefs(&self) -> impl Future<Output = Result<Prefs, Refusal>> + Send;
    fn edit_prefs(&self, edit: MaskedPrefs) -> impl Future<Output = Result<Prefs, Refusal>> + Send;
    /// The reason against these prefs, if there is one.
    fn check_prefs(&self, prefs: Prefs) -> impl Future<Output = Result<Option<String>, Refusal>> + Send;
    fn start(&self, options: StartOptions) -> impl Future<Output = Result<(), Refusal>> + Send;
    fn login_interactive(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
    fn logout(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
    fn profiles(&self) -> impl Future<Output = Result<(Vec<LoginProfile>, LoginProfile), Refusal>> + Send;
    fn new_profile(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
    fn switch_profile(&self, id: String) -> impl Future<Output = Result<(), Refusal>> + Send;
    fn delete_profile(&self, id: String) -> impl Future<Output = Result<(), Refusal>> + Send;
    fn ping(
        &self,
        ip: std::net::IpAddr,
        kind: PingKind,
        size: usize,
    ) -> impl Future<Output = Result<PingResult, Refusal>> + Send;
    /// By an address inside the network, or by a node key.
    fn whois(&self, who: WhoIsQuestion) -> impl Future<Output = Result<Option<WhoIs>, Refusal>> + Send;
    fn derp_map(&self) -> impl Future<Output = Result<Option<warren_wire::RelayMap>, Refusal>> + Send;
    fn netcheck(&self) -> impl Future<Output = Result<NetcheckReport, Refusal>> + Send;
    /// Counters of the engine, for people who look for a fault.
    fn counters(&self) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;
    /// The same for those who collect metrics: Prometheus text, with the field's names.
    fn user_metrics(&self) -> impl Future<Output = Result<String, Refusal>> + Send;
    /// A caller sent something that is no request for this door. Counted.
    fn note_refusal(&self);
    fn dial(&self, host: String, port: u16) -> impl Future<Output = Result<Box<dyn Stream>, Refusal>> + Send;
    /// News from now on. A watcher that falls behind by more than the channel holds is told to start over (the channel closes).
    fn watch(&self) -> impl Future<Output = tokio::sync::mpsc::Receiver<Notify>> + Send;
    /// The user who may write besides root and the daemon's own user.
    fn operator(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Whom `whois` asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhoIsQuestion {
    Address(SocketAddr),
    Key(warren_crypto::NodePublic),
}
