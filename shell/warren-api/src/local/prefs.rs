//! Preferences and profiles, in the stock shapes. Source: `ipn/prefs.go`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a person wants of a node. Every key is always present in JSON, as the stock daemon has it; what we do not act on
/// yet is refused by `check-prefs` by name, never kept silently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Prefs {
    #[serde(rename = "ControlURL")]
    pub control_url: String,
    pub route_all: bool,
    #[serde(rename = "ExitNodeID")]
    pub exit_node_id: String,
    #[serde(rename = "ExitNodeIP")]
    pub exit_node_ip: String,
    pub internal_exit_node_prior: String,
    #[serde(rename = "ExitNodeAllowLANAccess")]
    pub exit_node_allow_lan_access: bool,
    #[serde(rename = "CorpDNS")]
    pub corp_dns: bool,
    #[serde(rename = "RunSSH")]
    pub run_ssh: bool,
    pub run_web_client: bool,
    pub want_running: bool,
    pub logged_out: bool,
    pub shields_up: bool,
    pub advertise_tags: Option<Vec<String>>,
    pub hostname: String,
    #[serde(rename = "NotepadURLs")]
    pub notepad_urls: bool,
    pub advertise_routes: Option<Vec<String>>,
    pub advertise_services: Option<Vec<String>>,
    #[serde(rename = "NoSNAT")]
    pub no_snat: bool,
    pub no_stateful_filtering: Option<bool>,
    /// 0 off, 1 no divert, 2 on.
    pub netfilter_mode: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator_user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub profile_name: String,
    pub auto_update: AutoUpdate,
    pub app_connector: AppConnector,
    pub posture_checking: bool,
    pub netfilter_kind: String,
    pub drive_shares: Option<Vec<Value>>,
    pub config: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AutoUpdate {
    pub check: bool,
    pub apply: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AppConnector {
    pub advertise: bool,
}

impl Default for Prefs {
    fn default() -> Self {
        Prefs {
            control_url: String::new(),
            route_all: false,
            exit_node_id: String::new(),
            exit_node_ip: String::new(),
            internal_exit_node_prior: String::new(),
            exit_node_allow_lan_access: false,
            corp_dns: true,
            run_ssh: false,
            run_web_client: false,
            want_running: false,
            logged_out: false,
            shields_up: false,
            advertise_tags: None,
            hostname: String::new(),
            notepad_urls: false,
            advertise_routes: None,
            advertise_services: None,
            no_snat: false,
            no_stateful_filtering: Some(true),
            netfilter_mode: 2,
            operator_user: String::new(),
            profile_name: String::new(),
            auto_update: AutoUpdate::default(),
            app_connector: AppConnector::default(),
            posture_checking: false,
            netfilter_kind: String::new(),
            drive_shares: None,
            config: None,
        }
    }
}

/// An edit of [`Prefs`]: the stock wire form is the prefs' fields beside a `<Field>Set` boolean for each that counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaskedPrefs(Map<String, Value>);

/// Why an edit cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    #[error("preferences have no field {0}")]
    UnknownField(String),
    #[error("preference {field} cannot hold {value}")]
    WrongType { field: String, value: String },
}

impl MaskedPrefs {
    pub fn new() -> Self {
        Self::default()
    }

    /// Marks `field` (its JSON name) as to be set to `value`.
    #[must_use]
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.insert(field.to_string(), value.into());
        self.0.insert(format!("{field}Set"), Value::Bool(true));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.fields().next().is_none()
    }

    /// JSON names of the fields that count.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(key, value)| {
            let set = matches!(value, Value::Bool(true)) || value.as_object().is_some_and(|o| !o.is_empty());
            key.strip_suffix("Set").filter(|name| set && !name.is_empty())
        })
    }

    /// The prefs after the edit.
    ///
    /// # Errors
    /// [`MaskError`] names the first field that does not exist or has the wrong type; nothing is applied then.
    pub fn apply_to(&self, prefs: &Prefs) -> Result<Prefs, MaskError> {
        let mut merged = match serde_json::to_value(prefs) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let optional = ["OperatorUser", "ProfileName"];
        // The Go encoder drops a zero value, so a field that is set but absent means its zero value.
        let zero = serde_json::to_value(Prefs {
            corp_dns: false,
            netfilter_mode: 0,
            no_stateful_filtering: None,
            ..Prefs::default()
        });
        let zero = zero.unwrap_or(Value::Null);
        for field in self.fields() {
            if !merged.contains_key(field) && !optional.contains(&field) {
                return Err(MaskError::UnknownField(field.to_string()));
            }
            let value = self.0.get(field).or_else(|| zero.get(field)).cloned().unwrap_or(Value::String(String::new()));
            let mut one = merged.clone();
            one.insert(field.to_string(), value.clone());
            if serde_json::from_value::<Prefs>(Value::Object(one)).is_err() {
                return Err(MaskError::WrongType { field: field.to_string(), value: value.to_string() });
            }
            merged.insert(field.to_string(), value);
        }
        serde_json::from_value(Value::Object(merged))
            .map_err(|error| MaskError::WrongType { field: "prefs".into(), value: error.to_string() })
    }
}

/// Body of `POST start`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StartOptions {
    pub update_prefs: Option<Prefs>,
    pub auth_key: String,
    /// Ours: the control server's public key (`mkey:…`), so that nobody else can answer the first contact.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub warren_server_key: String,
}

impl std::fmt::Debug for StartOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartOptions").field("update_prefs", &self.update_prefs).finish_non_exhaustive()
    }
}

/// One network that this device can be in. Source: `ipn.LoginProfile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoginProfile {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Name")]
    pub name: String,
    #[serde(rename = "NetworkProfile")]
    pub network_profile: NetworkProfile,
    #[serde(rename = "Key")]
    pub key: String,
    #[serde(rename = "UserProfile")]
    pub user_profile: Option<warren_wire::UserProfile>,
    #[serde(rename = "NodeID")]
    pub node_id: String,
    #[serde(rename = "LocalUserID")]
    pub local_user_id: String,
    #[serde(rename = "ControlURL")]
    pub control_url: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkProfile {
    #[serde(rename = "MagicDNSName")]
    pub magic_dns_name: String,
    #[serde(rename = "DomainName")]
    pub domain_name: String,
    #[serde(rename = "DisplayName")]
    pub display_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_touches_only_the_fields_that_it_marks() {
        let edit: MaskedPrefs =
            serde_json::from_str(r#"{"Hostname":"a","HostnameSet":true,"RouteAll":true,"RouteAllSet":false}"#).unwrap();
        let after = edit.apply_to(&Prefs::default()).unwrap();
        assert_eq!(after.hostname, "a");
        assert!(!after.route_all);
    }

    #[test]
    fn a_marked_field_that_is_absent_gets_its_zero_value() {
        let edit: MaskedPrefs = serde_json::from_str(r#"{"CorpDNSSet":true,"NetfilterModeSet":true}"#).unwrap();
        let after = edit.apply_to(&Prefs::default()).unwrap();
        assert!(!after.corp_dns);
        assert_eq!(after.netfilter_mode, 0);
    }

    #[test]
    fn an_edit_of_an_unknown_field_or_a_wrong_type_is_refused_whole() {
        let unknown = MaskedPrefs::new().set("Nonsense", true);
        assert!(matches!(unknown.apply_to(&Prefs::default()), Err(MaskError::UnknownField(_))));
        let wrong = MaskedPrefs::new().set("Hostname", 7);
        assert!(matches!(wrong.apply_to(&Prefs::default()), Err(MaskError::WrongType { .. })));
    }
}
