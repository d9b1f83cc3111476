//! Names and resolvers. control-protocol.md §8.6.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::object::wire_object;

wire_object! {
    /// How a node should resolve names.
    pub struct DnsConfig {
        /// Global resolvers: they replace the host's own.
        [omit] pub resolvers: Vec<Resolver> => "Resolvers",
        /// Suffix (with or without trailing dot) → resolvers; an empty list means "answered from the map". Never written as `null`.
        [lists] pub routes: BTreeMap<String, Vec<Resolver>> => "Routes",
        [omit] pub fallback_resolvers: Vec<Resolver> => "FallbackResolvers",
        /// Search domains; the first is by convention the network's own suffix.
        [omit] pub domains: Vec<String> => "Domains",
        /// Whether the node's resolver answers names of peers.
        [omit] pub proxied: bool => "Proxied",
        [omit] pub nameservers: Vec<IpAddr> => "Nameservers",
        [omit] pub cert_domains: Vec<String> => "CertDomains",
        [omit] pub extra_records: Vec<DnsRecord> => "ExtraRecords",
        [omit] pub exit_node_filtered_set: Vec<String> => "ExitNodeFilteredSet",
        [omit] pub temp_corp_issue_13969: String => "TempCorpIssue13969",
    }
}

wire_object! {
    /// One resolver.
    pub struct Resolver {
        /// `1.1.1.1`, `1.1.1.1:53`, `[2606::1]:53` or `https://…`.
        [omit] pub addr: String => "Addr",
        [omit] pub bootstrap_resolution: Vec<IpAddr> => "BootstrapResolution",
        [omit] pub use_with_exit_node: bool => "UseWithExitNode",
    }
}

wire_object! {
    /// An extra name. Types other than empty, `A` and `AAAA` are ignored by clients; the family follows from the value.
    pub struct DnsRecord {
        [always] pub name: String => "Name",
        [omit] pub kind: String => "Type",
        [always] pub value: String => "Value",
    }
}
