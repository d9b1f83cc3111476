//! Fast start: a client that learned the relay's key from the TLS handshake says who it is without waiting for an answer.
//!
//! ```text
//! TLS 1.3 certificates: leaf, intermediates, meta ◀── CN "derpkey" + the relay's key in hex, serial number: the version
//! GET /derp · Derp-Fast-Start: 1 · ClientInfo ──────▶
//!                                               ◀── ServerKey, ServerInfo … no HTTP answer at all
//! ```
//!
//! data-plane.md §1.2.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use warren_io::certificates::Certificates;
use warren_io::tls;

use crate::relay::Relay;

/// How often the meta certificate is made anew: it is good for thirty days either way.
const RENEW_EVERY: Duration = Duration::from_secs(10 * 86400);
/// The relay protocol's version, which the serial number says.
const VERSION: u8 = 2;

/// Whether a client wants no answer.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get("derp-fast-start").is_some_and(|value| value == "1")
}

impl Relay {
    /// Shows the relay's key in every handshake, for clients that start fast. Never returns; without it they start as usual.
    pub async fn announce(&self, certificates: Arc<Certificates>) {
        loop {
            match tls::meta_certificate(&format!("derpkey{}", hex::encode(self.public().as_bytes())), VERSION) {
                Ok(meta) => certificates.append(meta),
                Err(error) => tracing::warn!(%error, "no meta certificate; clients start as usual"),
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }
}
