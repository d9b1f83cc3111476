//! What a person wants of this node, and which wishes are refused.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::Url;
use warren_ip::Prefix;

/// Longest host name that is accepted.
const LONGEST_HOSTNAME: usize = 256;

macro_rules! prefs {
    ($( $(#[$meta:meta])* $field:ident: $type:ty = $default:expr, )*) => {
        /// What a person wants of this node; one set per profile.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Prefs { $( $(#[$meta])* pub $field: $type, )* }

        impl Default for Prefs {
            fn default() -> Prefs { Prefs { $( $field: $default, )* } }
        }

        /// A change of some of [`Prefs`]: what is `None` stays.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct PrefsEdit { $( $(#[$meta])* pub $field: Option<$type>, )* }

        impl PrefsEdit {
            /// An edit that sets everything.
            pub fn all(prefs: Prefs) -> PrefsEdit {
                PrefsEdit { $( $field: Some(prefs.$field), )* }
            }

            fn merge_into(self, prefs: &mut Prefs) {
                $( if let Some(value) = self.$field { prefs.$field = value; } )*
            }
        }
    };
}

prefs! {
    /// Base address of the control server; empty for none.
    control_url: String = String::new(),
    /// The server's key (`mkey:…`), where a person was given it; a server with another key is refused.
    control_key: String = String::new(),
    /// Whether the node should be up.
    want_running: bool = false,
    /// Whether a person has left the network.
    logged_out: bool = false,
    /// Wish for a name; empty: the host's own.
    hostname: String = String::new(),
    /// Refuse everything inbound.
    shields_up: bool = false,
    /// Accept routes that peers serve.
    route_all: bool = false,
    /// Accept the network's DNS settings.
    corp_dns: bool = true,
    /// Stable id of the exit node; empty for none.
    exit_node_id: String = String::new(),
    /// The exit node by address, until its id is known.
    exit_node_ip: Option<IpAddr> = None,
    /// `any` for a choice made by the node.
    auto_exit_node: String = String::new(),
    /// Keep the local network reachable beside an exit node.
    exit_node_allow_lan_access: bool = false,
    /// Serve SSH.
    run_ssh: bool = false,
    /// Serve the device's web page.
    run_web_client: bool = false,
    /// Routes to offer.
    advertise_routes: Vec<Prefix> = Vec::new(),
    /// Tags to ask for.
    advertise_tags: Vec<String> = Vec::new(),
    /// Services to offer.
    advertise_services: Vec<String> = Vec::new(),
    /// The local user who may control the node.
    operator_user: String = String::new(),
    /// A person's name for this profile.
    profile_name: String = String::new(),
    /// Do not translate addresses of served routes.
    no_snat: bool = false,
    /// Do not filter served routes by state; unset means the default (true).
    no_stateful_filtering: Option<bool> = Some(true),
    /// 0 off, 1 no hooks (off as well: rules that nothing leads to guard nobody), 2 on.
    netfilter_mode: u8 = NETFILTER_ON,
    /// Look for updates.
    auto_update_check: bool = true,
    /// Apply updates.
    auto_update_apply: Option<bool> = None,
    /// Offer to be an app connector.
    app_connector: bool = false,
    /// Report the host's posture.
    posture_checking: bool = false,
}

/// The mode in which the node guards the mesh's address ranges on its host.
pub(crate) const NETFILTER_ON: u8 = 2;

/// Why preferences are refused; the texts are the field's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefsError {
    #[error("can't use {url:?} as control server: {why}")]
    ControlUrl { url: String, why: &'static str },
    #[error("control server's key {0:?} is not mkey: and 64 hex digits")]
    ControlKey(String),
    #[error("hostname is too long (max {LONGEST_HOSTNAME})")]
    HostnameTooLong,
    #[error("hostname {0:?} is not a name")]
    Hostname(String),
    #[error("tag: {tag:?}: {why}")]
    Tag { tag: String, why: &'static str },
    #[error("0.0.0.0/0 advertised without its IPv6 counterpart, please also advertise ::/0")]
    ExitWithoutV6,
    #[error("::/0 advertised without its IPv4 counterpart, please also advertise 0.0.0.0/0")]
    ExitWithoutV4,
    #[error("netfilter mode {0} is none of 0, 1, 2")]
    NetfilterMode(u8),
    #[error("{0} is not built yet in this node")]
    NotBuilt(&'static str),
}

impl Prefs {
    /// These preferences after an edit.
    ///
    /// # Errors
    /// [`PrefsError`] when the result would not do; nothing is changed by half.
    pub fn edited(&self, edit: PrefsEdit) -> Result<Prefs, PrefsError> {
        let mut next = self.clone();
        // One exit node, said in one way: a new way of saying it drops the others.
        if edit.exit_node_id.as_ref().is_some_and(|id| !id.is_empty()) {
            next.exit_node_ip = None;
            next.auto_exit_node.clear();
        }
        if edit.exit_node_ip.is_some_and(|ip| ip.is_some()) {
            next.exit_node_id.clear();
            next.auto_exit_node.clear();
        }
        edit.merge_into(&mut next);
        next.check()?;
        Ok(next)
    }

    fn check(&self) -> Result<(), PrefsError> {
        if !self.control_url.is_empty() {
            parse_control_url(&self.control_url)?;
        }
        if !self.control_key.is_empty() && self.control_key.parse::<warren_crypto::MachinePublic>().is_err() {
            return Err(PrefsError::ControlKey(self.control_key.clone()));
        }
        if self.hostname.len() > LONGEST_HOSTNAME {
            return Err(PrefsError::HostnameTooLong);
        }
        if self.hostname.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
            return Err(PrefsError::Hostname(self.hostname.clone()));
        }
        for tag in &self.advertise_tags {
            check_tag(tag).map_err(|why| PrefsError::Tag { tag: tag.clone(), why })?;
        }
        match (self.advertise_routes.contains(&Prefix::ALL_V4), self.advertise_routes.contains(&Prefix::ALL_V6)) {
            (true, false) => return Err(PrefsError::ExitWithoutV6),
            (false, true) => return Err(PrefsError::ExitWithoutV4),
            _ => {}
        }
        if self.netfilter_mode > 2 {
            return Err(PrefsError::NetfilterMode(self.netfilter_mode));
        }
        for (wanted, what) in [
            (self.run_ssh, "the SSH server"),
            (self.run_web_client, "the device web page"),
            (self.app_connector, "the app connector"),
            (!self.advertise_routes.is_empty(), "serving routes"),
            (self.route_all, "accepting routes"),
            (
                !self.exit_node_id.is_empty() || self.exit_node_ip.is_some() || !self.auto_exit_node.is_empty(),
                "using an exit node",
            ),
        ] {
            if wanted {
                return Err(PrefsError::NotBuilt(what));
            }
        }
        Ok(())
    }
}

/// Reads the base address of a control server.
///
/// # Errors
/// [`PrefsError::ControlUrl`] with the reason.
pub fn parse_control_url(text: &str) -> Result<Url, PrefsError> {
    // What stands before the host may be a password, and errors end in logs.
    let shown = text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"));
    let refuse = |why| PrefsError::ControlUrl { url: shown.clone(), why };
    let url = Url::parse(text).map_err(|_| refuse("it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it is neither http nor https"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("it carries a user name or password"));
    }
    Ok(url)
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let name = tag.strip_prefix("tag:").ok_or("tags must start with 'tag:'")?;
    let first = name.chars().next().ok_or("tag names must not be empty")?;
    if !first.is_ascii_alphabetic() {
        return Err("tag names must start with a letter, after 'tag:'");
    }
    if name.chars().any(|letter| !letter.is_ascii_alphanumeric() && letter != '-') {
        return Err("tag names can only contain numbers, letters, or dashes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(edit: PrefsEdit, expect: &str) {
        let told = match Prefs::default().edited(edit) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(told, expect);
    }

    #[test]
    fn wishes_that_cannot_be_are_refused_in_the_fields_words() {
        let tags = |tag: &str| PrefsEdit { advertise_tags: Some(vec![tag.into()]), ..PrefsEdit::default() };
        check(tags("web"), "tag: \"web\": tags must start with 'tag:'");
        check(tags("tag:"), "tag: \"tag:\": tag names must not be empty");
        check(tags("tag:1"), "tag: \"tag:1\": tag names must start with a letter, after 'tag:'");
        check(tags("tag:a_b"), "tag: \"tag:a_b\": tag names can only contain numbers, letters, or dashes");
        check(tags("tag:web-1"), "ok");
        let name = |name: String| PrefsEdit { hostname: Some(name), ..PrefsEdit::default() };
        check(name("x".repeat(257)), "hostname is too long (max 256)");
        check(name("web".into()), "ok");
        let routes = |route: Prefix| PrefsEdit { advertise_routes: Some(vec![route]), ..PrefsEdit::default() };
        check(routes(Prefix::ALL_V4), "0.0.0.0/0 advertised without its IPv6 counterpart, please also advertise ::/0");
        check(routes("10.0.0.0/8".parse().unwrap()), "serving routes is not built yet in this node");
        let url = |url: &str| PrefsEdit { control_url: Some(url.into()), ..PrefsEdit::default() };
        check(url("ftp://x"), "can't use \"ftp://x\" as control server: it is neither http nor https");
        check(url("x"), "can't use \"x\" as control server: it is not a URL");
        let said = "can't use \"…@127.0.0.1:9\" as control server: it carries a user name or password";
        check(url("http://ann:secret@127.0.0.1:9"), said);
        check(url("http://192.0.2.1:8080"), "ok");
    }

    #[test]
    fn an_edit_changes_only_what_it_names() {
        let prefs = Prefs { hostname: "web".into(), shields_up: true, ..Prefs::default() };
        let edit = PrefsEdit { shields_up: Some(false), ..PrefsEdit::default() };
        assert_eq!(prefs.edited(edit).unwrap(), Prefs { shields_up: false, ..prefs });
    }
}
