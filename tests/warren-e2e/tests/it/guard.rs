//! A neighbour on the local network who sends from addresses of the mesh.

use warren_e2e::service::{Mode, PATIENCE};
use warren_e2e::{Internet, Machine, Nat, hold, till};

use crate::paths::{join, servers4};

/// An address of the mesh that nobody has.
const NOBODY: &str = "100.64.200.99";

#[test]
fn a_neighbour_does_not_get_in_with_an_address_of_the_mesh() {
    if !warren_e2e::inside() || !warren_e2e::can_make_tun() {
        return;
    }
    let net = Internet::new(Nat::Easy, Nat::Easy);
    let before = rules(&net.left);
    let servers = servers4(&net);
    let [a, b] = join(&net, &servers, [Mode::Kernel; 2]);
    let (own, peer) = (a.ip4(), b.ip4());
    till(PATIENCE, "packets of the peer itself", || ping(&net.left, &peer));
    assert_ne!(rules(&net.left), before);

    let neighbour = &net.left_router;
    // The kernel's own check would hide what is tested.
    for interface in ["all", "eth0"] {
        net.left.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter=0"));
    }
    for source in [NOBODY, &peer] {
        neighbour.sh(&format!("ip addr add {source}/32 dev lan"));
        net.left.sh(&format!(
            "nft 'table inet seen {{ counter hits {{ }}; chain in {{ type filter hook input priority 0; \
             iifname \"eth0\" ip saddr {source} counter name hits; }}; }}'"
        ));
        let gets_in = || {
            neighbour.try_sh(&format!("ping -c 1 -W 1 -I {source} 10.1.0.2"));
            let seen = net.left.sh("nft reset counter inet seen hits");
            if seen.contains("packets 0 ") { Err(format!("{source}: {seen}")) } else { Ok(()) }
        };
        gets_in().expect_err("dropped");
        // Without the guard it would have come in: the test can fail.
        a.ask(&["set", "--netfilter-mode=off"]);
        till(PATIENCE, "no guard", gets_in);
        a.ask(&["set", "--netfilter-mode=on"]);
        till(PATIENCE, "the guard again", || if gets_in().is_err() { Ok(()) } else { Err("it gets in".to_string()) });
        neighbour.sh(&format!("ip addr del {source}/32 dev lan"));
        net.left.sh("nft delete table inet seen");
    }
    // What is the neighbour's own still comes in, and so do the mesh and loopback.
    for line in ["ping -c 1 -W 2 10.1.0.1", &format!("ping -c 1 -W 2 {own}")] {
        net.left.sh(line);
    }
    hold(std::time::Duration::from_secs(1), "packets of the peer itself", || ping(&net.left, &peer));

    // A provider's shared address space on the uplink is let through.
    net.left.sh("ip addr add 100.100.0.2/24 dev eth0");
    neighbour.sh("ip addr add 100.100.0.1/24 dev lan");
    till(PATIENCE, "the provider's gateway", || ping(&net.left, "100.100.0.1"));
    net.left.sh("ip addr del 100.100.0.2/24 dev eth0");
    neighbour.sh("ip addr del 100.100.0.1/24 dev lan");

    drop((a, b));
    assert_eq!(rules(&net.left), before);
}

fn ping(machine: &Machine, ip: &str) -> Result<(), String> {
    let out = machine.try_sh(&format!("ping -c 1 -W 1 {ip}"));
    out.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

fn rules(machine: &Machine) -> String {
    machine.sh("nft list ruleset")
}
