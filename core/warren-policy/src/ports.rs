//! Ports and protocols of a rule. user-surface.md §4.3.

use warren_ip::Protocol;
use warren_wire::PortRange;

use crate::rule::Access;

/// Reads `*`, `22`, `80,443`, `1000-2000` and mixes.
///
/// # Errors
/// The field's own words.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<PortRange>, String> {
    text.split(',').map(|part| parse_part(part.trim())).collect()
}

fn parse_part(part: &str) -> Result<PortRange, String> {
    if part == "*" {
        return Ok(PortRange::ANY);
    }
    let wrong = |what: &str| format!("port range {part:?}: {what}");
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let number = |digits: &str, which: &str| {
        if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong(&format!("invalid {which} integer")));
        }
        digits.parse::<u16>().map_err(|_| wrong("port number out of range"))
    };
    let (first, last) = (number(first, "first")?, number(last, "last")?);
    if first == 0 {
        return Err(wrong("first port must be >0, or use '*' for wildcard"));
    }
    if first > last {
        return Err(wrong("invalid port range: first port is greater than last port"));
    }
    Ok(PortRange { first, last })
}

const NAMES: [(&str, u8); 14] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipv4", 4),
    ("ip-in-ip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("fc", 133),
];

/// Reads a protocol by name or number; `None` for the empty text, which means "the usual ones".
///
/// # Errors
/// The field's own words.
pub(crate) fn parse_protocol(text: &str) -> Result<Option<Protocol>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let folded = text.to_ascii_lowercase();
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == folded) {
        return Ok(Some(Protocol(*number)));
    }
    if text == "*" {
        return Err(format!(
            "proto name {text:?} not known; use protocol number 0-255 or protocol name (icmp, tcp, udp, etc.)"
        ));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "invalid protocol number: {text:?} must be a known protocol name or valid protocol number 0-255"
        ));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("leading 0 not permitted in protocol number: {text:?}"));
    }
    match text.parse::<u8>() {
        Ok(number) => Ok(Some(Protocol(number))),
        Err(_) => Err(format!("protocol number out of range (0-255): {text}")),
    }
}

/// Whether rules for this protocol may name ports.
pub(crate) fn takes_ports(protocol: Protocol) -> bool {
    protocol.has_ports()
}

/// The field's words for a port where the protocol has none.
pub(crate) fn only_any(protocol: Protocol) -> String {
    let number = protocol.to_string();
    let name = NAMES.iter().find(|(_, known)| *known == protocol.0).map_or(number.as_str(), |(name, _)| name);
    format!("protocol does not support specific ports: {name:?}, only \"*\" is allowed")
}

/// Reads an entry of a grant's `ip`: `*`, ports, or a protocol and ports.
///
/// # Errors
/// The field's own words.
pub(crate) fn parse_access(text: &str) -> Result<Access, String> {
    let text = text.trim();
    let Some((protocol, ports)) = text.split_once(':') else {
        return Ok(Access { protocol: None, ports: parse_ports(text)? });
    };
    if ports.contains(':') {
        return Err(format!("expected only one colon in Internet protocol and port type, got: {text:?}"));
    }
    // What a grant calls `*` is every usual protocol; of a protocol with no name it cannot tell what is meant.
    let protocol = match protocol.trim() {
        "*" => None,
        "" => return Err(format!("empty protocol in {text:?}; leave the colon out for the usual protocols")),
        protocol => parse_protocol(protocol)?,
    };
    let ports = parse_ports(ports)?;
    if let Some(protocol) = protocol.filter(|protocol| !takes_ports(*protocol))
        && ports.iter().any(|range| *range != PortRange::ANY)
    {
        return Err(only_any(protocol));
    }
    Ok(Access { protocol, ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_as_the_field_reads_them() {
        let check = |text: &str, expect: &[(u16, u16)]| {
            let ports: Vec<(u16, u16)> =
                parse_ports(text).unwrap().iter().map(|range| (range.first, range.last)).collect();
            assert_eq!(ports, expect);
        };
        check("*", &[(0, 65535)]);
        check("80,443", &[(80, 80), (443, 443)]);
        check("22, 1000-2000", &[(22, 22), (1000, 2000)]);
        let refuse = |text: &str, what: &str| {
            let error = parse_ports(text).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        refuse("ssh", "port range \"ssh\": invalid first integer");
        refuse("1-x", "invalid last integer");
        refuse("0", "port range \"0\": first port must be >0, or use '*' for wildcard");
        refuse("9-8", "first port is greater than last port");
        refuse("65536", "port number out of range");
        refuse("", "invalid first integer");
        refuse("-1", "invalid first integer");
        refuse("+1", "invalid first integer");
    }

    #[test]
    fn protocols_read_by_name_and_number() {
        assert_eq!(parse_protocol(""), Ok(None));
        assert_eq!(parse_protocol("TCP"), Ok(Some(Protocol::TCP)));
        assert_eq!(parse_protocol("255"), Ok(Some(Protocol(255))));
        for (text, what) in [
            ("06", "leading 0 not permitted in protocol number: \"06\""),
            ("quux", "invalid protocol number: \"quux\" must be a known protocol name"),
            ("300", "protocol number out of range (0-255): 300"),
            ("*", "proto name \"*\" not known"),
        ] {
            let error = parse_protocol(text).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
