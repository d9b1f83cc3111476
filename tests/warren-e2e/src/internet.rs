//! A small internet: a public segment with a server on it, and two sites behind routers.
//!
//! ```text
//!            203.0.113.0/24, 2001:db8::/64
//!   S .1 .2 ──────┬───────────────┬──────────
//!               NA .11          NB .12
//!                 │ 10.1.0.0/24   │ 10.2.0.0/24
//!                 │ 2001:db8:1::  │ 2001:db8:2::
//!               A .2            B .2
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Machine, Nat};

/// Which address families a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    pub fn has_v4(self) -> bool {
        self != Families::V6
    }

    pub fn has_v6(self) -> bool {
        self != Families::V4
    }
}

/// UDP port that nodes of the laboratory ask for, and what translating routers make of it.
pub const NODE_PORT: u16 = 41641;

pub struct Internet {
    pub server: Machine,
    pub left_router: Machine,
    pub right_router: Machine,
    pub left: Machine,
    pub right: Machine,
    // Last, so that it goes after the machines that hang on it.
    _segment: Machine,
    folder: PathBuf,
}

pub struct Site {
    pub nat: Nat,
    pub families: Families,
}

impl From<Nat> for Site {
    fn from(nat: Nat) -> Self {
        Site { nat, families: Families::V4 }
    }
}

impl Internet {
    /// Builds it below a fresh folder of its own.
    pub fn new(left: impl Into<Site>, right: impl Into<Site>) -> Internet {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Inside a process namespace of its own the test's number is always 1, so it does not tell two runs apart.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let folder = std::env::temp_dir().join(format!("warren-e2e-{now}-{number}"));
        std::fs::create_dir_all(&folder).expect("a folder for the laboratory");
        let make = |name: &str| Machine::new(&format!("{name}{number}"), &folder);
        let net = Internet {
            server: make("s"),
            left_router: make("na"),
            right_router: make("nb"),
            left: make("a"),
            right: make("b"),
            _segment: make("seg"),
            folder,
        };
        let segment = &net._segment;
        segment.sh("ip link add name br0 type bridge && ip link set br0 up");
        net.plug(&net.server, "s");
        net.server.sh("ip addr add 203.0.113.1/24 dev wan && ip addr add 203.0.113.2/24 dev wan && \
             ip addr add 2001:db8::1/64 dev wan nodad && ip addr add 2001:db8::2/64 dev wan nodad && \
             ip -6 route add 2001:db8:1::/64 via 2001:db8::11 && ip -6 route add 2001:db8:2::/64 via 2001:db8::12");
        let sites = [left.into(), right.into()];
        net.site(&net.left_router, &net.left, &sites[0], 1);
        net.site(&net.right_router, &net.right, &sites[1], 2);
        // A site without translation is reached by its own addresses, from everywhere.
        for (site, number, other) in [(&sites[0], 1, &net.right_router), (&sites[1], 2, &net.left_router)] {
            if site.nat == Nat::None && site.families.has_v4() {
                for machine in [&net.server, other] {
                    machine.sh(&format!("ip route add 10.{number}.0.0/24 via 203.0.113.1{number}"));
                }
            }
        }
        net.machines().for_each(Machine::note_as_found);
        net
    }

    fn machines(&self) -> impl Iterator<Item = &Machine> {
        [&self.server, &self.left_router, &self.right_router, &self.left, &self.right].into_iter()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A cable from `machine` (interface `wan`) to the public segment.
    fn plug(&self, machine: &Machine, port: &str) {
        let (segment, name) = (self._segment.name(), machine.name());
        crate::machine::shell(&format!(
            "ip -n {segment} link add p{port} type veth peer name wan netns {name} && \
             ip -n {segment} link set p{port} master br0 up && ip -n {name} link set wan up"
        ));
    }

    fn site(&self, router: &Machine, host: &Machine, site: &Site, number: u8) {
        self.plug(router, &format!("r{number}"));
        let (inside, outside) = (host.name(), router.name());
        crate::machine::shell(&format!(
            "ip -n {outside} link add lan type veth peer name eth0 netns {inside} && \
             ip -n {outside} link set lan up && ip -n {inside} link set eth0 up"
        ));
        let outer = format!("203.0.113.1{number}");
        let lan = format!("10.{number}.0");
        if site.families.has_v4() {
            router.sysctl("net.ipv4.ip_forward=1");
            router.sh(&format!("ip addr add {outer}/24 dev wan && ip addr add {lan}.1/24 dev lan"));
            host.sh(&format!("ip addr add {lan}.2/24 dev eth0 && ip route add default via {lan}.1"));
            if site.nat != Nat::None {
                self.nat(router, &site.nat.rules(&outer, &format!("{lan}.2"), NODE_PORT, 50000 + u16::from(number)));
            }
        }
        if site.families.has_v6() {
            let other = 3 - number;
            router.sysctl("net.ipv6.conf.all.forwarding=1");
            router.sh(&format!(
                "ip addr add 2001:db8::1{number}/64 dev wan nodad && ip addr add 2001:db8:{number}::1/64 dev lan nodad && \
                 ip -6 route add 2001:db8:{other}::/64 via 2001:db8::1{other}"
            ));
            host.sh(&format!(
                "ip addr add 2001:db8:{number}::2/64 dev eth0 nodad && ip -6 route add default via 2001:db8:{number}::1"
            ));
            // A stateful firewall, as homes have it: nothing new comes in.
            self.nat(
                router,
                "table ip6 lab6 {\nchain forward {\n type filter hook forward priority 0;\n \
                 iifname \"wan\" ct state new drop\n }\n}\n",
            );
        }
    }

    fn nat(&self, router: &Machine, rules: &str) {
        if rules.is_empty() {
            return;
        }
        let file = router.folder().join("rules.nft");
        std::fs::write(&file, rules).expect("write the rules");
        router.sh(&format!("nft -f {}", file.display()));
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for machine in [&self.server, &self.left, &self.right] {
                let logs = machine.try_sh("tail -n 60 *.log 2>/dev/null");
                eprintln!("--- logs of {} ---\n{}", machine.name(), String::from_utf8_lossy(&logs.stdout));
            }
        } else {
            self.machines().for_each(Machine::check_left_as_found);
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
