//! The accept loop, and what holds for every request before it reaches its handler.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue, ORIGIN, REFERER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_io::local_socket::LocalListener;

use super::places::Places;
use super::{Backend, Caller, Refusal, routes};

/// Largest request body: prefs with many routes are a few kilobytes.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;

/// A client that has not sent its headers by then is not one.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// Answers until `shutdown` turns true, then drops every connection.
pub async fn serve<B: Backend>(
    listener: LocalListener,
    backend: B,
    capability: u32,
    mut shutdown: watch::Receiver<bool>,
) {
    let places = Places::new(nix::unistd::geteuid().as_raw());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, caller)) = accepted else {
            // Out of descriptors: those that we hold will come free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(place) = places.take(caller.uid) else { continue };
        let caller = Caller { uid: caller.uid };
        let backend = backend.clone();
        connections.spawn(async move {
            let door = backend.clone();
            let service = service_fn(move |request| {
                let backend = backend.clone();
                async move { Ok::<_, Infallible>(answer(request, backend, caller, capability).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(64 << 10);
            // An error here is the client's: it left, or sent something that is not HTTP.
            let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            if served.is_err_and(|error| error.is_parse() || error.is_timeout()) {
                door.note_refusal();
            }
            drop(place);
        });
    }
    connections.shutdown().await;
}

async fn answer<B: Backend>(request: Request<Incoming>, backend: B, caller: Caller, capability: u32) -> Response<Body> {
    let mut response = match guard(request.headers(), request.uri()) {
        Ok(()) => routes::route(request, backend.clone(), caller).await.unwrap_or_else(refuse),
        Err(refusal) => {
            backend.note_refusal();
            refuse(refusal)
        }
    };
    for (name, value) in [
        ("tailscale-version", warren_api::local::CONTRACT_VERSION),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'; script-src 'none'; script-src-elem 'none'; script-src-attr 'none'",
        ),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response.headers_mut().insert(HeaderName::from_static("tailscale-cap"), HeaderValue::from(capability));
    response
}

/// A web page can make a browser send requests to local services, but not without naming itself.
fn guard(headers: &HeaderMap, uri: &http::Uri) -> Result<(), Refusal> {
    let invalid = || Err(Refusal::new(403, "invalid localapi request"));
    if headers.contains_key(ORIGIN) || headers.contains_key(REFERER) {
        return invalid();
    }
    let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let named = uri.host().unwrap_or_default().as_bytes();
    for host in [host, named] {
        if !host.is_empty() && host != warren_api::local::HOST.as_bytes() {
            return invalid();
        }
    }
    Ok(())
}

pub(super) fn refuse(refusal: Refusal) -> Response<Body> {
    let mut response = text(&refusal.text);
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

pub(super) fn text(text: &str) -> Response<Body> {
    Response::new(Full::new(Bytes::from(format!("{text}\n"))).boxed())
}

pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = status;
    response
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    let mut body = serde_json::to_vec_pretty(value).map_err(|error| Refusal::new(500, error.to_string()))?;
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        guard(&headers, &http::Uri::from_static("/localapi/v0/status")).is_ok()
    }

    #[test]
    fn only_the_sockets_own_name_is_a_host_and_pages_are_refused() {
        assert!(check("host", "local-tailscaled.sock"));
        assert!(check("host", ""));
        assert!(!check("host", "localhost"));
        assert!(!check("host", "evil.example"));
        assert!(!check("origin", "https://evil.example"));
        assert!(!check("referer", "http://local-tailscaled.sock/"));
        assert!(guard(&HeaderMap::new(), &http::Uri::from_static("http://evil.example/localapi/v0/status")).is_err());
    }
}
