//! The table of paths, and the short handlers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use warren_api::local::{BASE_PATH, MaskedPrefs, PingKind, Prefs, StartOptions};

use super::access::{self, Access, Caller};
use super::door::{Body, MAX_BODY_BYTES, empty, json, text};
use super::{Backend, Refusal, WhoIsQuestion, bus, dial};

/// Everything that is answered. What is not here answers 404: clients take that as "this daemon has no such feature".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Status,
    Prefs,
    EditPrefs,
    CheckPrefs,
    Start,
    LoginInteractive,
    Logout,
    Profiles,
    NewProfile,
    CurrentProfile,
    Profile,
    SwitchProfile,
    DeleteProfile,
    Ping,
    WhoIs,
    DerpMap,
    Dial,
    Watch,
    Netcheck,
    Counters,
    UserMetrics,
    BugReport,
    CheckForwarding,
    /// What there is none of here, as the stock shape says it: `status` asks for these on its way.
    Nothing,
}

const TABLE: [(&str, &str, Access, Route); 26] = [
    ("GET", "status", Access::Read, Route::Status),
    ("GET", "prefs", Access::Read, Route::Prefs),
    ("PATCH", "prefs", Access::Write, Route::EditPrefs),
    ("POST", "check-prefs", Access::Write, Route::CheckPrefs),
    ("POST", "start", Access::Write, Route::Start),
    ("POST", "login-interactive", Access::Write, Route::LoginInteractive),
    ("POST", "logout", Access::Write, Route::Logout),
    ("GET", "profiles/", Access::Write, Route::Profiles),
    ("PUT", "profiles/", Access::Write, Route::NewProfile),
    ("GET", "profiles/current", Access::Write, Route::CurrentProfile),
    ("GET", "profiles/*", Access::Write, Route::Profile),
    ("POST", "profiles/*", Access::Write, Route::SwitchProfile),
    ("DELETE", "profiles/*", Access::Write, Route::DeleteProfile),
    ("POST", "ping", Access::Read, Route::Ping),
    ("GET", "whois", Access::Read, Route::WhoIs),
    ("GET", "derpmap", Access::Read, Route::DerpMap),
    ("POST", "dial", Access::Read, Route::Dial),
    ("GET", "watch-ipn-bus", Access::Read, Route::Watch),
    ("POST", "warren/netcheck", Access::Read, Route::Netcheck),
    ("GET", "warren/counters", Access::Read, Route::Counters),
    ("GET", "usermetrics", Access::Read, Route::UserMetrics),
    ("POST", "bugreport", Access::Read, Route::BugReport),
    ("GET", "check-ip-forwarding", Access::Read, Route::CheckForwarding),
    ("GET", "check-udp-gro-forwarding", Access::Read, Route::CheckForwarding),
    ("GET", "services", Access::Read, Route::Nothing),
    ("GET", "serve-config", Access::Read, Route::Nothing),
];

fn find(method: &Method, path: &str) -> Result<(Access, Route, String), Refusal> {
    let rest = path.strip_prefix(BASE_PATH).ok_or_else(|| Refusal::new(404, "404 not found"))?;
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => rest.strip_prefix(prefix).filter(|tail| !tail.is_empty()).map(str::to_string),
        None => (rest == pattern).then(String::new),
    };
    let mut wrong_method = false;
    for (name, pattern, access, route) in TABLE {
        if let Some(tail) = fits(pattern) {
            if method.as_str() == name {
                return Ok((access, route, tail));
            }
            wrong_method = true;
        }
    }
    Err(if wrong_method { Refusal::new(405, "method not allowed") } else { Refusal::new(404, "404 not found") })
}

pub(super) async fn route<B: Backend>(
    request: Request<Incoming>,
    backend: B,
    caller: Caller,
) -> Result<Response<Body>, Refusal> {
    let (access, route, tail) = find(request.method(), request.uri().path())?;
    let operator = backend.operator().await.as_deref().and_then(access::uid_of);
    let own = nix::unistd::geteuid().as_raw();
    if !access::may(caller, access, own, operator) {
        return Err(Refusal::new(
            403,
            "access denied: only root, the daemon's own user or its operator may change things",
        ));
    }
    let query = query(request.uri().query().unwrap_or_default());
    let value = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    match route {
        Route::Status => json(&backend.status(value("peers") != "false").await?),
        Route::Prefs => json(&backend.prefs().await?),
        Route::EditPrefs => json(&backend.edit_prefs(body::<MaskedPrefs>(request).await?).await?),
        Route::CheckPrefs => {
            let reason = backend.check_prefs(body::<Prefs>(request).await?).await?;
            json(&serde_json::json!({"Error": reason.unwrap_or_default()}))
        }
        Route::Start => {
            backend.start(body::<StartOptions>(request).await?).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        Route::LoginInteractive => {
            backend.login_interactive().await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        Route::Logout => {
            backend.logout().await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        Route::Profiles => json(&backend.profiles().await?.0),
        Route::CurrentProfile => json(&backend.profiles().await?.1),
        Route::NewProfile => {
            backend.new_profile().await?;
            Ok(empty(StatusCode::CREATED))
        }
        Route::Profile => {
            let all = backend.profiles().await?.0;
            let found = all.into_iter().find(|profile| profile.id == tail);
            json(&found.ok_or_else(|| Refusal::new(404, "no such profile"))?)
        }
        Route::SwitchProfile => {
            backend.switch_profile(tail).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        Route::DeleteProfile => {
            backend.delete_profile(tail).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        Route::Ping => {
            let ip: IpAddr = value("ip").parse().map_err(|_| Refusal::new(400, "missing or invalid 'ip' parameter"))?;
            let kind = PingKind::parse(value("type"))
                .ok_or_else(|| Refusal::new(400, "missing or unknown 'type' parameter"))?;
            let size = match value("size") {
                "" => 0,
                size => size.parse().map_err(|_| Refusal::new(400, "invalid 'size' parameter"))?,
            };
            json(&backend.ping(ip, kind, size).await?)
        }
        Route::WhoIs => {
            let who = who(value("addr"))?;
            let found = backend.whois(who).await?;
            json(&found.ok_or_else(|| Refusal::new(404, format!("no match for {}", value("addr"))))?)
        }
        Route::DerpMap => json(&backend.derp_map().await?),
        Route::Dial => dial::dial(request, backend).await,
        Route::Watch => bus::watch(value("mask"), backend).await,
        Route::Netcheck => json(&backend.netcheck().await?),
        Route::Counters => json(&backend.counters().await?),
        Route::UserMetrics => Ok(text(backend.user_metrics().await?.trim_end())),
        // Nothing is sent anywhere, so there is no number under which somebody could look it up.
        Route::BugReport => Ok(text(NO_REPORT)),
        Route::CheckForwarding => json(&serde_json::json!({"Warning": ""})),
        Route::Nothing => Ok(text("{}")),
    }
}

/// What the field's daemon says when its logs go nowhere; ours never do.
const NO_REPORT: &str = "BUG-NO-LOGS-NO-SUPPORT-this-node-has-had-its-logging-disabled";

fn who(addr: &str) -> Result<WhoIsQuestion, Refusal> {
    if addr.is_empty() {
        return Err(Refusal::new(400, "missing 'addr' parameter"));
    }
    if let Ok(key) = addr.parse() {
        return Ok(WhoIsQuestion::Key(key));
    }
    let address = addr.parse::<SocketAddr>().or_else(|_| addr.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)));
    address.map(WhoIsQuestion::Address).map_err(|_| Refusal::new(400, "invalid 'addr' parameter"))
}

fn query(text: &str) -> HashMap<String, String> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let collected = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let bytes = collected.map_err(|_| Refusal::new(413, "the request body is too large or broke off"))?.to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(400, format!("the request body is not what it should be: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_methods_and_nothing_else_exists() {
        let is = |method: Method, path: &str| {
            find(&method, path).map(|(_, route, _)| route).map_err(|refusal| refusal.status)
        };
        assert_eq!(is(Method::GET, "/localapi/v0/status"), Ok(Route::Status));
        assert_eq!(is(Method::POST, "/localapi/v0/profiles/ab12"), Ok(Route::SwitchProfile));
        assert_eq!(is(Method::GET, "/localapi/v0/profiles/current"), Ok(Route::CurrentProfile));
        assert_eq!(is(Method::POST, "/localapi/v0/status"), Err(405));
        assert_eq!(is(Method::GET, "/localapi/v0/files/"), Err(404));
        assert_eq!(is(Method::GET, "/"), Err(404));
    }

    #[test]
    fn whatever_changes_something_needs_the_right_to_write() {
        for (method, path, access, _) in TABLE {
            let reads = method == "GET" || ["ping", "dial", "warren/netcheck", "bugreport"].contains(&path);
            if !reads {
                assert_eq!(access, Access::Write, "{method} {path}");
            }
        }
    }

    #[test]
    fn whois_takes_an_address_with_or_without_a_port_or_a_key() {
        assert!(matches!(who("100.64.0.1"), Ok(WhoIsQuestion::Address(_))));
        assert!(matches!(who("[fd7a:115c:a1e0::1]:80"), Ok(WhoIsQuestion::Address(_))));
        assert!(matches!(who(&format!("nodekey:{}", "ab".repeat(32))), Ok(WhoIsQuestion::Key(_))));
        assert_eq!(who("").unwrap_err().status, 400);
        assert_eq!(who("laptop").unwrap_err().status, 400);
    }
}
