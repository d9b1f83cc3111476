//! `cargo xtask lab <nat> <nat>`: builds two routers and leaves two shells open. Started inside namespaces of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use warren_e2e::service::{Control, Mode, Node, Relay};
use warren_e2e::{Internet, Nat, can_make_tun};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let kinds: Vec<Option<Nat>> = words.iter().map(|word| Nat::parse(word)).collect();
    let ([Some(left), Some(right)], Some(shells)) = (kinds.as_slice(), std::env::var_os("WARREN_LAB_SHELLS")) else {
        eprintln!("two kinds of router: none easy keep full cone hard symmetric blocked (started by: cargo xtask lab)");
        return ExitCode::from(2);
    };
    let shells = PathBuf::from(shells);
    let net = Internet::new(*left, *right);
    let url = "http://203.0.113.1:8080";
    let relay = Relay::start(&net.server, "relay", "203.0.113.1", 900, url);
    let second = Relay::start(&net.server, "relay2", "203.0.113.2", 901, url);
    let map = Relay::merge_maps(&[&relay, &second], &[]).display().to_string();
    let control = Control::start(&net.server, "control", "203.0.113.1:8080", &["--no-relay", "--relay-map", &map]);
    let key = control.key("you");
    let mode = if can_make_tun() { Mode::Kernel } else { Mode::Userspace };
    let nodes = [("a", &net.left), ("b", &net.right)].map(|(name, machine)| Node::start(machine, name, mode, &[]));
    for (node, name) in nodes.iter().zip(["a", "b"]) {
        node.up(&control.url, &key, &["--hostname", name]);
        println!("{name}: {} behind {:?}", node.ip4(), if name == "a" { left } else { right });
        if let Err(error) = write_shell(&shells, name, node) {
            eprintln!("write the shell of {name} to {}: {error}", shells.display());
            return ExitCode::FAILURE;
        }
    }
    println!("This terminal is on a; leaving it (exit) ends the laboratory. b waits in another terminal:");
    println!("  {}", shells.join("enter").display());
    println!("or here by the command b, until you leave that. Try: warren status, warren ping b, warren netcheck");
    let _ = Command::new(shells.join("inside/a")).status();
    ExitCode::SUCCESS
}

/// Writes the program `inside/<name>`: a shell on that machine, with `warren` and the other machine's shell on its path.
fn write_shell(shells: &Path, name: &str, node: &Node) -> std::io::Result<()> {
    let inside = shells.join("inside");
    std::fs::create_dir_all(&inside)?;
    let file = inside.join(name);
    let bin = std::env::var("WARREN_BIN_DIR").unwrap_or_default();
    let text = format!(
        "#!/bin/sh\nexport WARREN_SOCKET='{}' HOME='{}' PS1='{name} $ '\nexport PATH='{}:{bin}':\"$PATH\"\nexec ip netns exec {} sh -i\n",
        node.state().join("node.sock").display(),
        node.machine.folder().display(),
        inside.display(),
        node.machine.name(),
    );
    std::fs::write(&file, text)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700))
}
