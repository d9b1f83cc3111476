//! A rule over one tailnet: the same sentence as [`crate::rule::Rule`], with words turned into sets.

use std::sync::Arc;

use warren_ip::IpRanges;

use crate::node_set::NodeSet;

/// One rule resolved. What it says of packets and capabilities stands in the rule itself.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// Place in [`crate::Compiled::rules`].
    pub(crate) rule: usize,
    /// Place in [`crate::Compiled::sources`]; rules with the same sources share one.
    pub(crate) sources: usize,
    /// One for each destination of the rule, in its order.
    pub(crate) destinations: Vec<Destination>,
    /// The nodes that may be the way, if the rule has a `via`.
    pub(crate) routers: Option<NodeSet>,
}

/// What a destination selector means over one tailnet. Large sets are shared by all rules that name them.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// `*`: everything that there is.
    Everything,
    /// Nodes by name. Each is told of its own addresses only; `ranges` are the addresses of all of them.
    Nodes { nodes: Arc<NodeSet>, ranges: Arc<IpRanges> },
    /// Hosts, addresses and sets, as the policy writes them.
    Networks(Arc<IpRanges>),
    /// Public addresses, through an exit node.
    Internet,
    /// The source's own devices.
    Selves,
    /// A service: its hosts are told of its addresses.
    Service { hosts: Arc<NodeSet>, ranges: Arc<IpRanges> },
    /// A word that means no node here.
    Nothing,
}

impl Destination {
    /// Whether a rule about it exists at all, apart from `autogroup:self`.
    pub(crate) fn is_something(&self) -> bool {
        !matches!(self, Destination::Nothing | Destination::Selves)
    }
}
