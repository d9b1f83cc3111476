//! What the policy and the hour make of a node's record: networks behind it, attributes, what of it is hidden.
//!
//! The record itself ([`crate::records`]) is the same for everybody. These differ by viewer, or change for many nodes at
//! once with the policy, so they are laid over the record when a map is made.

use warren_ip::Prefix;
use warren_wire::{CapMap, Node as WireNode};

/// `nodeAttrs` that are the server's to follow: the node has no IPv4 address for anybody, itself included.
const DISABLE_IPV4: &str = "disable-ipv4";
/// Ours: peers are not told its underlay addresses, as with `nodes hide-endpoints`.
const RELAY_ONLY: &str = "relay-only";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extra {
    /// Networks behind it that the viewer may use, in order.
    pub(crate) routes: Vec<Prefix>,
    /// Addresses of services for which it answers, as far as the viewer may use them, in order.
    services: Vec<Prefix>,
    marks: Marks,
}

/// What the policy says of a node that all its peers are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    caps: CapMap,
    without_v4: bool,
    relay_only: bool,
}

impl Marks {
    /// `own`: all attributes of the node; `shown`: those that peers are told.
    pub(crate) fn new(own: &CapMap, shown: CapMap) -> Self {
        Self { caps: shown, without_v4: own.contains_key(DISABLE_IPV4), relay_only: own.contains_key(RELAY_ONLY) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Extra {
    /// Of a node with these networks and addresses of services, and these marks if it has any.
    pub(crate) fn new(routes: Vec<Prefix>, services: Vec<Prefix>, marks: Option<&Marks>) -> Self {
        Self { routes, services, marks: marks.cloned().unwrap_or_default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.services.is_empty() && self.marks.is_empty()
    }

    /// A peer's record with all this.
    pub(crate) fn on_peer(&self, mut record: WireNode) -> WireNode {
        record.cap_map.extend(self.marks.caps.clone());
        if self.marks.relay_only {
            record.endpoints.clear();
        }
        self.on_self(record)
    }

    /// A node's own record with what of this concerns it; its capabilities are its own affair.
    pub(crate) fn on_self(&self, mut record: WireNode) -> WireNode {
        if self.marks.without_v4 {
            record.addresses.retain(|address| !address.is_ipv4());
            record.allowed_ips = Some(record.addresses.clone());
        }
        if self.routes.is_empty() && self.services.is_empty() {
            return record;
        }
        let mut allowed: Vec<Prefix> =
            record.addresses.iter().chain(&self.routes).chain(&self.services).copied().collect();
        allowed.sort();
        allowed.dedup();
        record.allowed_ips = Some(allowed);
        record.primary_routes = self.routes.iter().copied().filter(|route| !route.is_default_route()).collect();
        record
    }
}
