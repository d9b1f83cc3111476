//! The settings of a node as flags: one table for `up`, `login` and `set`.

use anyhow::{Context, Result, bail};
use clap::Args;
use warren_api::local::{MaskedPrefs, Prefs};

/// Flags that are preferences. `None`: not mentioned on the command line.
#[derive(Args, Clone, Debug, Default)]
pub struct Settings {
    /// Use the routes to networks behind other nodes
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub accept_routes: Option<bool>,
    /// Let the network's names resolve on this machine
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub accept_dns: Option<bool>,
    /// Let nobody open a connection to this node
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub shields_up: Option<bool>,
    /// Offer a shell on this node to those whom the policy allows
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub ssh: Option<bool>,
    /// Name of this node instead of the machine's own
    #[arg(long)]
    pub hostname: Option<String>,
    /// A user of this machine who may control the daemon without root
    #[arg(long, value_name = "USER")]
    pub operator: Option<String>,
    /// Networks behind this node, as comma-separated prefixes
    #[arg(long, value_name = "PREFIXES")]
    pub advertise_routes: Option<String>,
    /// Let others reach the internet through this node
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub advertise_exit_node: Option<bool>,
    /// Reach the internet through that node
    #[arg(long, value_name = "NODE")]
    pub exit_node: Option<String>,
    /// Whether to drop packets that others send to this machine from the network's addresses: on, nodivert or off
    #[arg(long, value_name = "MODE")]
    pub netfilter_mode: Option<String>,
}

/// The modes of `netfilter-mode` by their numbers. Without a hook (`nodivert`) nothing is dropped either.
const NETFILTER_MODES: [&str; 3] = ["off", "nodivert", "on"];

/// One setting: its flag, the preference that it is, and whether its value is the default.
struct Row {
    flag: &'static str,
    field: &'static str,
}

const NETFILTER: &str = "netfilter-mode";

const ROWS: [Row; 9] = [
    Row { flag: "accept-routes", field: "RouteAll" },
    Row { flag: "accept-dns", field: "CorpDNS" },
    Row { flag: "shields-up", field: "ShieldsUp" },
    Row { flag: "ssh", field: "RunSSH" },
    Row { flag: "hostname", field: "Hostname" },
    Row { flag: "operator", field: "OperatorUser" },
    Row { flag: "advertise-routes", field: "AdvertiseRoutes" },
    Row { flag: "exit-node", field: "ExitNodeIP" },
    Row { flag: NETFILTER, field: "NetfilterMode" },
];

impl Settings {
    /// What was mentioned, as an edit.
    pub fn edit(&self) -> Result<MaskedPrefs> {
        let mut edit = MaskedPrefs::new();
        for (field, value) in [
            ("RouteAll", self.accept_routes),
            ("CorpDNS", self.accept_dns),
            ("ShieldsUp", self.shields_up),
            ("RunSSH", self.ssh),
        ] {
            if let Some(value) = value {
                edit = edit.set(field, value);
            }
        }
        if let Some(name) = &self.hostname {
            if name.len() > 256 {
                bail!("hostname \"{name}\" is too long (at most 256 characters)");
            }
            edit = edit.set("Hostname", name.as_str());
        }
        if let Some(user) = &self.operator {
            edit = edit.set("OperatorUser", user.as_str());
        }
        if self.advertise_routes.is_some() || self.advertise_exit_node.is_some() {
            edit = edit.set("AdvertiseRoutes", routes(self)?);
        }
        if let Some(node) = &self.exit_node {
            edit = edit.set("ExitNodeIP", node.as_str());
        }
        if let Some(mode) = &self.netfilter_mode {
            let Some(number) = NETFILTER_MODES.iter().position(|known| known == mode) else {
                bail!("netfilter-mode \"{mode}\" is none of {}", NETFILTER_MODES.join(", "));
            };
            edit = edit.set("NetfilterMode", number);
        }
        Ok(edit)
    }
}

fn routes(settings: &Settings) -> Result<Vec<String>> {
    let mut routes = Vec::new();
    for text in settings.advertise_routes.iter().flat_map(|list| list.split(',')).filter(|text| !text.is_empty()) {
        let prefix: warren_ip::Prefix =
            text.trim().parse().with_context(|| format!("\"{text}\" is not a network such as 10.0.0.0/24"))?;
        routes.push(prefix.to_string());
    }
    if settings.advertise_exit_node == Some(true) {
        routes.extend(["0.0.0.0/0".to_string(), "::/0".to_string()]);
    }
    let halves = ["0.0.0.0/0", "::/0"].map(|half| routes.iter().any(|route| route == half));
    if halves[0] != halves[1] {
        bail!("0.0.0.0/0 and ::/0 go together: an exit node carries both families");
    }
    Ok(routes)
}

/// Every setting with its value, by its flag.
pub fn values(prefs: &Prefs) -> Vec<(&'static str, serde_json::Value)> {
    let Ok(fields) = serde_json::to_value(prefs) else { return Vec::new() };
    ROWS.iter().map(|row| (row.flag, value_of(row, fields.get(row.field)))).collect()
}

/// A field's value as its flag's: by the name where the field has a number.
fn value_of(row: &Row, field: Option<&serde_json::Value>) -> serde_json::Value {
    let number = field.and_then(serde_json::Value::as_u64).and_then(|number| usize::try_from(number).ok());
    match number.and_then(|number| NETFILTER_MODES.get(number)) {
        Some(name) if row.flag == NETFILTER => (*name).into(),
        _ => field.cloned().unwrap_or_default(),
    }
}

/// A value as its flag takes it.
pub fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(list) => list.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Flags for settings that are not at their default and are not in `mentioned`: what `up` would silently undo.
pub fn unmentioned(current: &Prefs, mentioned: &MaskedPrefs) -> Vec<String> {
    let (Ok(now), Ok(usual)) = (serde_json::to_value(current), serde_json::to_value(Prefs::default())) else {
        return Vec::new();
    };
    let empty = |value: &serde_json::Value| {
        value.is_null() || value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
    };
    ROWS.iter()
        .filter(|row| !mentioned.fields().any(|field| field == row.field))
        .filter_map(|row| {
            let (value, default) = (now.get(row.field)?, usual.get(row.field));
            let same = Some(value) == default || (empty(value) && default.is_none_or(empty));
            if same {
                return None;
            }
            Some(format!("--{}={}", row.flag, shown(&value_of(row, Some(value)))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mentioned_flags_become_an_edit() {
        let settings = Settings { hostname: Some("x".into()), accept_dns: Some(false), ..Settings::default() };
        let edit = settings.edit().unwrap();
        let mut fields: Vec<&str> = edit.fields().collect();
        fields.sort_unstable();
        assert_eq!(fields, ["CorpDNS", "Hostname"]);
    }

    #[test]
    fn every_setting_has_a_value_and_lists_are_shown_as_they_are_given() {
        let prefs = Prefs { shields_up: true, hostname: "x".into(), ..Prefs::default() };
        let values = values(&prefs);
        let of = |flag: &str| values.iter().find(|(name, _)| *name == flag).map(|(_, value)| shown(value));
        assert_eq!(values.len(), ROWS.len());
        assert_eq!((of("shields-up").as_deref(), of("hostname").as_deref()), (Some("true"), Some("x")));
        assert_eq!(shown(&serde_json::json!(["10.0.0.0/8", "::/0"])), "10.0.0.0/8,::/0");
    }

    #[test]
    fn a_setting_that_up_would_undo_is_named_with_its_value() {
        let current = Prefs { hostname: "x".into(), shields_up: true, ..Prefs::default() };
        let mentioned = MaskedPrefs::new().set("ShieldsUp", true);
        assert_eq!(unmentioned(&current, &mentioned), ["--hostname=x"]);
        assert!(unmentioned(&Prefs::default(), &MaskedPrefs::new()).is_empty());
        let off = Prefs { netfilter_mode: 0, ..Prefs::default() };
        assert_eq!(unmentioned(&off, &MaskedPrefs::new()), ["--netfilter-mode=off"]);
        let again = Settings { netfilter_mode: Some("off".into()), ..Settings::default() };
        assert!(unmentioned(&off, &again.edit().unwrap()).is_empty());
        assert!(Settings { netfilter_mode: Some("of".into()), ..Settings::default() }.edit().is_err());
    }

    #[test]
    fn half_an_exit_node_is_refused() {
        let settings = Settings { advertise_routes: Some("0.0.0.0/0".into()), ..Settings::default() };
        assert!(settings.edit().is_err());
    }
}
