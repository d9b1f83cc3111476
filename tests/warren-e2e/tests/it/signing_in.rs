//! A real identity provider and a real browser: the whole way from `warren up` to a node, as a person walks it.
//!
//! The provider is `oidc-provider` from the npm registry, the browser headless Chromium. `cargo xtask test` fetches the
//! one and installs the other; its folder is in `WARREN_E2E_OIDC`. Screenshots stay in `WARREN_E2E_SHOTS`, if that names
//! a folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use warren_e2e::service::{Control, Mode, Node, PATIENCE};
use warren_e2e::{Machine, Process, till};

const CONTROL: &str = "127.0.0.1:18080";
const PROVIDER_PORT: u16 = 18090;

/// A browser starts slowly on a loaded machine.
const BROWSING: Duration = Duration::from_secs(90);

struct World {
    machine: Machine,
    folder: PathBuf,
    chromium: PathBuf,
}

/// What a person saw, one page a step.
struct Seen(Vec<Value>);

impl Seen {
    #[track_caller]
    fn last(&self, words: &[&str]) -> &Value {
        let last = self.0.last().expect("a page");
        let text = last["text"].as_str().unwrap_or_default();
        for word in words {
            assert!(text.contains(word), "{word:?} is not on the page {}:\n{text}", last["url"]);
        }
        last
    }

    /// Ours have no scripts and fit a phone.
    #[track_caller]
    fn ours_are_plain(&self) {
        for page in self.0.iter().filter(|page| page["url"].as_str().is_some_and(|url| url.contains(CONTROL))) {
            assert_eq!((&page["scripts"], &page["wide"]), (&json!(0), &json!(false)), "{}", page["url"]);
        }
    }
}

impl World {
    /// `None`, said loudly, where something is missing.
    fn new() -> Option<World> {
        if !warren_e2e::inside() {
            return None;
        }
        // The provider itself says that older ones are none of its; Debian 12 brings 18, and there it refuses good codes.
        let version = std::process::Command::new("node").arg("--version").output();
        let version = version.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_string()).unwrap_or_default();
        let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 20) {
            println!(
                "SKIPPED signing in with a real provider: it needs Node.js 20 or newer, and here is \"{version}\""
            );
            return None;
        }
        let Some(folder) = std::env::var_os("WARREN_E2E_OIDC").map(PathBuf::from) else {
            println!(
                "SKIPPED signing in with a real provider: WARREN_E2E_OIDC names no folder with oidc-provider in it"
            );
            return None;
        };
        let on_path = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
        };
        let (Some(chromium), Some(_)) = (on_path("chromium").or_else(|| on_path("chromium-browser")), on_path("node"))
        else {
            println!("SKIPPED signing in with a real provider: chromium or node is not installed");
            return None;
        };
        let temporary = tempfile::tempdir().expect("a folder").keep();
        Some(World { machine: Machine::new("signin", &temporary), folder, chromium })
    }

    fn set_accounts(&self, accounts: &Value) {
        std::fs::write(self.machine.folder().join("accounts.json"), accounts.to_string()).expect("accounts");
    }

    /// The provider, signing with the keys of that number.
    fn provider(&self, keys: u8) -> Process {
        let script = self.folder.join("provider.mjs").display().to_string();
        let (port, redirect) = (PROVIDER_PORT.to_string(), format!("http://{CONTROL}/oidc/callback"));
        let (accounts, keys) = (self.machine.folder().join("accounts.json").display().to_string(), keys.to_string());
        let process = self.machine.start("provider", "node", &[&script, &port, &redirect, &accounts, &keys]);
        till(PATIENCE, "the provider", || {
            let url = format!("http://127.0.0.1:{PROVIDER_PORT}/.well-known/openid-configuration");
            let out = self.machine.try_sh(&format!("curl -sSf --noproxy '*' {url}"));
            out.status.success().then_some(()).ok_or_else(|| process.log())
        });
        process
    }

    fn control(&self, more: &str) -> Control<'_> {
        let file = self.machine.folder().join("control.toml");
        let text = format!(
            "oidc_issuer = \"http://127.0.0.1:{PROVIDER_PORT}\"\noidc_client_id = \"warren\"\n\
             oidc_client_secret_file = \"secret\"\n{more}\n"
        );
        std::fs::write(&file, text).expect("configuration");
        std::fs::write(self.machine.folder().join("secret"), "e2e-client-secret\n").expect("the secret");
        let file = file.display().to_string();
        Control::start(&self.machine, "control", CONTROL, &["--config", &file, "--no-relay", "--stun", "0"])
    }

    /// Where `warren up` sends its person.
    fn up(&self, node: &Node<'_>, name: &str) -> (Process, String) {
        let socket = node.state().join("node.sock").display().to_string();
        let url = format!("http://{CONTROL}");
        let args = ["--socket", &socket, "up", "--login-server", &url, "--hostname", "laptop", "--timeout", "120s"];
        let process = self.machine.start(name, warren_e2e::executable("warren"), &args);
        let (link, _) = till(PATIENCE, "the link", || {
            let log = process.log();
            let link = log.split_whitespace().rev().find(|word| word.starts_with(&format!("{url}/register/")));
            link.map(str::to_string).ok_or(log)
        });
        (process, link)
    }

    fn browse(&self, steps: &Value) -> Seen {
        let shots = shots();
        let mut command = self.machine.command("node");
        command.arg(self.folder.join("browser.mjs")).args([&self.chromium, &shots]);
        command.env("NO_PROXY", "*").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("node starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), steps.to_string().as_bytes())
            .expect("heard");
        let pid = child.id();
        let watch = std::thread::spawn(move || child.wait_with_output());
        till(BROWSING, "the browser", || {
            watch.is_finished().then_some(()).ok_or(format!("process {pid} still browses"))
        });
        let output = watch.join().expect("no panic").expect("it ran");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let pages = text.lines().map(|line| serde_json::from_str(line).expect("a page")).collect();
        let seen = Seen(pages);
        seen.ours_are_plain();
        seen
    }
}

fn shots() -> PathBuf {
    let folder = std::env::var_os("WARREN_E2E_SHOTS").map_or_else(std::env::temp_dir, PathBuf::from);
    std::fs::create_dir_all(&folder).expect("a folder for screenshots");
    folder
}

fn account(email: &str, verified: bool) -> Value {
    json!({ "email": email, "email_verified": verified, "name": "Ann Example", "preferred_username": "ann",
        "groups": ["dev"] })
}

/// From a device's page to ours after the provider's two.
fn walk(link: &str, login: &str, shots: bool) -> Vec<Value> {
    let shoot = |name: &str| if shots { json!(name) } else { Value::Null };
    vec![
        json!({ "open": link, "shoot": shoot("1-sign-in") }),
        json!({ "click": "Sign in with 127.0.0.1", "shoot": shoot("2-provider") }),
        json!({ "fill": { "login": login, "password": "any" }, "click": "Sign-in" }),
        json!({ "click": "Continue", "shoot": shoot("3-confirm") }),
    ]
}

fn joined(node: &Node<'_>, mut up: Process) {
    let (status, took) = till(PATIENCE, "the node to be in", || {
        let status = node.try_status()?;
        (status["BackendState"] == "Running").then(|| status.clone()).ok_or_else(|| status["BackendState"].to_string())
    });
    assert!(took < Duration::from_secs(5), "it took {took:?} after the person said yes");
    assert!(status["Self"]["TailscaleIPs"].as_array().is_some_and(|ips| !ips.is_empty()));
    till(PATIENCE, "`warren up` to end by itself", || (!up.is_running()).then_some(()).ok_or_else(|| up.log()));
}

fn nodes(control: &Control<'_>) -> Vec<Value> {
    serde_json::from_str(&control.ask(&["nodes", "list", "--json"])).expect("a list")
}

#[test]
fn a_person_signs_in_with_a_browser_and_is_logged_out_when_the_provider_forgets_them() {
    let Some(world) = World::new() else { return };
    world.set_accounts(&json!({ "ann": account("ann@example.net", true), "eve": account("eve@example.net", false) }));
    let provider = world.provider(1);
    let control = world.control("oidc_refresh = \"2s\"\noidc_allowed_domains = [\"example.net\", \"example.org\"]");
    let node = Node::start(&world.machine, "laptop", Mode::Userspace, &[]);
    let (up, link) = world.up(&node, "first-up");

    // Somebody whose address nobody has checked is refused, in the page and in the log.
    let mut steps = walk(&link, "eve", false);
    steps[3]["shoot"] = json!("4-refused");
    let seen = world.browse(&steps.into());
    seen.last(&["This did not work", "has not been verified", "Try again"]);
    assert!(control.process.log().contains("the e-mail address of this account has not been verified"));
    assert!(nodes(&control).is_empty());

    // Ann is asked, and going back to the provider's answer, or taking it elsewhere, gives nothing.
    let code = &link[link.len() - 6..];
    let seen = world.browse(&walk(&link, "ann", true).into());
    let question = seen.last(&["Add this device?", "Ann Example", "ann@example.net", code, "Do not add it"]);
    let question = question["url"].as_str().expect("a URL").to_string();
    assert!(!question.contains("code="), "{question}");
    let elsewhere = world.browse(&json!([{ "open": question, "shoot": "5-other-browser" }]));
    elsewhere.last(&["begun in another browser"]);
    assert!(nodes(&control).is_empty(), "nothing before the person says yes");

    let mut steps = walk(&link, "ann", false);
    steps.push(json!({ "click": "Add this device", "shoot": "6-done" }));
    world.browse(&steps.into()).last(&["This device is in"]);
    joined(&node, up);
    let all = nodes(&control);
    assert_eq!((all.len(), all[0]["registerMethod"].as_str()), (1, Some("REGISTER_METHOD_OIDC")));
    assert_eq!(all[0]["user"]["email"], "ann@example.net");

    // Her profile follows.
    world.set_accounts(&json!({ "ann": account("ann@example.org", true) }));
    till(PATIENCE, "the new address", || {
        let users = control.try_ask(&["users", "list", "--json"])?;
        users.contains("ann@example.org").then_some(()).ok_or(users)
    });
    assert_eq!(nodes(&control)[0]["expired"], false);

    // She leaves.
    world.set_accounts(&json!({}));
    till(PATIENCE, "the logout", || {
        (nodes(&control)[0]["expired"] == true).then_some(()).ok_or_else(|| provider.log())
    });
    assert!(control.process.log().contains("somebody's sign-in has ended"));
    till(PATIENCE, "the node to notice", || {
        let state = node.try_status()?["BackendState"].to_string();
        (state != "\"Running\"").then_some(()).ok_or(state)
    });

    // She comes back, to a provider with other keys, and finds her node.
    world.set_accounts(&json!({ "ann": account("ann@example.org", true) }));
    drop(provider);
    let _provider = world.provider(2);
    let (up, link) = world.up(&node, "second-up");
    let mut steps = walk(&link, "ann", false);
    steps.push(json!({ "click": "Add this device" }));
    world.browse(&steps.into()).last(&["This device is in"]);
    joined(&node, up);
    assert_eq!(nodes(&control).len(), 1);
    let log = control.process.log();
    assert!(!log.contains("e2e-client-secret"), "the client secret is in the log");
}

#[test]
fn a_device_that_nobody_claims_and_one_that_waits_for_an_operator_have_their_pages() {
    let Some(world) = World::new() else { return };
    let file = world.machine.folder().join("control.toml");
    std::fs::write(&file, "device_approval = true\n").expect("configuration");
    let file = file.display().to_string();
    let control = Control::start(&world.machine, "control", CONTROL, &["--config", &file, "--no-relay", "--stun", "0"]);
    let node = Node::start(&world.machine, "laptop", Mode::Userspace, &[]);
    let (up, link) = world.up(&node, "first-up");
    let id = link.rsplit('/').next().expect("an id");
    world.browse(&json!([{ "open": link, "shoot": "7-operator" }])).last(&[id, "warren control nodes register"]);
    control.ask(&["users", "create", "ann"]);
    control.ask(&["nodes", "register", "--user", "ann", "--auth-id", id]);
    joined(&node, up);

    let second = Node::start(&world.machine, "phone", Mode::Userspace, &["--socks5-server", "127.0.0.1:1056"]);
    let key: Value = serde_json::from_str(&control.ask(&["keys", "create", "--user", "ann", "--json"])).expect("a key");
    let url = format!("http://{CONTROL}");
    let key = key["key"].as_str().expect("a key").to_string();
    let _ =
        second.try_ask(&["up", "--login-server", &url, "--auth-key", &key, "--hostname", "phone", "--timeout", "3s"]);
    let (waits, _) = till(PATIENCE, "the second node to wait", || {
        let all = nodes(&control);
        all.iter().find(|node| node["authorized"] == false).cloned().ok_or_else(|| format!("{all:?}"))
    });
    assert!(node.peer("phone").is_err(), "nobody sees a node that waits");
    control.ask(&["nodes", "approve", waits["id"].as_str().expect("an id")]);
    till(PATIENCE, "the two to see each other", || second.try_status().and_then(|_| node.peer("phone").map(drop)));
    world.browse(&json!([{ "open": link, "shoot": "8-in" }])).last(&["This device is in"]);
}

/// Chromium and the provider write where they are told to, so nothing of a run stays but the screenshots.
impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(self.machine.folder()));
    }
}
