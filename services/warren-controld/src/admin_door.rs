//! The admin socket: who calls, whether they may, and the way to the REST handlers.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN, REFERER};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use warren_api::admin;
use warren_control::rows::ApiKey;
use warren_control::{Actor, Registry};
use warren_crypto::UnixTime;
use warren_io::answer::Body;
use warren_io::local_socket::{Caller, LocalListener};
use warren_io::routes::Routes;

use crate::rest::scopes::Need;
use crate::rest::{self, problem};
use crate::service::Shared;

/// Open connections: a console and some scripts are far below.
const MOST: usize = 128;

/// For the head of a request, and for how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(30);

/// A caller whom a door let in.
#[derive(Clone, Debug)]
pub(crate) enum Operator {
    /// The admin socket; may do everything.
    Local(Caller),
    /// The public port, with an API key.
    Key {
        /// Which.
        key: Arc<ApiKey>,
        /// Where the request came from.
        from: IpAddr,
    },
}

impl Operator {
    /// As the audit table knows them.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::Local(caller) => Actor::Operator { name: format!("uid {}", caller.uid), door: "admin socket" },
            Self::Key { key, from } => Actor::ApiKey { prefix: key.prefix.clone(), from: *from },
        }
    }

    /// Whether they are still who they were when the request began: a key may have ended since.
    pub(crate) fn still_stands(&self, registry: &Registry, now: UnixTime) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Key { key, .. } => registry.api_key(key.id).is_some_and(|key| key.expiry > now),
        }
    }

    /// Whether they may do what needs this.
    pub(crate) fn may(&self, need: Need) -> bool {
        match self {
            Self::Local(_) => true,
            Self::Key { key, .. } => need.is_met_by(&key.scopes),
        }
    }
}

/// Answers for ever; dropping the future drops all connections.
pub(crate) async fn serve(listener: &LocalListener, shared: Arc<Shared>) {
    let routes: Arc<Routes<(Arc<Shared>, Operator)>> = Arc::new(rest::routes());
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, caller)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors: those that we hold come free
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (shared, routes) = (Arc::clone(&shared), Arc::clone(&routes));
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (shared, routes) = (Arc::clone(&shared), Arc::clone(&routes));
                async move { Ok::<_, Infallible>(answer(request, caller, shared, &routes).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10);
            let _ = http.serve_connection(TokioIo::new(stream), service).await; // how a client leaves is its affair
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    caller: Caller,
    shared: Arc<Shared>,
    routes: &Routes<(Arc<Shared>, Operator)>,
) -> Response<Body> {
    let verdict = authorise(caller, shared.owner, request.method(), request.uri().path(), request.headers());
    match verdict {
        Ok(operator) => routes.answer(request, (shared, operator)).await,
        Err(reason) => {
            tracing::warn!(uid = caller.uid, reason, "an administration request was refused");
            problem(StatusCode::FORBIDDEN, "you may not administer this server")
        }
    }
}

/// The one place that says who may ask what of the admin API: every request passes here, and what is not known is
/// refused. Root and the server's own user may do everything; nobody else may do anything.
fn authorise(
    caller: Caller,
    owner: u32,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Operator, &'static str> {
    // A web page can make a browser talk to a proxy of this socket, but not without naming itself.
    if headers.contains_key(ORIGIN) || headers.contains_key(REFERER) {
        return Err("sent by a web page");
    }
    let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    if !["", admin::HOST, "localhost"].iter().any(|known| host == known.as_bytes()) {
        return Err("for another host");
    }
    if !path.starts_with(admin::BASE_PATH) {
        return Err("not an administration path");
    }
    if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(method) {
        return Err("not a known method");
    }
    if caller.uid != 0 && caller.uid != owner {
        return Err("neither root nor the server's own user");
    }
    Ok(Operator::Local(caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: u32 = 990;

    #[track_caller]
    fn check(uid: u32, method: Method, path: &str, header: Option<(&'static str, &'static str)>, expect: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(admin::HOST));
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let caller = Caller { uid, gid: uid, pid: None };
        let verdict = authorise(caller, OWNER, &method, path, &headers);
        assert_eq!(verdict.is_ok(), expect, "{uid} {method} {path} {header:?}: {verdict:?}");
    }

    #[test]
    fn root_and_the_owner_may_do_everything_and_others_nothing() {
        for row in rest::TABLE {
            for method in row.methods {
                for (uid, expect) in [(0, true), (OWNER, true), (1000, false), (u32::MAX, false)] {
                    check(uid, method.parse().expect("a method"), row.example, None, expect);
                }
            }
        }
        check(0, Method::GET, "/key", None, false);
        check(0, Method::CONNECT, "/api/v1/node", None, false);
    }

    #[test]
    fn web_pages_are_refused_whoever_runs_the_browser() {
        check(0, Method::GET, "/api/v1/node", Some(("origin", "https://evil.example")), false);
        check(0, Method::GET, "/api/v1/node", Some(("referer", "https://evil.example/")), false);
        check(0, Method::GET, "/api/v1/node", Some(("host", "evil.example")), false);
        check(0, Method::GET, "/api/v1/node", Some(("host", "localhost")), true);
    }
}
