//! The API on the public port: which key asks, whether it is good now, and the way to the REST handlers.
//!
//! Without any API key there is nothing at this address. Refusals are flat; why is said in the log, a few times a minute
//! for each source. A source with many failures is not shut out, for a whole office may stand behind one address and a
//! key cannot be guessed: it is only answered 429 and logged no more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::rows::ApiKey;
use warren_control::{ApiKeyRefusal, Command, Registry, What, api_keys};
use warren_crypto::UnixTime;
use warren_io::answer::{self, Body};
use warren_io::listener::Peer;
use warren_io::web_socket::Origins;
use warren_ip::source_of;

use crate::admin_door::Operator;
use crate::clock;
use crate::rest::{self, problem};
use crate::service::Shared;

/// Failures of one source within [`WHILE`] that are looked into.
const MOST_FAILURES: u32 = 10;
const WHILE: Duration = Duration::from_secs(60);

/// Sources that are remembered at a time; further ones are answered like those with too many failures.
const MOST_SOURCES: usize = 4096;

/// A request does not wait longer than this for its key's use to be written down.
const NOTING: Duration = Duration::from_secs(1);

/// How often sources failed lately.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    by_source: Mutex<BTreeMap<IpAddr, (Instant, u32)>>,
}

impl Failures {
    /// Counts one; whether it is still one of few.
    fn count(&self, from: IpAddr, now: Instant) -> bool {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let source = source_of(from);
        if by_source.len() >= MOST_SOURCES && !by_source.contains_key(&source) {
            by_source.retain(|_, (since, _)| now.saturating_duration_since(*since) < WHILE);
            if by_source.len() >= MOST_SOURCES {
                return false;
            }
        }
        let (since, count) = by_source.entry(source).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WHILE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= MOST_FAILURES
    }
}

/// Why a request came no further. For the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("an API key over plain HTTP")]
    Plain,
    #[error("sent by a web page of another site")]
    WebPage,
    #[error("no API key")]
    NoKey,
    #[error(transparent)]
    Key(#[from] ApiKeyRefusal),
}

/// See the module.
pub(crate) async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let (snapshot, now) = (shared.registry.snapshot(), clock::wall());
    if snapshot.registry().api_key_count() == 0 {
        return answer::text(StatusCode::NOT_FOUND, "there is nothing at this address");
    }
    let from = peer.address.ip().to_canonical();
    let may_be_plain = shared.api_over_plain_http;
    match authorise(
        request.headers(),
        is_private(peer.is_tls, from, may_be_plain),
        &shared.origins,
        snapshot.registry(),
        now,
    ) {
        Ok(key) => {
            request.headers_mut().remove(AUTHORIZATION);
            if key.is_news(now) {
                let seen = Command::by_server(What::SeeApiKey { key: key.id });
                // What the key is used for matters more than when.
                let _ = tokio::time::timeout(NOTING, shared.registry.command(seen)).await;
            }
            rest::answer(request, shared, Operator::Key { key, from }).await
        }
        Err(refused) if shared.api_failures.count(from, clock::now()) => {
            tracing::warn!(%from, reason = %refused, "an API request was refused");
            refused.response()
        }
        Err(_) => {
            let mut response = answer::text(StatusCode::TOO_MANY_REQUESTS, "too many requests without a good API key");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(WHILE.as_secs()));
            response
        }
    }
}

/// Whether nobody between us and the caller can read the key, or the operator says that this does not matter.
fn is_private(is_tls: bool, from: IpAddr, may_be_plain: bool) -> bool {
    is_tls || from.is_loopback() || may_be_plain
}

/// Which key asks. A page of another site can make a browser ask, but not without naming itself.
fn authorise(
    headers: &HeaderMap,
    is_private: bool,
    origins: &Origins,
    registry: &Registry,
    now: UnixTime,
) -> Result<Arc<ApiKey>, Refused> {
    if !origins.allow(headers.get(ORIGIN)) {
        return Err(Refused::WebPage);
    }
    if !is_private {
        return Err(Refused::Plain);
    }
    let mut said = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (said.next(), said.next()) else { return Err(Refused::NoKey) };
    let (scheme, key) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Refused::NoKey)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::NoKey);
    }
    Ok(Arc::clone(api_keys::check(registry, key, now)?))
}

impl Refused {
    fn response(&self) -> Response<Body> {
        match self {
            Self::Plain => problem(
                StatusCode::FORBIDDEN,
                "this server takes API keys over https only; whoever listens may have this one now, so make another \
                 (the server's configuration can allow plain HTTP: api_over_plain_http = true)",
            ),
            Self::WebPage => problem(StatusCode::FORBIDDEN, "this web page may not use the API"),
            Self::NoKey | Self::Key(_) => {
                let mut response = answer::text(StatusCode::UNAUTHORIZED, "Unauthorized");
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_by_tls_or_from_this_machine_unless_the_operator_says_otherwise() {
        let far = IpAddr::from([192, 0, 2, 1]);
        assert!(is_private(true, far, false) && is_private(false, far, true));
        assert!(is_private(false, IpAddr::from([127, 0, 0, 1]), false) && !is_private(false, far, false));
        let (origins, registry) = (Origins::new(["https://control.example"]).expect("an origin"), Registry::default());
        let refused = |headers: &HeaderMap, private: bool| {
            authorise(headers, private, &origins, &registry, UnixTime::from_secs(0)).expect_err("refused")
        };
        let mut headers = HeaderMap::new();
        assert_eq!(refused(&headers, false), Refused::Plain);
        assert_eq!(refused(&headers, true), Refused::NoKey);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer wkey-api-x"));
        headers.insert(ORIGIN, HeaderValue::from_static("https://control.example"));
        assert_eq!(refused(&headers, true), Refused::Key(ApiKeyRefusal::Malformed));
        headers.insert(ORIGIN, HeaderValue::from_static("null"));
        assert_eq!(refused(&headers, true), Refused::WebPage);
        let plain = Refused::Plain.response();
        assert_eq!(plain.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn failures_are_few_for_each_source_and_many_sources_are_not_remembered() {
        let failures = Failures::default();
        let (begin, one) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        for _ in 0..MOST_FAILURES {
            assert!(failures.count(one, begin));
        }
        assert!(!failures.count(one, begin));
        assert!(failures.count(IpAddr::from([192, 0, 2, 2]), begin), "another source");
        assert!(!failures.count("::ffff:192.0.2.1".parse().expect("an address"), begin), "the same in other clothes");
        for n in 0..MOST_SOURCES as u32 * 2 {
            failures.count(IpAddr::from(n.to_be_bytes()), begin);
        }
        assert_eq!(failures.by_source.lock().expect("whole").len(), MOST_SOURCES);
        assert!(!failures.count(IpAddr::from([198, 51, 100, 1]), begin), "no room");
        assert!(failures.count(IpAddr::from([198, 51, 100, 1]), begin + WHILE), "room again");
        assert!(failures.count(one, begin + WHILE), "and forgiven");
    }
}
