//! Kinds of routers, as nftables rules.

/// How a router treats what its host sends and what comes back. Terms of RFC 4787.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// No translation: the host has a public address behind a router that forwards everything.
    None,
    /// Endpoint-independent mapping to another port; answers only from the address and port that were contacted.
    Easy,
    /// As easy, with the host's own port kept where it is free.
    Keep,
    /// As easy, and anybody may send to the mapping.
    Full,
    /// A new random port for every destination, strict filter.
    Hard,
    /// No UDP at all; TCP is translated.
    UdpBlocked,
}

impl Nat {
    /// The kinds by the words that people use for them.
    pub fn parse(word: &str) -> Option<Nat> {
        Some(match word {
            "none" => Nat::None,
            "easy" | "restricted" => Nat::Easy,
            "keep" => Nat::Keep,
            "full" | "cone" => Nat::Full,
            "hard" | "symmetric" => Nat::Hard,
            "blocked" => Nat::UdpBlocked,
            _ => return None,
        })
    }

    /// The ruleset of a router whose outer interface is `wan` with address `outer`, in front of `host`.
    ///
    /// Every translating kind drops new connections on its own outer side, as real routers do: otherwise an unsolicited
    /// packet claims the port in the connection table and the mapping moves when the host's own packet leaves.
    pub fn rules(self, outer: &str, host: &str, node_port: u16, mapped_port: u16) -> String {
        let input = "chain input {\n type filter hook input priority 0;\n iifname \"wan\" ct state new drop\n }\n";
        let forward =
            "chain forward {\n type filter hook forward priority 0;\n iifname \"wan\" ct state new drop\n }\n";
        let open = "chain forward {\n type filter hook forward priority 0;\n }\n";
        let block = "chain forward {\n type filter hook forward priority 0;\n meta l4proto udp drop\n iifname \"wan\" ct state new drop\n }\n";
        let out = |rules: &str| format!("chain out {{\n type nat hook postrouting priority 100;\n {rules}\n }}\n");
        let into = |rules: &str| format!("chain into {{\n type nat hook prerouting priority -100;\n {rules}\n }}\n");
        let mapped = format!(
            "oifname \"wan\" ip saddr {host} udp sport {node_port} snat to {outer}:{mapped_port}\n oifname \"wan\" masquerade"
        );
        let body = match self {
            Nat::None => return String::new(),
            Nat::Easy => [input, forward, &out(&mapped)].concat(),
            Nat::Keep => [input, forward, &out("oifname \"wan\" masquerade")].concat(),
            Nat::Full => {
                let dnat = format!("iifname \"wan\" udp dport {mapped_port} dnat to {host}:{node_port}");
                [input, open, &out(&mapped), &into(&dnat)].concat()
            }
            Nat::Hard => [input, forward, &out("oifname \"wan\" masquerade random,fully-random")].concat(),
            Nat::UdpBlocked => [input, block, &out("oifname \"wan\" masquerade")].concat(),
        };
        format!("table ip lab {{\n{body}}}\n")
    }

    /// Whether two nodes behind these kinds can find a direct path over IPv4 by what this build does (no port mapping, no
    /// guessing of ports).
    pub fn direct_with(self, other: Nat) -> bool {
        match (self, other) {
            (Nat::UdpBlocked, _) | (_, Nat::UdpBlocked) => false,
            (Nat::Hard, Nat::None | Nat::Full) | (Nat::None | Nat::Full, Nat::Hard) => true,
            (Nat::Hard, _) | (_, Nat::Hard) => false,
            _ => true,
        }
    }
}
