//! `/debug/counters`: what came in and was dropped, by reason, for whoever is on this machine.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::answer::{self, Body};
use crate::listener::Peer;

/// Connections of one listener that came to nothing, by reason. They are dropped without a line in the log, since anybody
/// can make them.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    pub(crate) silent: AtomicU64,
    pub(crate) not_tls: AtomicU64,
    pub(crate) not_http: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) too_many: AtomicU64,
}

impl ListenerCounters {
    /// As JSON, `{"dropped": {reason: count}}`:
    ///
    /// | reason | what |
    /// |---|---|
    /// | `silent` | said nothing, or left, before its first byte or its TLS handshake was whole |
    /// | `not-tls` | began like TLS and was not, or was not wanted here |
    /// | `not-http` | not a request, or one with too large a head |
    /// | `slow` | did not finish a request's head in time |
    /// | `too-many` | shut out for others, or answered that there are too many |
    pub fn to_json(&self) -> Value {
        let rows = [
            ("silent", &self.silent),
            ("not-tls", &self.not_tls),
            ("not-http", &self.not_http),
            ("slow", &self.slow),
            ("too-many", &self.too_many),
        ];
        dropped(&rows.map(|(reason, count)| (reason, count.load(Ordering::Relaxed))))
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts by reason as all `/debug/counters` show them.
pub fn dropped(by_reason: &[(&str, u64)]) -> Value {
    let rows: Map<String, Value> =
        by_reason.iter().map(|(reason, count)| ((*reason).to_owned(), (*count).into())).collect();
    serde_json::json!({ "dropped": rows })
}

/// The answer: the fields of `own`, and by name the listener's counters and `others`. Only for callers on this machine,
/// so not for a listener behind a proxy, which makes everybody local.
pub fn answer(peer: &Peer, own: Value, others: &[(&str, Value)]) -> Response<Body> {
    if !peer.address.ip().to_canonical().is_loopback() {
        return answer::text(StatusCode::FORBIDDEN, "only for this machine itself");
    }
    let mut all = match own {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    all.insert("listener".to_owned(), peer.counters.to_json());
    all.extend(others.iter().map(|(name, counters)| ((*name).to_owned(), counters.clone())));
    answer::json(&all)
}
