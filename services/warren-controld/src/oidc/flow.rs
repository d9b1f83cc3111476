//! The addresses of a sign-in; see the module above for their order.
//!
//! Every refusal is told twice in the same words: to the person in a page, to the operator in the log. Neither ever has
//! a code, a token, a cookie or a verifier in it.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{COOKIE, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::rows::{self, Sealed};
use warren_control::{Actor, Answer, AuthId, CheckRefusal, CheckStep, CheckVerdict, Command, Person, Refusal, What};
use warren_io::answer::{self, Body};
use warren_io::listener::Peer;
use warren_oidc::Secret;

use super::attempts::{Attempts, Back, Errand, Lost, Token};
use super::provider::VouchError;
use super::{SignIn, provider};
use crate::registry::CommandError;
use crate::service::Shared;
use crate::ssh_checks::SettleError;
use crate::{clock, pages};

/// A form of ours has two short fields.
const LARGEST_FORM: usize = 4096;
const FORM_DEADLINE: Duration = Duration::from_secs(30);

/// As long as an attempt lives.
const COOKIE_SECONDS: u32 = 15 * 60;

/// To keep a token, while others change what is known of its person.
const TRIES: u32 = 4;

/// Letters of the state that a cookie's name has, so that sign-ins side by side do not spoil each other.
const NAME_LETTERS: usize = 8;

/// Why a sign-in goes no further.
#[derive(Debug, thiserror::Error)]
enum NotSignedIn {
    #[error("no identity provider is configured here")]
    Off,
    #[error("nothing waits at this link (any more)")]
    NotWaiting(Option<Errand>),
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error("the provider's answer is not complete")]
    Incomplete,
    #[error("the provider said no: {said}")]
    Declined { errand: Errand, said: String },
    #[error("{source}")]
    Vouch { errand: Errand, source: VouchError },
    #[error("{source}")]
    Command { errand: Errand, source: CommandError },
    #[error("{source}")]
    Check { errand: Errand, source: CheckRefusal },
    #[error("the form cannot be read")]
    Form,
    #[error("this address is asked for with {0}")]
    Method(&'static str),
}

impl NotSignedIn {
    fn errand(&self) -> Option<Errand> {
        match self {
            Self::Declined { errand, .. } | Self::Vouch { errand, .. } => Some(*errand),
            Self::Command { errand, .. } | Self::Check { errand, .. } => Some(*errand),
            Self::NotWaiting(errand) => *errand,
            Self::Off | Self::Lost(_) | Self::Incomplete | Self::Form | Self::Method(_) => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Off | Self::NotWaiting(_) => StatusCode::NOT_FOUND,
            Self::Lost(_) | Self::Incomplete | Self::Form => StatusCode::BAD_REQUEST,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Declined { .. } => StatusCode::FORBIDDEN,
            Self::Vouch { source, .. } if source.is_about_the_person() => StatusCode::FORBIDDEN,
            Self::Vouch { .. } => StatusCode::BAD_GATEWAY,
            Self::Check { source: CheckRefusal::Unknown, .. } => StatusCode::NOT_FOUND,
            Self::Check { source: CheckRefusal::Answered, .. } => StatusCode::CONFLICT,
            Self::Check { source: CheckRefusal::NotTheirs { .. }, .. } => StatusCode::FORBIDDEN,
            Self::Command { source: CommandError::Unavailable(_), .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Command { source: CommandError::Refused(refusal), .. } => match refusal {
                Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
                _ => StatusCode::FORBIDDEN,
            },
        }
    }

    /// Whether anybody can bring it about, without a link and a browser of ours: then it may not fill the log.
    fn is_anybodys(&self) -> bool {
        match self {
            Self::Off | Self::NotWaiting(_) | Self::Lost(Lost::Unknown | Lost::OtherBrowser) => true,
            Self::Incomplete | Self::Form | Self::Method(_) => true,
            Self::Lost(Lost::Used | Lost::Form) => false,
            Self::Declined { .. } | Self::Vouch { .. } | Self::Command { .. } | Self::Check { .. } => false,
        }
    }

    /// Whether what they signed in for may have been answered, by whomever: then it is not said that nothing was done.
    fn is_over(&self) -> bool {
        match self {
            Self::NotWaiting(_) => true,
            Self::Check { source, .. } => matches!(source, CheckRefusal::Unknown | CheckRefusal::Answered),
            Self::Lost(_) | Self::Declined { .. } | Self::Vouch { .. } | Self::Command { .. } => false,
            Self::Off | Self::Incomplete | Self::Form | Self::Method(_) => false,
        }
    }

    fn page(&self) -> Response<Body> {
        let link = self.errand().map(|errand| errand.id().to_string());
        let link = link.as_deref();
        if self.is_anybodys() {
            tracing::debug!(link, reason = %self, "a sign-in was refused");
        } else {
            // Whether the provider or a person is at fault, somebody wants to know why it did not work.
            tracing::warn!(link, reason = %self, "a sign-in was refused");
        }
        pages::refused(self.status(), &self.to_string(), self.errand(), self.is_over())
    }
}

/// `/oidc/start/<id>`: to the provider, remembered for this browser.
pub(crate) async fn start(shared: Arc<Shared>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let begin = async {
        let sign_in = shared.sign_in.as_ref().ok_or(NotSignedIn::Off)?;
        if request.method() != Method::GET {
            return Err(NotSignedIn::Method("GET"));
        }
        let id = request.uri().path().strip_prefix("/oidc/start/").and_then(|id| id.parse::<AuthId>().ok());
        let id = id.ok_or(NotSignedIn::NotWaiting(None))?;
        let errand = errand(&shared, id)?;
        let begun = sign_in.attempts().begin(errand, peer.address.ip(), clock::now(), &mut shared.seeds.fork());
        let url = sign_in.provider.login_url(&begun.login, errand).await;
        let url = url.map_err(|source| NotSignedIn::Vouch { errand, source })?;
        let cookie = sign_in.cookie(&begun.login.state, begun.cookie.expose(), COOKIE_SECONDS);
        Ok(go_to(url.as_str(), Some(cookie)))
    };
    begin.await.unwrap_or_else(|error: NotSignedIn| error.page())
}

/// What waits at this link for somebody to sign in.
fn errand(shared: &Shared, id: AuthId) -> Result<Errand, NotSignedIn> {
    if let Some(check) = shared.ssh_checks.check(id, &shared.registry.snapshot()) {
        let errand = Errand::Shell(id);
        return if check.step == CheckStep::Open { Ok(errand) } else { Err(NotSignedIn::NotWaiting(Some(errand))) };
    }
    let errand = Errand::Device(id);
    let is_open = shared.registry.waiting(id).is_some_and(|waiting| waiting.verdict.is_none());
    if is_open { Ok(errand) } else { Err(NotSignedIn::NotWaiting(Some(errand))) }
}

/// `/oidc/callback`: back from the provider.
pub(crate) async fn callback(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let come_back = async {
        let sign_in = shared.sign_in.as_ref().ok_or(NotSignedIn::Off)?;
        if request.method() != Method::GET {
            return Err(NotSignedIn::Method("GET"));
        }
        let query = request.uri().query().unwrap_or_default();
        let fields = Fields::read(query.as_bytes());
        let state = fields.get("state").ok_or(NotSignedIn::Incomplete)?;
        let cookie = sign_in.cookie_of(request.headers(), state)?;
        let (errand, login) = sign_in.attempts().take(state, cookie, clock::now())?;
        let vouch = |source| NotSignedIn::Vouch { errand, source };
        sign_in.provider.check_issuer(fields.get("iss")).await.map_err(vouch)?;
        if let Some(error) = fields.get("error") {
            let said = match fields.get("error_description") {
                Some(description) => format!("{error}: {description}"),
                None => error.to_owned(),
            };
            let said = said.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(NotSignedIn::Declined { errand, said });
        }
        let code = Secret::new(fields.get("code").ok_or(NotSignedIn::Incomplete)?);
        let vouched = sign_in.provider.redeem(&login, &code, errand).await.map_err(vouch)?;
        let provider::Vouched { person, refresh, until } = vouched;
        if let Errand::Shell(id) = errand {
            // Somebody else hears it now, and not after they said yes.
            let check = shared.ssh_checks.may_answer(id, &actor(&person), &shared.registry.snapshot());
            check.map_err(|source| NotSignedIn::Check { errand, source })?;
        }
        let refresh = refresh.and_then(|token| sign_in.sealer.seal(&token, &person.issuer, &person.subject));
        let refresh = match refresh {
            Some(sealed) => Some(keep(&shared, &person, sealed).await),
            None => None,
        };
        let refresh = refresh.transpose().map_err(|source| NotSignedIn::Command { errand, source })?;
        sign_in.attempts().came_back(state, person, refresh, until, &mut shared.seeds.fork());
        // Another address, so that the code is in no history and going back does not use it twice.
        Ok(go_to(&format!("/oidc/confirm/{state}"), None))
    };
    come_back.await.unwrap_or_else(|error: NotSignedIn| error.page())
}

/// A new token may have taken the old one away, whatever is answered to the question that comes now, or never. So of
/// somebody who is known it is kept at once.
async fn keep(shared: &Shared, person: &Person, sealed: Sealed) -> Result<Token, CommandError> {
    let mut tries = 0;
    loop {
        let Some(asked) = signed_in(shared, person) else { return Ok(Token { sealed, is_kept: false }) };
        let (person, refresh) = (Box::new(person.clone()), Some(sealed.clone()));
        let what = What::RefreshPerson { user: asked.user, person, refresh, asked };
        tries += 1;
        match shared.registry.command(Command::by_server(what)).await {
            Ok(_) => return Ok(Token { sealed, is_kept: true }),
            // The provider was just asked about them as well.
            Err(CommandError::Refused(Refusal::Conflict(_))) if tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// What is known of a sign-in of theirs that goes on.
fn signed_in(shared: &Shared, person: &Person) -> Option<Arc<rows::SignIn>> {
    let snapshot = shared.registry.snapshot();
    let user = snapshot.registry().user_by_identity(&person.issuer, &person.subject)?;
    snapshot.registry().sign_in(user.id).filter(|row| !row.ended).cloned()
}

/// `/oidc/confirm/<state>`: the question, and its answer.
pub(crate) async fn confirm(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let answer = async {
        let sign_in = shared.sign_in.as_ref().ok_or(NotSignedIn::Off)?;
        let state = head.uri.path().strip_prefix("/oidc/confirm/").unwrap_or_default();
        let cookie = sign_in.cookie_of(&head.headers, state)?;
        match head.method {
            Method::GET => ask(&shared, sign_in, state, cookie).await,
            Method::POST => {
                // Browsers of the last years say where a form came from; the token is for the others.
                if head.headers.get("sec-fetch-site").is_some_and(|from| from != "same-origin") {
                    return Err(Lost::Form.into());
                }
                let body = answer::read_body(body, LARGEST_FORM, FORM_DEADLINE).await.map_err(|_| NotSignedIn::Form)?;
                let fields = Fields::read(&body);
                let token = fields.get("token").unwrap_or_default();
                let (errand, back) = sign_in.attempts().finish(state, cookie, token, clock::now())?;
                let wanted = match fields.get("verdict") {
                    Some("add") => true,
                    Some("refuse") => false,
                    _ => return Err(NotSignedIn::Form),
                };
                match errand {
                    Errand::Device(id) => carry_out(&shared, id, back, wanted).await?,
                    Errand::Shell(id) => answer_check(&shared, id, &back.person, wanted).await?,
                }
                let forget = sign_in.cookie(state, "", 0);
                Ok(go_to(&errand.page(), Some(forget)))
            }
            _ => Err(NotSignedIn::Method("GET or POST")),
        }
    };
    answer.await.unwrap_or_else(|error: NotSignedIn| error.page())
}

async fn ask(shared: &Shared, sign_in: &SignIn, state: &str, cookie: &str) -> Result<Response<Body>, NotSignedIn> {
    let (errand, back) = sign_in.attempts().look(state, cookie, clock::now())?;
    let token = back.form_token.expose();
    match errand {
        Errand::Device(id) => {
            let waiting = shared.registry.waiting(id).filter(|waiting| waiting.verdict.is_none());
            let waiting = waiting.ok_or(NotSignedIn::NotWaiting(Some(errand)))?;
            Ok(pages::confirm(id, &waiting, &back.person, state, token))
        }
        Errand::Shell(id) => {
            let snapshot = shared.registry.snapshot();
            let check = shared.ssh_checks.may_answer(id, &actor(&back.person), &snapshot);
            let check = check.map_err(|source| NotSignedIn::Check { errand, source })?;
            Ok(pages::confirm_shell(&snapshot, &check.session, &back.person, state, token))
        }
    }
}

async fn answer_check(shared: &Shared, id: AuthId, person: &Person, wanted: bool) -> Result<(), NotSignedIn> {
    let verdict = if wanted { CheckVerdict::LetIn } else { CheckVerdict::TurnedAway };
    let errand = Errand::Shell(id);
    let settled = shared.ssh_checks.settle(&shared.registry, id, verdict, actor(person)).await;
    settled.map_err(|error| match error {
        SettleError::Check(source) => NotSignedIn::Check { errand, source },
        SettleError::Audit(source) => NotSignedIn::Command { errand, source },
    })
}

fn actor(person: &Person) -> Actor {
    Actor::Person { issuer: person.issuer.clone(), subject: person.subject.clone() }
}

async fn carry_out(shared: &Shared, id: AuthId, back: Back, wanted: bool) -> Result<(), NotSignedIn> {
    let Back { person, refresh, until, .. } = back;
    let (actor, errand) = (actor(&person), Errand::Device(id));
    let is_there = signed_in(shared, &person).is_some();
    let refresh = refresh.filter(|token| !(token.is_kept && is_there)).map(|token| token.sealed);
    let what = match wanted {
        true => What::Enrol { id, person: Box::new(person), refresh, until },
        false => What::RejectRegistration { id },
    };
    match shared.registry.command(Command { actor, what }).await {
        Ok(Answer::Refused(refusal)) => Err(NotSignedIn::Command { errand, source: Refusal::from(refusal).into() }),
        Ok(_) => {
            tracing::info!(registration = %id, added = wanted, "a person has answered for a device");
            Ok(())
        }
        Err(CommandError::Refused(Refusal::NotFound { kind: "registration", .. })) => {
            Err(NotSignedIn::NotWaiting(Some(errand)))
        }
        Err(source) => Err(NotSignedIn::Command { errand, source }),
    }
}

impl SignIn {
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the browser that began this sign-in has.
    fn cookie_of<'a>(&self, headers: &'a HeaderMap, state: &str) -> Result<&'a str, Lost> {
        cookie_of(headers, state).ok_or_else(|| match self.attempts().knows(state) {
            true => Lost::OtherBrowser,
            false => Lost::Unknown,
        })
    }

    /// Lax, because the provider sends the person back from another site. Only our own pages below `/oidc/` get it.
    fn cookie(&self, state: &str, value: &str, seconds: u32) -> String {
        let secure = if self.server_url.starts_with("https://") { "; Secure" } else { "" };
        let name = cookie_name(state);
        format!("{name}={value}; Path=/oidc/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }
}

fn cookie_name(state: &str) -> String {
    format!("warren-sign-in-{}", state.get(..NAME_LETTERS).unwrap_or_default())
}

fn cookie_of<'a>(headers: &'a HeaderMap, state: &str) -> Option<&'a str> {
    let name = cookie_name(state);
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn go_to(place: &str, cookie: Option<String>) -> Response<Body> {
    let mut response = answer::empty(StatusCode::SEE_OTHER);
    pages::guard(&mut response);
    for (name, value) in [(LOCATION, Some(place.to_owned())), (SET_COOKIE, cookie)] {
        // Both are URLs or base64url, so they are header values.
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Fields of a query or form. One that is there twice counts as absent: parsers disagree about which one is meant.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(text: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(text).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(field, _)| field == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) if !value.is_empty() => Some(value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("x=1; warren-sign-in-abcdefgh=one;y=2"));
        headers.append(COOKIE, HeaderValue::from_static("warren-sign-in-stateone=two"));
        assert_eq!(cookie_of(&headers, "abcdefghREST"), Some("one"));
        assert_eq!(cookie_of(&headers, "stateoneREST"), Some("two"));
        assert_eq!(cookie_of(&headers, "abcdefgX"), None);
        assert_eq!(cookie_of(&headers, "ä"), None);
    }

    #[test]
    fn what_anybody_can_bring_about_does_not_fill_the_log() {
        let lost = [Lost::Unknown, Lost::OtherBrowser].map(NotSignedIn::from);
        let others = [NotSignedIn::Off, NotSignedIn::Incomplete, NotSignedIn::NotWaiting(None)];
        for anybodys in lost.into_iter().chain(others) {
            assert!(anybodys.is_anybodys(), "{anybodys}");
        }
        for ones in [Lost::Used.into(), NotSignedIn::from(Lost::Form)] {
            assert!(!ones.is_anybodys(), "{ones}");
        }
    }

    #[test]
    fn a_field_that_is_said_twice_says_nothing() {
        let fields = Fields::read(b"state=a&code=1&code=2&iss=&x=%3C");
        assert_eq!((fields.get("state"), fields.get("code"), fields.get("iss")), (Some("a"), None, None));
        assert_eq!(fields.get("x"), Some("<"));
    }
}
