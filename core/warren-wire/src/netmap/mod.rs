//! The network as one node sees it, and the two inverse functions over it.
//!
//! [`fold`] gives a map response its meaning (the node's half); [`diff`] finds the response that turns one map into
//! another (the server's half). The law that ties them, tested for our fold and for a model of the stock client's:
//!
//! ```text
//! fold(old, diff(old, new, version))  ≈  new.as_seen_by(version)        ≈ is `equivalent`
//! ```

mod diff;
mod equivalence;
mod fold;
mod peers;

use std::collections::BTreeMap;

pub use diff::{diff, full};
pub use equivalence::equivalent;
pub use fold::{Effects, FoldError, NetMapChange, fold};
pub use peers::{PeerEdit, PeerNews, PeerStore, fold_peers};

use crate::{
    CapabilityVersion, ClientVersion, ControlDialPlan, DisplayMessage, DnsConfig, FilterRule, Node, NodeId, RelayMap,
    TkaInfo, UserId, UserProfile, ssh::SshPolicy,
};

/// The network as one node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetMap {
    /// The node that sees it.
    pub self_node: Node,
    /// Everyone else that it may see. Never contains `self_node`.
    pub peers: BTreeMap<NodeId, Node>,
    /// The relays.
    pub relay_map: RelayMap,
    /// How to resolve names.
    pub dns: DnsConfig,
    /// The network's name, for display.
    pub domain: String,
    /// What may come in, in named chunks; the filter is their concatenation in order of name. See [`NetMap::filter_rules`].
    pub filters: BTreeMap<String, Vec<FilterRule>>,
    /// Owners of nodes.
    pub profiles: BTreeMap<UserId, UserProfile>,
    /// What the server thinks is wrong, one sentence each.
    pub health: Vec<String>,
    /// The same for newer clients, by id.
    pub display_messages: BTreeMap<String, DisplayMessage>,
    /// Who may open a shell; `None` is no one.
    pub ssh_policy: Option<SshPolicy>,
    /// Whether the server wants to know what listens on the node.
    pub collect_services: bool,
    /// `None`: tailnet lock is off.
    pub tka_info: Option<TkaInfo>,
    /// Other ways to the server.
    pub control_dial_plan: ControlDialPlan,
    /// Whether a newer client exists.
    pub client_version: ClientVersion,
    /// For flow logs.
    pub domain_audit_log_id: String,
}

impl NetMap {
    /// All filter rules in the order in which they are joined.
    pub fn filter_rules(&self) -> Vec<FilterRule> {
        self.filters.values().flatten().cloned().collect()
    }

    /// The network's DNS suffix without dots at its ends, as the name of self tells it.
    pub fn dns_suffix(&self) -> &str {
        self.self_node.full_name().split_once('.').map(|(_, suffix)| suffix).unwrap_or_default()
    }

    /// Self or a peer, by a test.
    pub fn find(&self, test: impl Fn(&Node) -> bool) -> Option<&Node> {
        std::iter::once(&self.self_node).chain(self.peers.values()).find(|node| test(node))
    }

    /// The map as a client of `version` can hold it: what it would not understand is said in the older way or left out.
    #[must_use]
    pub fn as_seen_by(&self, version: CapabilityVersion) -> NetMap {
        let mut seen = self.clone();
        seen.self_node.normalise();
        seen.peers.remove(&seen.self_node.id);
        seen.peers.values_mut().for_each(Node::normalise);
        if version < CapabilityVersion::DISPLAY_MESSAGES {
            let messages = std::mem::take(&mut seen.display_messages);
            seen.health.extend(messages.into_values().map(|message| format!("{}: {}", message.title, message.text)));
        }
        if version < CapabilityVersion::RESOLVER_WITH_EXIT_NODE {
            let dns = &mut seen.dns;
            let routed = dns.routes.values_mut().flatten();
            for resolver in dns.resolvers.iter_mut().chain(&mut dns.fallback_resolvers).chain(routed) {
                resolver.use_with_exit_node = false;
            }
        }
        seen
    }
}
