//! One order at an authority: account, proof for each name, certificate.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};

use super::{AcmeConfig, AcmeError, Answers, Challenge};
use crate::certificates::Certificates;
use crate::{exchange, files};

/// Most bytes of an authority's answer.
const LARGEST_ANSWER: usize = 1 << 20;
/// For one exchange with it.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// What an authority answers when it has forgotten an account, and what it is called in its answers (RFC 8555 §6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
/// Until the authority has asked at our ports, and again until it has signed.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(Duration::from_secs(80));

/// Gets a certificate; key and chain in PEM.
pub(super) async fn place(
    config: &AcmeConfig,
    certificates: &Arc<Certificates>,
    answers: &Answers,
) -> Result<String, AcmeError> {
    let names: Vec<Identifier> = config.names.iter().cloned().map(Identifier::Dns).collect();
    let account = account(config, WhichAccount::Kept).await?;
    let mut order = match account.new_order(&NewOrder::new(&names)).await {
        Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
            let account = self::account(config, WhichAccount::New).await?;
            account.new_order(&NewOrder::new(&names)).await?
        }
        order => order?,
    };
    prove(config, certificates, answers, &mut order).await?;
    let status = order.poll_ready(&PATIENCE).await?;
    if status != OrderStatus::Ready {
        return Err(why_not(&mut order, status).await);
    }
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::new(config.names.clone())?.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&PATIENCE).await?;
    Ok(format!("{}{chain}", key.serialize_pem()))
}

/// Answers the challenge for each name that is not proven yet, and tells the authority to ask.
async fn prove(
    config: &AcmeConfig,
    certificates: &Arc<Certificates>,
    answers: &Answers,
    order: &mut Order,
) -> Result<(), AcmeError> {
    let (wanted, kind) = match config.challenge {
        Challenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        Challenge::Http01 => (ChallengeType::Http01, "http-01"),
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue; // proven for an earlier order
        }
        let name = authorization.identifier().to_string();
        let challenge = authorization.challenge(wanted.clone());
        let mut challenge = challenge.ok_or_else(|| AcmeError::NoChallenge { name: name.clone(), kind })?;
        let proof = challenge.key_authorization();
        match config.challenge {
            Challenge::TlsAlpn01 => {
                certificates.answer_challenge(&name, proof.digest().as_ref())?;
            }
            Challenge::Http01 => {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.insert(challenge.token.clone(), proof.as_str().to_owned());
            }
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// What the authority says was wrong with a proof.
async fn why_not(order: &mut Order, status: OrderStatus) -> AcmeError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            let name = authorization.identifier().to_string();
            return AcmeError::Refused { name, reason: one_line(&problem.to_string()) };
        }
    }
    AcmeError::Order(format!("{status:?}"))
}

/// Words of a stranger, fit for a log.
fn one_line(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhichAccount {
    Kept,
    New,
}

/// Our account with this authority, made and kept if there is none.
async fn account(config: &AcmeConfig, which: WhichAccount) -> Result<Account, AcmeError> {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct File {
        directory: String,
        account: AccountCredentials,
    }
    let path = config.folder.join("acme-account.json");
    let builder = || Account::builder_with_http(Box::new(OurClient));
    if which == WhichAccount::Kept
        && let Ok(text) = std::fs::read(&path)
        && let Ok(file) = serde_json::from_slice::<File>(&text)
        && file.directory == config.directory
    {
        return Ok(builder().from_credentials(file.account).await?);
    }
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wish = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (made, credentials) = builder().create(&wish, config.directory.clone(), None).await?;
    let file = File { directory: config.directory.clone(), account: credentials };
    let text = serde_json::to_vec(&file).map_err(Error::from)?;
    files::replace(&path, &text, 0o600).map_err(|source| AcmeError::Write { path, source })?;
    Ok(made)
}

/// The exchanges of the protocol by our own client: one connection each, trust as the system has it.
struct OurClient;

impl HttpClient for OurClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let request = Request::from_parts(head, Full::new(body));
            let answer = exchange::exchange(request, None, LARGEST_ANSWER, EXCHANGE_DEADLINE).await;
            let answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}
