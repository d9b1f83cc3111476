//! The laboratory itself: its routers are what they say.

use warren_e2e::{Internet, Nat};

/// Sends one datagram from A's node port to two addresses of the server; returns the two source ports that were seen.
fn seen_ports(net: &Internet) -> (String, String) {
    let listen = "import socket\n\
        s=[socket.socket(socket.AF_INET,socket.SOCK_DGRAM) for _ in range(2)]\n\
        [x.bind((f'203.0.113.{i+1}',7000)) for i,x in enumerate(s)]\n\
        [x.settimeout(5) for x in s]\n\
        print(*[x.recvfrom(99)[1][1] for x in s])\n";
    std::fs::write(net.server.folder().join("listen.py"), listen).expect("write");
    let send = "import socket,time\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',41641))\n\
        time.sleep(0.5)\n\
        [s.sendto(b'x',(f'203.0.113.{i+1}',7000)) for i in range(2)]\n";
    std::fs::write(net.left.folder().join("send.py"), send).expect("write");
    let sender = net.left.start("send", "python3", &["send.py"]);
    let text = net.server.sh("python3 listen.py");
    drop(sender);
    let mut ports = text.split_whitespace().map(str::to_string);
    (ports.next().unwrap_or_default(), ports.next().unwrap_or_default())
}

#[test]
fn routers_translate_as_their_kind_says() {
    if !warren_e2e::inside() {
        return;
    }
    for (kind, check) in [
        (Nat::Easy, (|a: &str, b: &str| a == "50001" && b == "50001") as fn(&str, &str) -> bool),
        (Nat::Keep, |a, b| a == "41641" && b == "41641"),
        (Nat::Full, |a, b| a == "50001" && b == "50001"),
        (Nat::Hard, |a, b| a != b),
        (Nat::None, |a, b| a == "41641" && b == "41641"),
    ] {
        let net = Internet::new(kind, Nat::Easy);
        let (a, b) = seen_ports(&net);
        assert!(check(&a, &b), "{kind:?}: {a} {b}");
    }
}
