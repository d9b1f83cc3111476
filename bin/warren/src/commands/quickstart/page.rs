//! What a person reads when the network is up.

use std::fmt::Write;

use super::addresses::in_url;
use super::{Facts, KEY_LIFETIME};
use crate::commands::join;
use crate::{qr, words};

pub(super) fn text(facts: &Facts) -> String {
    let mut text = String::from("\n");
    for part in [own(facts), addresses(facts), linux(facts), stock(facts), phone(facts), here(facts)] {
        text.push_str(&part);
        text.push('\n');
    }
    let _ = write!(
        text,
        "State is in {}. Ctrl-C stops everything; run it again to carry on; warren quickstart --remove forgets it.",
        facts.state.display()
    );
    text
}

fn own(facts: &Facts) -> String {
    let name = facts.own.self_status.dns_name.split('.').next().unwrap_or_default();
    let ips: Vec<String> = facts.own.tailscale_ips.iter().flatten().map(ToString::to_string).collect();
    format!("Your network is up at {}. This machine is in it as {name} ({}).\n", facts.url, ips.join(", "))
}

fn addresses(facts: &Facts) -> String {
    let mut text = String::from("Others may reach this machine at (best first; choose with --address):\n");
    for host in &facts.hosts {
        let _ = writeln!(text, "  {}:{}", in_url(host), facts.port);
    }
    let _ = writeln!(
        text,
        "A firewall here must let in TCP {0} and UDP {1}; with ufw: sudo ufw allow {0}/tcp && sudo ufw allow {1}/udp",
        facts.port, facts.stun_port
    );
    text
}

fn linux(facts: &Facts) -> String {
    let Facts { url, key, server_key, executable, .. } = facts;
    let get = format!("{url}/get/{}", executable.name);
    let needs = executable.glibc.map(|minor| format!(" with glibc 2.{minor} or newer")).unwrap_or_default();
    format!(
        "Another Linux machine ({}{needs}), with nothing installed (as root for a network interface, else without):\n\n\
         \x20 (curl -fsSo warren {get} || wget -qO warren {get}) && echo '{}  warren' | sha256sum -c - && chmod +x warren && \
         ./warren join {url} --auth-key {key} --server-key {server_key}\n\n\
         The key is good for {} and for several machines. With Warren installed: warren up --login-server {url} --auth-key {key} --server-key {server_key}\n",
        executable.name,
        executable.sha256,
        words::about(KEY_LIFETIME),
    )
}

fn stock(facts: &Facts) -> String {
    format!(
        "A machine with a stock client:\n\n  sudo tailscale up --login-server {} --auth-key {}\n\n\
         An address works as it is. For a public name use https: warren control serve --tls-certificate FILE --tls-key FILE\n",
        facts.url, facts.key
    )
}

fn phone(facts: &Facts) -> String {
    let page = format!("{}/join", facts.url);
    format!("A phone, a Mac or Windows: steps are at {page}\n{}\n", qr::text(&page))
}

fn here(facts: &Facts) -> String {
    match &facts.own.warren_socks5 {
        Some(socks5) => join::userspace_hints(socks5, &facts.why_userspace),
        None => "This machine has a network interface: every program here reaches the others.\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::executable;
    use super::*;

    #[test]
    fn the_page_has_every_line_that_others_need() {
        let mut own = warren_api::local::Status { warren_socks5: Some("127.0.0.1:1055".into()), ..Default::default() };
        own.tailscale_ips = Some(vec!["100.64.0.1".parse().expect("an address")]);
        own.self_status.dns_name = "box.warren.internal.".into();
        let facts = Facts {
            url: "http://192.0.2.7:8080".into(),
            port: 8080,
            stun_port: 3478,
            hosts: vec!["192.0.2.7".into(), "2001:db8::7".into()],
            key: "the-key".into(),
            server_key: "mkey:00".into(),
            executable: executable::Facts { sha256: "ab".repeat(32), name: "linux-x86_64".into(), glibc: Some(34) },
            own,
            why_userspace: "this is not root".into(),
            state: PathBuf::from("/state"),
        };
        let text = text(&facts);
        for part in [
            "as box (100.64.0.1)",
            "  192.0.2.7:8080\n  [2001:db8::7]:8080\n",
            "sudo ufw allow 8080/tcp && sudo ufw allow 3478/udp",
            "glibc 2.34",
            "http://192.0.2.7:8080/get/linux-x86_64",
            "./warren join http://192.0.2.7:8080 --auth-key the-key --server-key mkey:00",
            "good for 1 day",
            "tailscale up --login-server http://192.0.2.7:8080 --auth-key the-key",
            "http://192.0.2.7:8080/join",
            "█",
            "socks5h://127.0.0.1:1055",
            "this is not root",
            "--remove",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
