//! TLS: server certificates from files or self-made, and clients that verify or pin them.
//!
//! A self-made certificate is trusted by nobody but those who know its fingerprint: the relay map carries it as
//! `CertName: sha256-raw:<hex>`, the SHA-256 of the certificate's DER form.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::certificates::Certificates;
use crate::files;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} holds no {what} in PEM form")]
    Content {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or the library refuses them.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
    /// A certificate of our own could not be made.
    #[error("make a certificate: {0}")]
    Make(String),
}

/// A certificate chain, leaf first, with its key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    /// From PEM files.
    ///
    /// # Errors
    /// [`TlsError`]: unreadable, or not certificates and a key.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(chain)?).collect();
        let content = |path: &Path, what| TlsError::Content { path: path.to_owned(), what };
        let certificates = certificates.map_err(|_| content(chain, "certificate"))?;
        if certificates.is_empty() {
            return Err(content(chain, "certificate"));
        }
        let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| content(key, "private key"))?;
        Ok(Self { chain: certificates, key: secret })
    }

    /// The self-made certificate kept in `folder` (`tls.crt`, `tls.key`), made for `names` if there is none yet.
    ///
    /// # Errors
    /// [`TlsError`]; what is there but cannot be used is reported and left alone.
    pub fn kept_in(folder: &Path, names: &[String]) -> Result<Self, TlsError> {
        let (chain, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        if !chain.exists() && !key.exists() {
            let mut params =
                rcgen::CertificateParams::new(names.to_vec()).map_err(|error| TlsError::Make(error.to_string()))?;
            params.distinguished_name.push(rcgen::DnType::CommonName, "Warren relay");
            let pair = rcgen::KeyPair::generate().map_err(|error| TlsError::Make(error.to_string()))?;
            let made = params.self_signed(&pair).map_err(|error| TlsError::Make(error.to_string()))?;
            write(&key, pair.serialize_pem().as_bytes(), 0o600)?;
            write(&chain, made.pem().as_bytes(), 0o644)?;
        }
        Self::from_files(&chain, &key)
    }

    /// SHA-256 of the leaf's DER form.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.chain.first().map(|leaf| Sha256::digest(leaf).into()).unwrap_or_default()
    }

    /// For the challenge TLS-ALPN-01: says of `name` that it is ours, with the authority's own words as proof (RFC 8737 §3).
    pub(crate) fn for_challenge(name: &str, digest: &[u8]) -> Result<CertifiedKey, TlsError> {
        let make = |error: rcgen::Error| TlsError::Make(error.to_string());
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(make)?;
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let pair = rcgen::KeyPair::generate().map_err(make)?;
        let made = params.self_signed(&pair).map_err(make)?;
        let key = PrivateKeyDer::try_from(pair.serialize_der()).map_err(|error| TlsError::Make(error.to_owned()))?;
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let key = provider().key_provider.load_private_key(key).map_err(unusable)?;
        // Not looked into: the proof is an extension that a client must refuse if it does not know it.
        Ok(CertifiedKey::new(vec![made.der().clone()], key))
    }

    /// From key and chain in one text.
    ///
    /// # Errors
    /// [`TlsError::Unusable`]: not certificates and a key.
    pub(crate) fn from_pem(text: &[u8]) -> Result<Self, TlsError> {
        let unusable = |what: &str| TlsError::Unusable(format!("no {what} in PEM form"));
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text).filter_map(Result::ok).collect();
        if chain.is_empty() {
            return Err(unusable("certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|_| unusable("private key"))?;
        Ok(Self { chain, key })
    }

    /// In the form that handshakes use.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if key and certificate do not belong together.
    pub(crate) fn certified(self) -> Result<CertifiedKey, TlsError> {
        CertifiedKey::from_der(self.chain, self.key, &provider()).map_err(|error| TlsError::Unusable(error.to_string()))
    }

    /// For a listener that speaks HTTP/1.1 behind TLS and whose certificate stays what it is.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if key and certificate do not belong together.
    pub fn into_server_config(self) -> Result<Arc<ServerConfig>, TlsError> {
        Certificates::new(self)?.server_config()
    }
}

/// A certificate that vouches for nothing and only says `subject` and `serial` to whoever looks for them: self-signed, good
/// for thirty days before and after now.
///
/// # Errors
/// [`TlsError::Make`].
pub fn meta_certificate(subject: &str, serial: u8) -> Result<CertificateDer<'static>, TlsError> {
    const AROUND_NOW: Duration = Duration::from_secs(30 * 86400);
    let make = |error: rcgen::Error| TlsError::Make(error.to_string());
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(make)?;
    let mut params = rcgen::CertificateParams::new(Vec::new()).map_err(make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, subject);
    params.serial_number = Some(rcgen::SerialNumber::from(vec![serial]));
    // Some verifiers want to be told that it is no authority.
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let now =
        rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = now - AROUND_NOW;
    params.not_after = now + AROUND_NOW;
    Ok(params.self_signed(&pair).map_err(make)?.der().clone())
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    files::replace(path, bytes, mode).map_err(|source| TlsError::Write { path: path.to_owned(), source })
}

/// What a client asks of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// An authority that this system trusts vouches for the name.
    System,
    /// The leaf has this SHA-256; names and dates do not matter then.
    Pinned([u8; 32]),
    /// Anything. Only for tests, where the relay map says so.
    Anything,
}

impl Trust {
    /// From a relay map's `CertName` and `InsecureForTests`. `None`: a `sha256-raw:` text that is no fingerprint.
    pub fn of_relay(cert_name: &str, insecure_for_tests: bool) -> Option<Self> {
        if insecure_for_tests {
            return Some(Trust::Anything);
        }
        let Some(digits) = cert_name.strip_prefix("sha256-raw:") else { return Some(Trust::System) };
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(digits, &mut fingerprint).ok()?;
        Some(Trust::Pinned(fingerprint))
    }
}

/// A client's configuration. The system's authorities are read the first time that [`Trust::System`] is asked for.
///
/// # Errors
/// [`TlsError::Unusable`] if this system has no authorities to trust.
pub fn client_config(trust: Trust) -> Result<Arc<ClientConfig>, TlsError> {
    static SYSTEM: Mutex<Option<Arc<ClientConfig>>> = Mutex::new(None);
    if trust != Trust::System {
        return make_client_config(trust);
    }
    // Some hundred files and certificates: too much for every dial. Whoever changes them starts the program anew.
    let mut kept = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    match &*kept {
        Some(config) => Ok(Arc::clone(config)),
        None => Ok(Arc::clone(kept.insert(make_client_config(trust)?))),
    }
}

fn make_client_config(trust: Trust) -> Result<Arc<ClientConfig>, TlsError> {
    let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(unusable)?;
    let mut config = match trust {
        Trust::System => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::Unusable(
                    "this system has no certificate authorities (install the package ca-certificates)".to_owned(),
                ));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Pinned(fingerprint) => {
            let verifier = Arc::new(ByFingerprint { wanted: Some(fingerprint), provider: provider() });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Trust::Anything => {
            let verifier = Arc::new(ByFingerprint { wanted: None, provider: provider() });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Trusts one certificate, or any; that the server holds its key is always checked.
#[derive(Debug)]
struct ByFingerprint {
    wanted: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found: [u8; 32] = Sha256::digest(leaf).into();
        match self.wanted {
            Some(wanted) if !warren_crypto::ct_eq(&wanted, &found) => Err(rustls::Error::General(format!(
                "the server's certificate has the fingerprint {}, not the pinned one",
                hex::encode(found)
            ))),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A host as TLS names it: an address or a DNS name. `None` if it is neither.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(bare.to_owned()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn handshake(server: Arc<ServerConfig>, trust: Trust) -> std::io::Result<Vec<u8>> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(async move {
            if let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(server).accept(far).await {
                let _ = stream.write_all(b"hello").await;
                let _ = stream.shutdown().await;
            }
        });
        let connector = tokio_rustls::TlsConnector::from(client_config(trust).expect("a client configuration"));
        let mut stream = connector.connect(server_name("127.0.0.1").expect("an address"), near).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        let _ = serving.await;
        Ok(text)
    }

    #[tokio::test]
    async fn a_pinned_certificate_is_trusted_and_another_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = ["127.0.0.1".to_owned()];
        let certificate = Certificate::kept_in(folder.path(), &names).expect("a certificate");
        let fingerprint = certificate.fingerprint();
        let again = Certificate::kept_in(folder.path(), &names).expect("the same certificate");
        assert_eq!(again.fingerprint(), fingerprint);
        let server = certificate.into_server_config().expect("a server configuration");
        assert_eq!(handshake(server.clone(), Trust::Pinned(fingerprint)).await.expect("trusted"), b"hello");
        assert_eq!(handshake(server.clone(), Trust::Anything).await.expect("a test"), b"hello");
        let error = handshake(server, Trust::Pinned([7; 32])).await.expect_err("another fingerprint");
        assert!(error.to_string().contains("not the pinned one"), "{error}");
    }

    #[test]
    fn a_key_file_of_somebody_else_is_reported_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tls.key"), "nonsense").expect("written");
        std::fs::write(folder.path().join("tls.crt"), "nonsense").expect("written");
        assert!(matches!(Certificate::kept_in(folder.path(), &[]), Err(TlsError::Content { what: "certificate", .. })));
        assert_eq!(std::fs::read(folder.path().join("tls.key")).expect("still there"), b"nonsense");
    }

    #[test]
    fn the_systems_authorities_are_read_once() {
        if let (Ok(first), Ok(second)) = (client_config(Trust::System), client_config(Trust::System)) {
            assert!(Arc::ptr_eq(&first, &second));
        }
    }

    #[test]
    fn a_relay_map_says_how_its_relays_are_trusted() {
        assert_eq!(Trust::of_relay("", false), Some(Trust::System));
        assert_eq!(Trust::of_relay("", true), Some(Trust::Anything));
        let pinned = format!("sha256-raw:{}", "ab".repeat(32));
        assert_eq!(Trust::of_relay(&pinned, false), Some(Trust::Pinned([0xab; 32])));
        assert_eq!(Trust::of_relay("sha256-raw:zz", false), None);
    }
}
