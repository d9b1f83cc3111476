//! What a relay answers by HTTP.

use std::sync::Arc;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use warren_io::answer::{self, Body};
use warren_io::debug_counters;
use warren_io::http_upgrade;
use warren_io::listener::Peer;
use warren_io::routes::Routes;
use warren_io::web_socket::{self, Origins};

use crate::relay::Relay;
use crate::stun::StunCounters;
use crate::{connection, fast_start};

const PROTOCOL: &str = "DERP";
/// The same as a subprotocol of WebSocket.
const SUBPROTOCOL: &str = "derp";
const CHALLENGE: &str = "x-tailscale-challenge";
const CHALLENGE_ANSWER: &str = "x-tailscale-response";
/// Longest challenge that is answered.
const MAX_CHALLENGE_BYTES: usize = 64;

impl Relay {
    /// `/derp`, `/derp/probe`, `/derp/latency-check` and `/generate_204`, for a listener that may answer more than that.
    /// `origins`: the pages that may use the relay by WebSocket.
    pub fn routes(&self, origins: Origins) -> Routes<Peer> {
        let relay = self.clone();
        Routes::new()
            .at("/derp", move |request, peer| {
                let answer = upgrade(&relay, &origins, request, peer);
                async move { answer }
            })
            .at("/derp/probe", |request, _| async move { probe(&request) })
            .at("/derp/latency-check", |request, _| async move { probe(&request) })
            .at("/generate_204", |request, _| async move { generate_204(&request) })
    }

    /// `/debug/counters` for callers on this machine: the relay's, its STUN server's, and what `others` says by name.
    pub fn debug_routes(
        &self,
        stun: Arc<StunCounters>,
        others: impl Fn() -> Vec<(&'static str, Value)> + Send + Sync + 'static,
    ) -> Routes<Peer> {
        let relay = self.clone();
        Routes::new().at("/debug/counters", move |_, peer: Peer| {
            let own = serde_json::to_value(relay.counters()).unwrap_or_default(); // plain numbers
            let mut all = others();
            all.push(("stun", stun.to_json()));
            let answer = debug_counters::answer(&peer, own, &all);
            async move { answer }
        })
    }
}

fn upgrade(relay: &Relay, origins: &Origins, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    if !peer.is_tls {
        return answer::text(StatusCode::UPGRADE_REQUIRED, "a relay is reached by TLS");
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST");
    }
    if web_socket::is_wanted(request.headers()) {
        return by_web_socket(relay, origins, request, peer);
    }
    if !http_upgrade::wanted(request.headers()).is_some_and(|wanted| wanted.eq_ignore_ascii_case(PROTOCOL)) {
        return answer::text(StatusCode::UPGRADE_REQUIRED, "a relay speaks DERP after an upgrade");
    }
    let is_fast = fast_start::is_wanted(request.headers());
    let (mut response, upgrading) = http_upgrade::accept(request, PROTOCOL);
    response.headers_mut().insert(HeaderName::from_static("derp-version"), HeaderValue::from_static("2"));
    if let Ok(key) = HeaderValue::from_str(&relay.public().to_string()) {
        response.headers_mut().insert(HeaderName::from_static("derp-public-key"), key);
    }
    if is_fast {
        peer.mute.silence();
    }
    let inner = Arc::clone(relay.inner());
    relay.inner().tasks.spawn(async move {
        // An error is the client's: it left before the answer.
        if let Ok(stream) = upgrading.await {
            peer.mute.lift();
            connection::attend(inner, peer.address.ip(), stream).await;
        }
        drop(peer); // counts as one of the listener's connections until here
    });
    response
}

fn by_web_socket(relay: &Relay, origins: &Origins, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    let accepted = match web_socket::accept(request, SUBPROTOCOL, origins) {
        Ok(accepted) => accepted,
        Err(refused) => return refused,
    };
    let inner = Arc::clone(relay.inner());
    relay.inner().tasks.spawn(async move {
        match accepted.opening.await {
            Ok(stream) if accepted.is_agreed => connection::attend(inner, peer.address.ip(), stream).await,
            Ok(stream) => stream.refuse("a relay speaks the subprotocol derp").await,
            Err(_) => {} // it left before the answer
        }
        drop(peer); // counts as one of the listener's connections until here
    });
    accepted.response
}

fn probe<B>(request: &Request<B>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD");
    }
    let mut response = answer::empty(StatusCode::OK);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// What tells a captive portal from the internet: a portal would not answer the challenge.
fn generate_204<B>(request: &Request<B>) -> Response<Body> {
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    let never = "no-cache, no-store, must-revalidate, no-transform, max-age=0";
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(never));
    let challenge = request.headers().get(CHALLENGE).and_then(|value| value.to_str().ok());
    if let Some(challenge) = challenge.filter(|text| is_challenge(text))
        && let Ok(value) = HeaderValue::from_str(&format!("response {challenge}"))
    {
        response.headers_mut().insert(HeaderName::from_static(CHALLENGE_ANSWER), value);
    }
    response
}

fn is_challenge(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    !text.is_empty() && text.len() <= MAX_CHALLENGE_BYTES && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_unless_it_could_be_something_else() {
        let ask = |challenge: &str| {
            let request = Request::builder().header(CHALLENGE, challenge).body(()).unwrap();
            let response = generate_204(&request);
            assert_eq!(response.status(), StatusCode::NO_CONTENT);
            response.headers().get(CHALLENGE_ANSWER).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(ask("ts_relay.example:443"), Some("response ts_relay.example:443".to_owned()));
        assert_eq!(ask("<script>"), None);
        assert_eq!(ask(&"a".repeat(65)), None);
    }

    #[test]
    fn probes_are_read_only_and_open_to_every_page() {
        let ask = |method: Method| probe(&Request::builder().method(method).body(()).unwrap());
        assert_eq!(ask(Method::HEAD).headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(ask(Method::POST).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
