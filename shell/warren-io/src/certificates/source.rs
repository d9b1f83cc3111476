//! Where a service's certificate comes from, and what keeps it good while the service runs.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use warren_crypto::Random;

use super::{Certificates, Problem, follow_files};
use crate::acme::{Acme, AcmeConfig};
use crate::listener::Peer;
use crate::routes::Routes;
use crate::tls::{Certificate, TlsError};

/// Where it comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// PEM files, chain and key, read again when they change.
    Files {
        /// Leaf first.
        chain: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Made once for these names and addresses and kept in a folder that exists. Nodes know it by its fingerprint.
    SelfMade {
        /// The folder.
        folder: PathBuf,
        /// The names.
        names: Vec<String>,
    },
    /// An authority's, renewed in time.
    Acme(AcmeConfig),
}

/// A certificate to show. [`Shown::keep`] must run for as long as the listener does.
pub struct Shown {
    certificates: Arc<Certificates>,
    pin: Option<[u8; 32]>,
    problem: watch::Receiver<Problem>,
    upkeep: Upkeep,
}

enum Upkeep {
    None(watch::Sender<Problem>),
    Files { chain: PathBuf, key: PathBuf, problem: watch::Sender<Problem> },
    Acme(Box<Acme>),
}

impl Shown {
    /// Reads or makes it. An authority is asked only by [`Shown::keep`], when the listener answers.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(source: Source) -> Result<Self, TlsError> {
        let (tell, problem) = watch::channel(None);
        Ok(match source {
            Source::Files { chain, key } => {
                let certificates = Certificates::new(Certificate::from_files(&chain, &key)?)?;
                Self { certificates, pin: None, problem, upkeep: Upkeep::Files { chain, key, problem: tell } }
            }
            Source::SelfMade { folder, names } => {
                let certificate = Certificate::kept_in(&folder, &names)?;
                let pin = Some(certificate.fingerprint());
                Self { certificates: Certificates::new(certificate)?, pin, problem, upkeep: Upkeep::None(tell) }
            }
            Source::Acme(config) => {
                let certificates = Certificates::none_yet();
                let acme = Acme::new(config, Arc::clone(&certificates));
                Self { certificates, pin: None, problem: acme.problem(), upkeep: Upkeep::Acme(Box::new(acme)) }
            }
        })
    }

    /// For a listener.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        self.certificates.server_config()
    }

    /// SHA-256 of a certificate that nobody vouches for, which clients must be told; `None` where an authority does.
    pub fn pin(&self) -> Option<[u8; 32]> {
        self.pin
    }

    /// The certificates themselves, for whoever shows one more.
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.certificates
    }

    /// What a person should know about it now.
    pub fn problem(&self) -> watch::Receiver<Problem> {
        self.problem.clone()
    }

    /// What must be answered, also by plain HTTP on port 80 if there is such a listener.
    pub fn routes(&self) -> Routes<Peer> {
        match &self.upkeep {
            Upkeep::Acme(acme) => acme.routes(),
            _ => Routes::new(),
        }
    }

    /// Keeps it good. Never returns; drop it to stop.
    pub async fn keep(self, random: Random) {
        match self.upkeep {
            Upkeep::None(_tell) => std::future::pending().await,
            Upkeep::Files { chain, key, problem } => follow_files(self.certificates, chain, key, problem).await,
            Upkeep::Acme(acme) => acme.run(random).await,
        }
    }
}
