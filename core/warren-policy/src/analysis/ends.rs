//! From words to the two ends of a packet: nodes that are there, or nodes made up where none are known.

use std::net::IpAddr;

use warren_ip::{IpRange, Prefix};
use warren_wire::NodeId;

use crate::analysis::holders::{Cast, Holder, Person, Population};
use crate::analysis::space::{Space, literal, pick};
use crate::people::Directory;
use crate::policy::Policy;
use crate::selector::{Autogroup, Selector};
use crate::tailnet::{PolicyNode, PolicyService, PolicyUser, Tailnet};

/// The addresses that a word means among the nodes that are there: of nodes with a tag or an owner, of a service, or those
/// that the word spells out. A network stands for its first address.
///
/// # Errors
/// What is wrong with the word, or that it means nothing here.
pub fn addresses(policy: &Policy, tailnet: &Tailnet<'_>, word: &str) -> Result<Vec<Vec<IpAddr>>, String> {
    let selector = Selector::parse(word)?;
    policy.check_defined(&selector)?;
    if let Some(set) = literal(policy, &selector) {
        let first = set.iter().next().map(first_host);
        return first.map(|addr| vec![vec![addr]]).ok_or_else(|| format!("{word} spells out no address"));
    }
    if let Selector::Service(name) = &selector {
        let service = tailnet.services.iter().find(|service| service.name == *name);
        return service
            .map(|service| vec![service.addrs.clone()])
            .ok_or_else(|| format!("no service is called {name}"));
    }
    let found: Vec<Vec<IpAddr>> = tailnet
        .nodes
        .iter()
        .filter(|node| names(policy, tailnet, &selector, node))
        .map(|node| node.addrs.clone())
        .collect();
    if found.is_empty() { Err(format!("no node is named by {word}")) } else { Ok(found) }
}

fn names(policy: &Policy, tailnet: &Tailnet<'_>, selector: &Selector, node: &PolicyNode) -> bool {
    match selector {
        Selector::Everyone => true,
        Selector::Tag(tag) => node.tags.contains(tag),
        Selector::Autogroup(Autogroup::Tagged) => !node.tags.is_empty(),
        Selector::Autogroup(Autogroup::Member) => node.tags.is_empty(),
        _ => {
            let owner = node.owner().and_then(|owner| tailnet.users.iter().find(|user| user.id == owner));
            owner.is_some_and(|owner| Directory::new(tailnet.users).is_named(policy, selector, owner.id))
        }
    }
}

/// The first address of a network is its own name; the next one is a host.
fn first_host(range: IpRange) -> IpAddr {
    match (range.first(), range.first() == range.last()) {
        (IpAddr::V4(addr), false) => IpAddr::V4(addr.to_bits().saturating_add(1).into()),
        (IpAddr::V6(addr), false) => IpAddr::V6(addr.to_bits().saturating_add(1).into()),
        (addr, true) => addr,
    }
}

/// Two nodes made up to fit two words.
#[derive(Clone, PartialEq, Debug)]
pub struct Imagined {
    pub users: Vec<PolicyUser>,
    /// The one that sends, and the one that receives.
    pub nodes: Vec<PolicyNode>,
    pub services: Vec<PolicyService>,
    pub src: IpAddr,
    pub dst: IpAddr,
}

/// Makes up nodes that have what the words say and nothing more: an owner whom `alice@example.com` means and no other
/// word, a node with `tag:db` and no other tag, a router to 10.1.2.3.
///
/// # Errors
/// What is wrong with a word, or that nothing can be meant by it.
pub fn imagine(policy: &Policy, known: &[PolicyUser], src: &str, dst: &str) -> Result<Imagined, String> {
    let population = Population::new(policy, known);
    let (src, dst) = (end(&population, src)?, end(&population, dst)?);
    let is_ipv4 = [&src, &dst].into_iter().find_map(|end| end.addr).is_none_or(|addr| addr.is_ipv4());
    let space = Space::new();
    let mut taken: Vec<IpAddr> = [src.addr, dst.addr].into_iter().flatten().collect();
    let mut cast = Cast::new(&population);
    let sender_owner = cast.owner(&src.holder);
    let is_one = dst.is_own || population.must_be_one(&src.holder, &dst.holder);
    let receiver_owner = if is_one { sender_owner } else { cast.owner(&dst.holder) };
    let receiver = if dst.is_own { src.holder.clone() } else { dst.holder.clone() };
    let mut ends = Vec::new();
    for (end, holder, owner) in [(&src, &src.holder, sender_owner), (&dst, &receiver, receiver_owner)] {
        let is_held = end.addr.is_none_or(|addr| space.overlay.contains(addr)) && end.service.is_none();
        let mut own = Vec::new();
        for family in [true, false] {
            let given = end.addr.filter(|addr| is_held && addr.is_ipv4() == family);
            let addr = given
                .or_else(|| pick(&space.overlay, family, &taken))
                .ok_or("no address is left to make up a node with")?;
            taken.push(addr);
            own.push(addr);
        }
        let addr = end.addr.or_else(|| own.iter().copied().find(|addr| addr.is_ipv4() == is_ipv4));
        let addr =
            addr.filter(|addr| addr.is_ipv4() == is_ipv4).ok_or("one word is about IPv4, the other about IPv6")?;
        let routes = if is_held || end.service.is_some() { Vec::new() } else { vec![Prefix::host(addr)] };
        cast.node(holder, owner, own, routes);
        ends.push(addr);
    }
    let [src_addr, mut dst_addr] = ends[..] else { return Err("a packet has two ends".to_owned()) };
    let mut services = Vec::new();
    if let Some(name) = dst.service {
        dst_addr = pick(&space.overlay, is_ipv4, &taken).ok_or("no address is left to make up a service with")?;
        services.push(PolicyService { name, addrs: vec![dst_addr], hosts: vec![NodeId(2)] });
    }
    Ok(Imagined { users: cast.users, nodes: cast.nodes, services, src: src_addr, dst: dst_addr })
}

/// What one word says of its end.
struct End {
    holder: Holder,
    addr: Option<IpAddr>,
    service: Option<String>,
    /// The other end's owner owns this one.
    is_own: bool,
}

fn end(population: &Population<'_>, word: &str) -> Result<End, String> {
    let selector = Selector::parse(word)?;
    population.policy.check_defined(&selector)?;
    let mut end = End { holder: Holder::Person(Person::nobody()), addr: None, service: None, is_own: false };
    if let Some(set) = literal(population.policy, &selector) {
        end.addr = Some(set.iter().next().map(first_host).ok_or_else(|| format!("{word} spells out no address"))?);
        return Ok(end);
    }
    match &selector {
        Selector::Service(name) => end.service = Some(name.clone()),
        Selector::Autogroup(Autogroup::Selves) => end.is_own = true,
        Selector::Everyone | Selector::Autogroup(Autogroup::DangerAll) => {}
        _ => {
            let holder = population.smallest(&selector).and_then(|holders| holders.into_iter().next());
            end.holder = holder.ok_or_else(|| format!("nobody can be meant by {word}"))?;
        }
    }
    Ok(end)
}
