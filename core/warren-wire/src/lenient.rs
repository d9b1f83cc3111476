//! Lists of addresses in which one odd entry must not cost the whole map.
//!
//! What a peer says of itself (its routes, its endpoints) is relayed to everyone: read strictly, one peer with a strange
//! entry could keep all others from reading their maps.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer};
use warren_ip::Prefix;

/// Prefixes; host bits beyond the length are masked off.
pub(crate) struct Prefixes(pub Vec<Prefix>);

/// UDP addresses; an IPv6 zone (`%eth0`) means nothing to another host and is cut off.
pub(crate) struct Endpoints(pub Vec<SocketAddr>);

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Ok(Prefixes(texts.iter().filter_map(|text| read_prefix(text)).collect()))
    }
}

pub(crate) fn read_prefix(text: &str) -> Option<Prefix> {
    let (addr, bits) = text.split_once('/')?;
    Prefix::masked(addr.parse().ok()?, bits.parse().ok()?)
}

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Ok(Endpoints(texts.iter().filter_map(|text| read_endpoint(text)).collect()))
    }
}

fn read_endpoint(text: &str) -> Option<SocketAddr> {
    match text.split_once('%').zip(text.rsplit_once("]:")) {
        Some(((addr, _), (_, port))) => format!("{addr}]:{port}").parse().ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_entry_costs_only_itself() {
        let prefixes: Prefixes = serde_json::from_str(r#"["10.0.0.1/8","","x/1","fd00::/129","fd00::/8"]"#).unwrap();
        assert_eq!(prefixes.0, ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let endpoints: Endpoints =
            serde_json::from_str(r#"["1.2.3.4:5","[fe80::1%eth0]:6","","[::1]:99999","%]:"]"#).unwrap();
        assert_eq!(endpoints.0, ["1.2.3.4:5".parse().unwrap(), "[fe80::1]:6".parse().unwrap()]);
    }
}
