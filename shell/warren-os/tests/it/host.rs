use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

use warren_ip::offload::Super;
use warren_os::{Host, News, OsConfig, READ_BYTES, Tun, Uplinks, Watch};

use crate::namespace::in_namespace;

pub fn config(routes: &[&str]) -> OsConfig {
    OsConfig {
        interface: "warren0".into(),
        mtu: 1280,
        up: true,
        addrs: vec!["100.64.0.1".parse().unwrap(), "fd7a:115c:a1e0::1".parse().unwrap()],
        routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        guard: false,
    }
}

fn claimed() -> (Host, Tun) {
    let mut host = Host::open().unwrap();
    let tun = Tun::open("warren0").unwrap();
    host.claim("warren0", 1280).unwrap();
    (host, tun)
}

fn uplink_addrs(ignored_interface: &str) -> BTreeSet<IpAddr> {
    Uplinks::look(ignored_interface).unwrap().addrs
}

fn routes_of(host: &mut Host) -> Vec<String> {
    host.our_routes().unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn applying_twice_changes_nothing_and_a_smaller_wish_takes_away() {
    in_namespace("apply", || {
        let (mut host, _tun) = claimed();
        let full = config(&["100.64.0.2/32", "100.64.0.3/32", "fd7a:115c:a1e0::2/128"]);
        for _ in 0..2 {
            let applied = host.apply(&full).unwrap();
            assert!(applied.skipped.is_empty(), "{applied:?}");
            assert_eq!(routes_of(&mut host), ["100.64.0.2/32", "100.64.0.3/32", "fd7a:115c:a1e0::2/128"]);
        }
        assert_eq!(uplink_addrs("lo"), BTreeSet::from_iter(full.addrs.clone()));
        assert!(uplink_addrs("warren0").is_empty());

        let mut smaller = config(&["100.64.0.3/32"]);
        smaller.addrs = vec!["100.64.0.9".parse().unwrap()];
        host.apply(&smaller).unwrap();
        assert_eq!(routes_of(&mut host), ["100.64.0.3/32"]);
        assert_eq!(uplink_addrs("lo"), BTreeSet::from_iter(smaller.addrs.clone()));

        host.remove("warren0").unwrap();
        assert_eq!(host.interface("warren0").unwrap(), None);
        assert!(routes_of(&mut host).is_empty());
        host.remove("warren0").unwrap();
    });
}

#[test]
fn an_interface_of_somebody_else_is_left_alone() {
    in_namespace("foreign", || {
        let mut host = Host::open().unwrap();
        let _tun = Tun::open("warren0").unwrap();
        assert!(host.apply(&config(&[])).is_err());
        assert!(host.remove("warren0").is_err());
        assert_eq!(host.interface("warren0").unwrap(), Some(false));
    });
}

#[test]
fn packets_cross_the_device_both_ways_as_bursts() {
    in_namespace("packets", || {
        let (mut host, tun) = claimed();
        host.apply(&config(&["100.64.0.2/32"])).unwrap();
        let socket = UdpSocket::bind("100.64.0.1:4000").unwrap();
        socket.send_to(b"out", "100.64.0.2:5000").unwrap();
        let out = read_until(&tun, |burst| burst.flow().is_some_and(|flow| flow.dst.port() == 5000));
        let packets: Vec<Vec<u8>> = out.packets().collect();
        assert!(packets[0].ends_with(b"out"));

        let reply =
            warren_ip::build::udp("100.64.0.2:5000".parse().unwrap(), "100.64.0.1:4000".parse().unwrap(), b"back")
                .unwrap();
        tun.write(&Super::packet(reply)).unwrap();
        let mut text = [0; 16];
        let (length, from) = socket.recv_from(&mut text).unwrap();
        assert_eq!((&text[..length], from), (&b"back"[..], "100.64.0.2:5000".parse().unwrap()));
    });
}

/// Waits in the kernel for packets until one fits.
fn read_until(tun: &Tun, fits: impl Fn(&Super) -> bool) -> Super {
    loop {
        let mut poll = libc::pollfd { fd: tun.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 5_000) }, 1, "no packet came");
        if let Ok(Some(burst)) = tun.read(Vec::with_capacity(READ_BYTES))
            && fits(&burst)
        {
            return burst;
        }
    }
}

#[test]
fn the_preferred_default_route_is_told_and_one_into_the_mesh_is_not() {
    in_namespace("routes", || {
        let ip = |line: &str| ip(&[line]);
        for (name, address) in [("one0", "192.0.2.2/24"), ("two0", "198.51.100.2/24"), ("warren0", "100.64.0.2/32")] {
            ip(&format!("link add {name} type veth peer name x{name}"));
            ip(&format!("addr add {address} dev {name}"));
            ip(&format!("link set {name} up"));
        }
        let gateways = || -> Vec<Option<IpAddr>> {
            Uplinks::look("warren0").unwrap().routes.into_iter().map(|route| route.gateway).collect()
        };
        assert!(gateways().is_empty());
        ip("route add default via 192.0.2.1 metric 100");
        ip("route add default dev warren0 metric 1");
        let first = "192.0.2.1".parse().unwrap();
        assert_eq!(gateways(), [Some(first)]);
        ip("route add default via 198.51.100.1 metric 50");
        let second = "198.51.100.1".parse().unwrap();
        assert_eq!(gateways(), [Some(second)], "the addresses are the same, the way is another");
        ip("route del default via 198.51.100.1");
        assert_eq!(gateways(), [Some(first)]);
    });
}

#[test]
fn changes_elsewhere_are_news_and_our_own_are_not() {
    in_namespace("watch", || {
        let mut watch = Watch::open("warren0").unwrap();
        let (mut host, _tun) = claimed();
        host.apply(&config(&["100.64.0.2/32"])).unwrap();
        assert!(!watch.read().unwrap().elsewhere, "our own interface is no news");
        let _other = Tun::open("other0").unwrap();
        assert_eq!(watch.read().unwrap(), News { elsewhere: true, own_loss: false });
        assert_eq!(watch.read().unwrap(), News::default());
    });
}

#[test]
fn what_others_take_from_our_interface_is_news_and_applying_again_brings_it_back() {
    in_namespace("loss", || {
        let mut watch = Watch::open("warren0").unwrap();
        let (mut host, _tun) = claimed();
        let full = config(&["100.64.0.2/32", "fd7a:115c:a1e0::2/128"]);
        host.apply(&full).unwrap();
        watch.read().unwrap();
        for loss in [
            "link set warren0 down",
            "address del 100.64.0.1/32 dev warren0",
            "route del 100.64.0.2 dev warren0",
            "-6 route del fd7a:115c:a1e0::2/128 dev warren0",
        ] {
            ip(&[loss]);
            assert!(watch.read().unwrap().own_loss, "{loss}");
            assert!(host.apply(&full).unwrap().skipped.is_empty());
            assert_eq!(routes_of(&mut host), ["100.64.0.2/32", "fd7a:115c:a1e0::2/128"], "{loss}");
            assert_eq!(uplink_addrs("lo"), BTreeSet::from_iter(full.addrs.clone()), "{loss}");
            watch.read().unwrap();
            host.apply(&full).unwrap();
            assert_eq!(watch.read().unwrap(), News::default(), "what stands is not made again");
        }
        ip(&["link del warren0"]);
        assert!(watch.read().unwrap().own_loss);
    });
}

/// Runs lines of `ip` in this thread's namespace.
fn ip(lines: &[&str]) {
    for line in lines {
        let done = Command::new("ip").args(line.split(' ')).status().expect("the ip command");
        assert!(done.success(), "ip {line}");
    }
}

fn addresses(texts: &[&str]) -> BTreeSet<std::net::IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn containers_that_come_and_go_do_not_change_where_this_host_is() {
    in_namespace("uplinks", || {
        // An island: all it has counts.
        ip(&["link set lo up"]);
        assert_eq!(uplink_addrs("warren0"), addresses(&["127.0.0.1", "::1"]));
        // The cable that leads out, as a container has it.
        ip(&[
            "link add eth0 type veth peer name far0",
            "link set far0 up",
            "link set eth0 up",
            "address add 192.0.2.2/24 dev eth0",
            "address add 2001:db8::2/64 dev eth0 nodad",
            "route add default via 192.0.2.1",
        ]);
        let here = addresses(&["192.0.2.2", "2001:db8::2"]);
        assert_eq!(uplink_addrs("warren0"), here);
        // Containers of our own: a bridge, a cable, link-local addresses, and a tunnel of somebody else.
        ip(&[
            "link add docker0 type bridge",
            "address add 172.17.0.1/16 dev docker0",
            "link set docker0 up",
            "link add veth1 type veth peer name guest1",
            "link set veth1 master docker0",
            "link set veth1 up",
            "link set guest1 up",
            "address add 169.254.7.7/16 dev eth0",
            "tuntap add dev tun9 mode tun",
            "address add 10.9.9.9/32 dev tun9",
            "link set tun9 up",
        ]);
        assert_eq!(uplink_addrs("warren0"), here);
        ip(&["link del veth1", "link del docker0"]);
        assert_eq!(uplink_addrs("warren0"), here);
        // A bridge on which the machine's own default route is.
        ip(&[
            "link add br0 type bridge",
            "address add 198.51.100.3/24 dev br0",
            "link set br0 up",
            "route add default via 198.51.100.1 metric 7",
        ]);
        assert_eq!(uplink_addrs("warren0"), addresses(&["192.0.2.2", "2001:db8::2", "198.51.100.3"]));
        ip(&["link set eth0 down", "link del br0"]);
        assert_eq!(uplink_addrs("warren0"), addresses(&["10.9.9.9", "127.0.0.1", "::1"]));
    });
}
