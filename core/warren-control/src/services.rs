//! Services with addresses of their own: who may host them, who does, and what both sides are told.
//!
//! ```text
//! offered (the node says so)  ∩  approved (an operator or the policy)  =  hosts
//! the one host that was elected, as for networks behind routers        →  its AllowedIPs, for whom the policy lets in
//! ```
//!
//! control-protocol.md §8.11, user-surface.md §4.7.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use warren_crypto::UnixTime;
use warren_ip::Prefix;
use warren_policy::PolicyService;
use warren_wire::{CapMap, DnsRecord, NodeId, ServiceDetails, cap};

use crate::approvals;
use crate::command::{Answer, Refusal};
use crate::names;
use crate::operator_keys::check_tags;
use crate::presence::Present;
use crate::register::next;
use crate::registry::Registry;
use crate::rows::{Node, Service, ServiceId};
use crate::staged::Staged;
use crate::table::Table;

/// More ports than anybody lists; bounds a row.
const MOST_PORTS: usize = 64;
/// Longest comment, in bytes.
const LONGEST_COMMENT: usize = 512;

/// What an operator says of a service beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceWish {
    /// See [`Service::ports`].
    pub ports: Vec<String>,
    /// May be empty.
    pub comment: String,
    /// See [`Service::tags`].
    pub tags: BTreeSet<String>,
}

/// What an operator changes about a service; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceChange {
    /// See [`Service::ports`].
    pub ports: Option<Vec<String>>,
    /// See [`ServiceWish::comment`].
    pub comment: Option<String>,
    /// See [`Service::tags`].
    pub tags: Option<BTreeSet<String>>,
}

/// The services that a node hosts: those that it offers and is approved for, in order. A node that has expired, or waits
/// for an operator, hosts nothing.
pub(crate) fn hosted(node: &Node, present: Option<&Present>, registry: &Registry) -> Vec<ServiceId> {
    let Some(present) = present.filter(|_| !node.expired && node.approved) else { return Vec::new() };
    let offered = present.offered.active().filter_map(|name| registry.service_by_name(name));
    let hosted: BTreeSet<ServiceId> =
        offered.filter(|service| service.approved.contains(&node.id)).map(|service| service.id).collect();
    hosted.into_iter().collect()
}

/// All services as policies speak of them.
pub(crate) fn of_policy(registry: &Registry, known: &Table<NodeId, Arc<Present>>) -> Vec<PolicyService> {
    let is_host = |service: &Service, id: &NodeId| {
        let present = known.get(id).map(|present| &**present);
        registry.node(*id).is_some_and(|node| hosted(node, present, registry).contains(&service.id))
    };
    let service = |service: &Arc<Service>| PolicyService {
        name: service.full_name(),
        addrs: service.addresses().iter().map(Prefix::addr).collect(),
        hosts: service.approved.iter().copied().filter(|id| is_host(service, id)).collect(),
    };
    registry.services().map(service).collect()
}

/// What a host is told: the addresses of each of its services.
pub(crate) fn host_capability<'a>(services: impl Iterator<Item = &'a Arc<Service>>) -> Option<Value> {
    let addresses = |service: &Service| service.addresses().iter().map(|prefix| text(prefix.addr())).collect();
    let entries = services.map(|service| (service.full_name(), Value::Array(addresses(service))));
    let entries: serde_json::Map<String, Value> = entries.collect();
    (!entries.is_empty()).then_some(Value::Object(entries))
}

fn text(address: IpAddr) -> Value {
    Value::String(address.to_string())
}

/// What a client is told of a service that it may use.
pub(crate) fn tell_client(service: &Service, capabilities: &mut CapMap) {
    let details = ServiceDetails {
        name: service.full_name(),
        addrs: service.addresses().iter().map(Prefix::addr).collect(),
        ports: service.ports.clone(),
        ..ServiceDetails::default()
    };
    // It is plain data, so it has a form in JSON.
    if let Ok(details) = serde_json::to_value(details) {
        capabilities.insert(format!("{}{}", cap::SERVICES_PREFIX, service.name), vec![details]);
    }
}

/// The service's name with each of its addresses.
pub(crate) fn records<'a>(service: &'a Service, base_domain: &'a str) -> impl Iterator<Item = DnsRecord> + 'a {
    service.addresses().into_iter().map(move |address| DnsRecord {
        name: format!("{}.{base_domain}", service.name),
        value: address.addr().to_string(),
        ..DnsRecord::default()
    })
}

impl Staged {
    pub(crate) fn create_service(&mut self, name: &str, wish: ServiceWish, now: UnixTime) -> Result<Answer, Refusal> {
        let name = name.strip_prefix("svc:").unwrap_or(name);
        if !names::is_label(name) {
            let rule = "1 to 63 of a-z, 0-9 and -, no hyphen at either end, with or without svc: before it";
            return Err(Refusal::Invalid(format!("{name:?} cannot be a service's name: {rule}")));
        }
        if names::is_reserved(name) {
            return Err(Refusal::Invalid(format!(
                "{name} is a name that programs ask for by themselves; choose another"
            )));
        }
        if self.state.registry.service_by_name(name).is_some() {
            return Err(Refusal::Taken { what: "service name", value: name.to_owned() });
        }
        if self.state.registry.is_name_taken(name) {
            let what_to_do = "both would be one name in DNS; rename the node first";
            return Err(Refusal::Conflict(format!("a node is called {name}, and {what_to_do}")));
        }
        check(&wish)?;
        let ServiceWish { ports, comment, tags } = wish;
        let (v4, v6) = (self.take_v4()?, self.take_v6()?);
        let id = ServiceId(self.count(|facts| next(&mut facts.next_service)));
        self.note(now, format!("service:{id}"), name);
        let approved = BTreeSet::new();
        let name = name.to_owned();
        self.put_service(Service { id, name, v4, v6, ports, comment, tags, approved, created: now });
        self.approve_all_offered(now);
        self.service(id).map(Answer::Service)
    }

    pub(crate) fn change_service(
        &mut self,
        id: ServiceId,
        change: ServiceChange,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let service = self.service(id)?;
        let wish = ServiceWish {
            ports: change.ports.unwrap_or_else(|| service.ports.clone()),
            comment: change.comment.unwrap_or_else(|| service.comment.clone()),
            tags: change.tags.unwrap_or_else(|| service.tags.clone()),
        };
        check(&wish)?;
        let ServiceWish { ports, comment, tags } = wish;
        let changed = Service { ports, comment, tags, ..Service::clone(&service) };
        if changed != *service {
            self.note(now, format!("service:{id}"), "");
            self.put_service(changed);
            self.approve_all_offered(now);
        }
        self.service(id).map(Answer::Service)
    }

    pub(crate) fn delete_service(&mut self, id: ServiceId, now: UnixTime) -> Result<Answer, Refusal> {
        let service = self.service(id)?;
        self.note(now, format!("service:{id}"), service.name.clone());
        self.remove_service(&service);
        Ok(Answer::Done)
    }

    pub(crate) fn approve_host(
        &mut self,
        id: ServiceId,
        node: NodeId,
        approve: bool,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let (service, node) = (self.service(id)?, self.node(node)?);
        let mut approved = service.approved.clone();
        let is_new = if approve { approved.insert(node.id) } else { approved.remove(&node.id) };
        if !is_new {
            return Ok(Answer::Service(service));
        }
        let verb = if approve { "may be hosted" } else { "is no longer hosted" };
        self.note(now, format!("service:{id}"), format!("{verb} by node:{}", node.id.0));
        Ok(Answer::Service(self.put_service(Service { approved, ..Service::clone(&service) })))
    }

    /// Approves what the policy approves of what the node offered last.
    pub(crate) fn approve_offered(&mut self, node: &Node, now: UnixTime) {
        let Some(present) = self.presence.get(&node.id).cloned() else { return };
        for id in approvals::fresh_services(&self.state.policy, &self.state.registry, node, &present.offered) {
            let Some(service) = self.state.registry.service(id).cloned() else { continue };
            self.note(now, format!("service:{id}"), format!("the policy approves node:{} as host", node.id.0));
            let mut approved = service.approved.clone();
            approved.insert(node.id);
            self.put_service(Service { approved, ..Service::clone(&service) });
        }
    }

    fn approve_all_offered(&mut self, now: UnixTime) {
        let nodes: Vec<Arc<Node>> = self.state.registry.nodes().cloned().collect();
        for node in nodes {
            self.approve_offered(&node, now);
        }
    }

    fn service(&self, id: ServiceId) -> Result<Arc<Service>, Refusal> {
        let missing = || Refusal::NotFound { kind: "service", name: id.to_string() };
        self.state.registry.service(id).cloned().ok_or_else(missing)
    }
}

fn check(wish: &ServiceWish) -> Result<(), Refusal> {
    if wish.ports.len() > MOST_PORTS {
        return Err(Refusal::Invalid(format!("more than {MOST_PORTS} ports")));
    }
    if let Some(bad) = wish.ports.iter().find(|text| !is_port_text(text)) {
        return Err(Refusal::Invalid(format!("{bad:?} is not a port: write tcp:443, udp:53, 8000-8099 or *")));
    }
    if wish.comment.len() > LONGEST_COMMENT || wish.comment.chars().any(char::is_control) {
        return Err(Refusal::Invalid(format!("a comment is one line of at most {LONGEST_COMMENT} bytes")));
    }
    check_tags(&wish.tags)
}

/// `[protocol:]ports`: the protocol by the name or number that clients read, the ports as one, a range or `*`.
fn is_port_text(text: &str) -> bool {
    let (protocol, ports) = text.split_once(':').unwrap_or(("tcp", text));
    let is_protocol = matches!(protocol, "tcp" | "udp" | "sctp") || protocol.parse().is_ok_and(|number: u8| number > 0);
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    is_protocol && (ports == "*" || port(first).zip(port(last)).is_some_and(|(first, last)| first <= last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_clients_read_them() {
        for good in ["*", "443", "80-90", "tcp:443", "udp:*", "6:22", "sctp:1-65535"] {
            assert!(is_port_text(good), "{good}");
        }
        for bad in
            ["", ":443", "tcp:", "tcp:0", "tcp:90-80", "0:22", "http:80", "tcp:+80", "tcp:1-2-3", "80,443", "65536"]
        {
            assert!(!is_port_text(bad), "{bad}");
        }
    }
}
