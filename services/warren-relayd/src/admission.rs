//! Who may use the relay. Every way to ask fails closed at the door: what cannot be decided is refused.
//!
//! Rights end while connections stand: a node is deleted, logs in with a new key, expires. So whoever is in is asked about
//! again ([`Relay::review`](crate::Relay::review)), and there only a clear no ends a connection: a relay whose control
//! server is away goes on carrying packets of those whom it knows, for their peers decide whether to accept them.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use warren_crypto::NodePublic;

/// Answers whether a proven key may use the relay from that address. The relay waits 5 s for it and then refuses.
pub type Admission = Arc<dyn Fn(NodePublic, IpAddr) -> Pin<Box<dyn Future<Output = Verdict> + Send>> + Send + Sync>;

/// What is known of somebody's right to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    Refused,
    /// Whoever decides could not be asked: no reason to let anybody in, nor to throw anybody out.
    Unknown,
}

/// Makes an admission of a function in this process.
pub fn by<F, A>(decide: F) -> Admission
where
    F: Fn(NodePublic, IpAddr) -> A + Send + Sync + 'static,
    A: Future<Output = bool> + Send + 'static,
{
    Arc::new(move |key, source| {
        let deciding = decide(key, source);
        Box::pin(async move { if deciding.await { Verdict::Admitted } else { Verdict::Refused } })
    })
}
