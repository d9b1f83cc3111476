//! Services with addresses of their own, as hosts and clients speak of them. control-protocol.md §4.5, §8.11.

use std::net::IpAddr;

use crate::object::wire_object;

wire_object! {
    /// One service that a node could answer for.
    pub struct VipService {
        /// `svc:` and a DNS label.
        [always] pub name: String => "Name",
        /// Where the node answers: `tcp:443`, `8000-8099`, `*`.
        [omit] pub ports: Vec<String> => "Ports",
        /// New connections may come to this node. False while it drains.
        [always] pub active: bool => "Active",
    }
}

wire_object! {
    /// A node's answer to c2n `GET /vip-services`.
    pub struct VipServices {
        [omit] pub vip_services: Vec<VipService> => "VIPServices",
        /// What [`crate::Hostinfo::services_hash`] says of the same list.
        [always] pub services_hash: String => "ServicesHash",
    }
}

wire_object! {
    /// A service that a node may use: the value of the capability `services/…` in the node's own record.
    pub struct ServiceDetails {
        /// `svc:` and a DNS label.
        [always] pub name: String => "Name",
        [omit] pub display_name: String => "DisplayName",
        [omit] pub addrs: Vec<IpAddr> => "Addrs",
        /// As in [`VipService::ports`].
        [omit] pub ports: Vec<String> => "Ports",
    }
}
