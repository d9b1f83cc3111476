//! A certificate for a public name from an authority, and its renewal: ACME (RFC 8555).
//!
//! ```text
//! none, or not for these names ──▶ now
//! good                         ──▶ at two thirds of its life, give or take
//! failed                       ──▶ after 2 min, 6 min, 18 min … 6 h; what is in force stays in force
//! ```
//!
//! The authority asks whether we are who we say at our own port 443 (TLS-ALPN-01, [`Certificates`]) or by plain HTTP on
//! port 80 (HTTP-01, [`Acme::routes`]). Account, key and certificate lie in the state folder, readable by their owner only.

mod order;
mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tokio::sync::watch;
use url::{Host, Url};
use warren_crypto::Random;

use crate::answer;
use crate::certificates::{Certificates, Problem, Validity};
use crate::files;
use crate::listener::Peer;
use crate::routes::Routes;
use crate::settings::SettingError;
use crate::tls::{Certificate, TlsError};
use schedule::Schedule;

/// The directory of the authority that everybody may use.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Where an authority looks for the answer to HTTP-01 (RFC 8555 §8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// One order, from account to certificate.
const ORDER_DEADLINE: Duration = Duration::from_secs(180);

/// Clocks jump and machines sleep: the plan is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// How the authority asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By TLS on port 443.
    TlsAlpn01,
    /// By plain HTTP on port 80.
    Http01,
}

/// What is wanted of whom.
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    /// URL of the authority's directory.
    pub directory: String,
    /// Where the authority writes when something is wrong.
    pub email: Option<String>,
    /// DNS names of the certificate, at least one.
    pub names: Vec<String>,
    /// How it asks.
    pub challenge: Challenge,
    /// Folder for `acme-account.json` and `acme.pem`.
    pub folder: PathBuf,
}

/// What an operator says of it, by the keys `acme_email` and so on.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Names of the certificate; the service's own first.
    pub names: Vec<String>,
    /// `acme_email`
    pub email: Option<String>,
    /// `acme_directory`; [`LETS_ENCRYPT`] if silent.
    pub directory: Option<String>,
    /// `acme_challenge`: `tls-alpn-01` if silent, or `http-01`.
    pub challenge: Option<String>,
    /// See [`AcmeConfig::folder`].
    pub folder: PathBuf,
}

impl Wish {
    /// # Errors
    /// [`SettingError::Value`] with the key.
    pub fn check(self) -> Result<AcmeConfig, SettingError> {
        let wrong = |key: &str, reason: String| SettingError::Value { place: key.to_owned(), reason };
        let mut names: Vec<String> = Vec::new();
        for name in self.names {
            if !matches!(Host::parse(&name), Ok(Host::Domain(_))) || name.contains('*') {
                let reason = "authorities vouch for a public name such as vpn.example.net";
                return Err(wrong("acme", format!("{name:?} cannot have a certificate: {reason}")));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let challenge = match self.challenge.as_deref() {
            None | Some("tls-alpn-01") => Challenge::TlsAlpn01,
            Some("http-01") => Challenge::Http01,
            Some(other) => {
                let reason = format!("{other:?} is neither \"tls-alpn-01\" nor \"http-01\"");
                return Err(wrong("acme_challenge", reason));
            }
        };
        let directory = self.directory.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        if !Url::parse(&directory).is_ok_and(|url| url.scheme() == "https") {
            let reason = format!("{directory:?} is not the https address of an ACME directory");
            return Err(wrong("acme_directory", reason));
        }
        Ok(AcmeConfig { directory, email: self.email, names, challenge, folder: self.folder })
    }
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error("{0}")]
    Authority(#[from] instant_acme::Error),
    #[error("the authority did not accept the proof for {name}: {reason}")]
    Refused { name: String, reason: String },
    #[error("the authority offers no challenge of the kind {kind} for {name}")]
    NoChallenge { name: String, kind: &'static str },
    #[error("the authority's order ended as {0}")]
    Order(String),
    #[error("no certificate within {} s", ORDER_DEADLINE.as_secs())]
    TooSlow,
    #[error("make a key or request: {0}")]
    Make(#[from] rcgen::Error),
    #[error("write {}: {source}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(#[from] TlsError),
}

/// Answers to HTTP-01, by token.
type Answers = Arc<Mutex<BTreeMap<String, String>>>;

/// See the module.
pub struct Acme {
    config: AcmeConfig,
    certificates: Arc<Certificates>,
    answers: Answers,
    problem: watch::Sender<Problem>,
}

impl Acme {
    /// Puts the certificate of an earlier run in force, if it is for these names; asks nobody yet.
    pub fn new(config: AcmeConfig, certificates: Arc<Certificates>) -> Self {
        let acme = Self { config, certificates, answers: Answers::default(), problem: watch::Sender::default() };
        if let Some(kept) = acme.kept()
            && let Err(error) = acme.certificates.replace(kept)
        {
            tracing::warn!(%error, "the certificate of an earlier run cannot be used; a new one is asked for");
        }
        acme
    }

    /// Where the authority finds the answers to HTTP-01.
    pub fn routes(&self) -> Routes<Peer> {
        let answers = Arc::clone(&self.answers);
        Routes::new().below(WELL_KNOWN, move |request, _| {
            let token = request.uri().path().strip_prefix(WELL_KNOWN).unwrap_or_default();
            let answer = answers.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned();
            async move {
                match answer {
                    Some(text) => answer::content(StatusCode::OK, "application/octet-stream", text),
                    None => answer::text(StatusCode::NOT_FOUND, "no such challenge is open"),
                }
            }
        })
    }

    /// What a person should know: why the last attempt failed, until one succeeds.
    pub fn problem(&self) -> watch::Receiver<Problem> {
        self.problem.subscribe()
    }

    /// Gets and renews for ever; drop it to stop.
    pub async fn run(self, mut random: Random) {
        let mut schedule = Schedule::new(&mut random);
        loop {
            let now = Validity::seconds(SystemTime::now());
            let wait = schedule.wait(self.certificates.validity(), now);
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
                continue;
            }
            let attempt = tokio::time::timeout(ORDER_DEADLINE, self.obtain()).await;
            self.certificates.forget_challenges();
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let now = Validity::seconds(SystemTime::now());
            match attempt.unwrap_or(Err(AcmeError::TooSlow)) {
                Ok(()) => {
                    tracing::info!(names = ?self.config.names, "a new certificate is in force");
                    self.problem.send_replace(None);
                    schedule.succeeded(&mut random);
                }
                Err(error) => {
                    schedule.failed(now, &mut random);
                    let again_s = schedule.wait(self.certificates.validity(), now).as_secs();
                    tracing::warn!(%error, again_s, "no new certificate; the one in force stays");
                    self.problem
                        .send_replace(Some(format!("no new certificate from {}: {error}", self.config.directory)));
                }
            }
        }
    }

    /// One order; what it brings is kept and put in force.
    async fn obtain(&self) -> Result<(), AcmeError> {
        let pem = order::place(&self.config, &self.certificates, &self.answers).await?;
        let certificate = Certificate::from_pem(pem.as_bytes())?;
        // First it is known to be good, then it replaces the one that was.
        let path = self.path();
        let text = format!("{}{pem}", self.heading());
        files::replace(&path, text.as_bytes(), 0o600).map_err(|source| AcmeError::Write { path, source })?;
        Ok(self.certificates.replace(certificate)?)
    }

    fn path(&self) -> PathBuf {
        self.config.folder.join("acme.pem")
    }

    /// First line of the file, before the PEM parts (RFC 7468 §5.2 allows that): for what it was ordered, and where.
    fn heading(&self) -> String {
        format!("{} from {}\n", self.config.names.join(" "), self.config.directory)
    }

    fn kept(&self) -> Option<Certificate> {
        let text = std::fs::read_to_string(self.path()).ok()?;
        let pem = text.strip_prefix(&self.heading())?;
        Certificate::from_pem(pem.as_bytes()).ok()
    }
}
