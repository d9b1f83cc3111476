//! The certificate that a listener shows, and how it becomes another one while connections stand.
//!
//! ```text
//! TLS ClientHello ──┬── ALPN acme-tls/1 ──▶ the answer to an authority's challenge for that name, if there is one
//!                   └── else ─────────────▶ the certificate in force
//! ```
//!
//! [`follow_files`] keeps it what two files hold; [`crate::acme`] gets it from an authority.

mod source;
mod validity;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::tls::{self, Certificate, TlsError};
pub use source::{Shown, Source};
pub use validity::Validity;

/// Application protocol of the challenge TLS-ALPN-01 (RFC 8737 §3).
pub const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a person should know about a certificate, for as long as it is so; `None` when all is well.
pub type Problem = Option<String>;

/// See the module.
#[derive(Debug, Default)]
pub struct Certificates {
    in_force: RwLock<Option<Arc<CertifiedKey>>>,
    /// Shown after the chain; vouches for nothing.
    appended: RwLock<Option<CertificateDer<'static>>>,
    challenges: RwLock<BTreeMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    /// None yet: handshakes fail until there is one.
    pub fn none_yet() -> Arc<Self> {
        Arc::default()
    }

    /// # Errors
    /// [`TlsError::Unusable`] if key and certificate do not belong together.
    pub fn new(certificate: Certificate) -> Result<Arc<Self>, TlsError> {
        let certificates = Self::none_yet();
        certificates.replace(certificate)?;
        Ok(certificates)
    }

    /// Shows another certificate from the next handshake on.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if key and certificate do not belong together; the one before stays.
    pub fn replace(&self, certificate: Certificate) -> Result<(), TlsError> {
        let certified = Arc::new(certificate.certified()?);
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
        Ok(())
    }

    /// Shows one more certificate after the chain from the next handshake on, for clients that look for it there.
    pub fn append(&self, certificate: CertificateDer<'static>) {
        *self.appended.write().unwrap_or_else(PoisonError::into_inner) = Some(certificate);
    }

    /// When the certificate in force begins and ends. `None`: there is none, or it cannot be read.
    pub fn validity(&self) -> Option<Validity> {
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        Validity::of(in_force.as_ref()?.cert.first()?)
    }

    /// Answers an authority that asks for `name` by ALPN, until told otherwise.
    pub(crate) fn answer_challenge(&self, name: &str, digest: &[u8]) -> Result<(), TlsError> {
        let certified = Arc::new(Certificate::for_challenge(name, digest)?);
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_ascii_lowercase(), certified);
        Ok(())
    }

    pub(crate) fn forget_challenges(&self) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// For a listener that speaks HTTP/1.1 behind TLS.
    ///
    /// # Errors
    /// [`TlsError::Unusable`], if this build's cryptography is broken.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        // A relay and the control upgrade take over an HTTP/1.1 connection; HTTP/2 has none to take over.
        config.alpn_protocols = vec![b"http/1.1".to_vec(), ACME_PROTOCOL.to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An authority offers this protocol alone (RFC 8737 §3).
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(ACME_PROTOCOL) && offered.next().is_none() {
            let name = hello.server_name()?.to_ascii_lowercase();
            return self.challenges.read().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        }
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let appended = self.appended.read().unwrap_or_else(PoisonError::into_inner).clone();
        Some(match appended {
            // A copy each time: the certificate itself must stay what it is.
            Some(appended) => {
                let mut longer = CertifiedKey::clone(&in_force);
                longer.cert.push(appended);
                Arc::new(longer)
            }
            None => in_force,
        })
    }
}

/// Keeps `certificates` what the two files hold: looks at them every other second, and at once on SIGHUP, which would
/// otherwise end the process. While they do not go together, the last good pair stays in force and `problem` says why.
/// Never returns; drop it to stop.
pub async fn follow_files(
    certificates: Arc<Certificates>,
    chain: PathBuf,
    key: PathBuf,
    problem: watch::Sender<Problem>,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut seen = (stamp(&chain), stamp(&key));
    loop {
        let told = async {
            match &mut hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        let is_told = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => false,
            () = told => true,
        };
        let now = (stamp(&chain), stamp(&key));
        if now == seen && !is_told {
            continue;
        }
        seen = now;
        // Small files, rarely: not worth a thread.
        match Certificate::from_files(&chain, &key).and_then(|certificate| certificates.replace(certificate)) {
            Ok(()) => {
                tracing::info!(path = %chain.display(), "the certificate was read again");
                problem.send_replace(None);
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate was not read again; the last good one stays in force");
                problem.send_replace(Some(format!("{error}; the last good certificate stays in force")));
            }
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len(), facts.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Trust, client_config, server_name};

    fn made(folder: &Path) -> Certificate {
        Certificate::kept_in(folder, &["localhost".to_owned()]).expect("a certificate")
    }

    /// The certificate that a client gets, if the handshake succeeds with these protocols.
    async fn shown(server: &Arc<ServerConfig>, protocols: &[&[u8]]) -> std::io::Result<Vec<u8>> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let accepting = tokio::spawn(tokio_rustls::TlsAcceptor::from(Arc::clone(server)).accept(far));
        let mut client = rustls::ClientConfig::clone(&client_config(Trust::Anything).expect("a configuration"));
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let stream = connector.connect(server_name("localhost").expect("a name"), near).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        drop(accepting.await);
        Ok(leaf.unwrap_or_default())
    }

    #[tokio::test]
    async fn a_challenge_is_answered_to_an_authority_only_and_for_its_name_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::none_yet();
        let server = certificates.server_config().expect("a configuration");
        assert!(shown(&server, &[b"http/1.1"]).await.is_err(), "there is none yet");
        certificates.replace(made(folder.path())).expect("usable");
        let usual = shown(&server, &[b"http/1.1"]).await.expect("a handshake");
        assert!(shown(&server, &[ACME_PROTOCOL]).await.is_err(), "no challenge is open");
        certificates.answer_challenge("LOCALHOST", &[7; 32]).expect("made");
        // Whoever is no authority must refuse a proof, for its critical extension: so it is known that it was shown.
        let refused = shown(&server, &[ACME_PROTOCOL]).await.expect_err("a proof").to_string();
        assert!(refused.contains("UnsupportedCriticalExtension"), "{refused}");
        assert_eq!(shown(&server, &[b"http/1.1"]).await.expect("a handshake"), usual);
        assert_eq!(shown(&server, &[b"http/1.1", ACME_PROTOCOL]).await.expect("a handshake"), usual);
        certificates.forget_challenges();
        assert!(shown(&server, &[ACME_PROTOCOL]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_change_take_force_and_a_half_changed_pair_does_not() {
        let folder = |_| tempfile::tempdir().expect("a folder");
        let [old, new, live] = [0, 1, 2].map(folder);
        let prints = [&old, &new].map(|folder| made(folder.path()).fingerprint());
        let (chain, key) = (live.path().join("chain.pem"), live.path().join("key.pem"));
        let copy = |from: &tempfile::TempDir, what: &str, to: &Path| {
            let staged = to.with_extension("staged");
            std::fs::copy(from.path().join(what), &staged).expect("copied");
            std::fs::rename(&staged, to).expect("in place");
        };
        copy(&old, "tls.crt", &chain);
        copy(&old, "tls.key", &key);
        let certificates = Certificates::new(Certificate::from_files(&chain, &key).expect("good")).expect("usable");
        let server = certificates.server_config().expect("a configuration");
        let (tell, mut problem) = watch::channel(None);
        let following = tokio::spawn(follow_files(Arc::clone(&certificates), chain.clone(), key.clone(), tell));
        let print = async || {
            let leaf = shown(&server, &[b"http/1.1"]).await.expect("a handshake");
            <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&leaf))
        };
        // It must have looked once before anything changes.
        tokio::time::sleep(LOOK_EVERY / 2).await;
        copy(&new, "tls.crt", &chain);
        problem.wait_for(Option::is_some).await.expect("a problem");
        assert_eq!(print().await, prints[0]);
        copy(&new, "tls.key", &key);
        problem.wait_for(Option::is_none).await.expect("no problem");
        assert_eq!(print().await, prints[1]);
        following.abort();
    }
}
