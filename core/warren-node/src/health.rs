//! What is wrong, derived from all the facts; codes and weights as the field knows them.

use std::time::{Duration, Instant};

use warren_crypto::UnixTime;

use crate::{BackendState, Node};

/// A key's owner hears of its end so long before.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 86_400);
/// A skew that a person should mend; the field warns from one minute.
const SKEW_WARNING: Duration = Duration::from_secs(60);
/// A map older than this while we try to reach the server is worth a word: two keep-alives were missed.
const STALE_WARNING: Duration = Duration::from_secs(120);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    High,
    Medium,
    Low,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthItem {
    /// Stable, for scripts.
    pub code: String,
    pub severity: Severity,
    pub title: String,
    /// For a person, one sentence.
    pub text: String,
    /// Whether traffic suffers.
    pub impacts_connectivity: bool,
}

fn item(code: &str, severity: Severity, title: &str, text: String) -> HealthItem {
    HealthItem {
        code: code.into(),
        severity,
        title: title.into(),
        text,
        impacts_connectivity: severity == Severity::High,
    }
}

impl Node {
    /// What is wrong now, worst first.
    pub fn health(&self, now: Instant, wall: UnixTime) -> Vec<HealthItem> {
        let time = self.clock.time(now, wall);
        let state = self.backend_state(now, wall);
        let mut items = Vec::new();
        match state {
            BackendState::Stopped => {
                items.push(item("wantrunning-false", Severity::Low, "Stopped", "Warren is stopped.".into()));
                return items;
            }
            BackendState::NeedsLogin => {
                let text = match &self.last_error {
                    Some(error) => format!("You are logged out. The last login error was: {error}"),
                    None if self.disowned => {
                        "The control server does not know this device any more; sign in again.".into()
                    }
                    None if self.self_expired(now, wall) => "The key of this device has expired; sign in again.".into(),
                    None => "You are logged out.".into(),
                };
                items.push(item("login-state", Severity::Medium, "Logged out", text));
            }
            _ => {}
        }
        if state != BackendState::NeedsLogin && !self.map_is_live() {
            self.push_control_trouble(&mut items, time);
        }
        if let Some(cached) = &self.profile().map {
            if state == BackendState::Running && self.home.is_none() {
                let text = if cached.map.relay_map.regions.is_empty() {
                    "The network names no relay; peers that cannot be reached directly cannot be reached.".into()
                } else {
                    "No relay server answers.".into()
                };
                items.push(item("no-derp-home", Severity::High, "No home relay server", text));
            }
            if let Some(expiry) = cached.map.self_node.key_expiry {
                let left = expiry.saturating_since(time);
                if !left.is_zero() && left <= EXPIRY_WARNING {
                    let text = format!("The key of this device expires in {}; sign in again before.", days(left));
                    items.push(item("key-expires-soon", Severity::Medium, "Key expires soon", text));
                }
            }
            for text in &cached.map.health {
                items.push(item("control-health", Severity::Medium, "Control server", text.clone()));
            }
            for (id, message) in &cached.map.display_messages {
                let severity = match message.severity.as_str() {
                    "high" => Severity::High,
                    "low" => Severity::Low,
                    _ => Severity::Medium,
                };
                items.push(HealthItem {
                    impacts_connectivity: message.impacts_connectivity,
                    ..item(&format!("control-health.{id}"), severity, &message.title, message.text.clone())
                });
            }
        }
        if let Some(problem) = self.data.filter_problems.first() {
            let text = format!("The network's rules contain something that this node cannot read: {problem}.");
            items.push(item("invalid-packet-filter", Severity::Medium, "Invalid packet filter", text));
        }
        if let Some(skew) = self.clock.skew().filter(|skew| *skew > SKEW_WARNING) {
            let text = format!("This device's clock is {} off the control server's.", days(skew));
            items.push(item("clock-skew", Severity::Medium, "Clock is wrong", text));
        }
        items.sort_by_key(|item| item.severity as u8);
        items
    }

    fn push_control_trouble(&self, items: &mut Vec<HealthItem>, time: UnixTime) {
        let why = self.last_error.as_deref().unwrap_or("no answer yet");
        match &self.profile().map {
            Some(cached) => {
                let age = time.saturating_since(cached.at);
                if age >= STALE_WARNING || self.last_error.is_some() {
                    let text =
                        format!("Unable to reach the control server ({why}); the network map is {} old.", days(age));
                    items.push(item("not-in-map-poll", Severity::Medium, "Out of sync", text));
                }
            }
            None if self.last_error.is_some() => {
                let text = format!("Unable to reach the control server ({why}).");
                items.push(item("not-in-map-poll", Severity::High, "Out of sync", text));
            }
            None => {}
        }
    }
}

/// A duration for a person, in its largest unit.
fn days(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
