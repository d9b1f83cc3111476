//! `/ts2021` and `/derp` from a page in a real browser: of an origin that is allowed, and of one that is not.

use base64::Engine as _;
use serde_json::Value;
use warren_crypto::channel::Initiator;
use warren_crypto::{MachinePublic, MachineSecret, Random};
use warren_e2e::service::{Control, PATIENCE};
use warren_e2e::{Machine, till};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const ALLOWED: &str = "http://127.0.0.1:9001";
const OTHER: &str = "http://127.0.0.1:9002";

/// Opens both WebSockets and reports what came first by each: bytes in hex, or the code of a close.
const PAGE: &str = r#"<!doctype html><title>WebSocket</title><script>
const first = (url, protocol) => new Promise(tell => {
  const socket = new WebSocket(url, protocol);
  socket.binaryType = "arraybuffer";
  socket.onmessage = event => {
    tell([...new Uint8Array(event.data)].map(byte => byte.toString(16).padStart(2, "0")).join(""));
    socket.close();
  };
  socket.onclose = event => tell("closed " + event.code);
});
(async () => {
  const report = {
    control: await first("ws://127.0.0.1:8080/ts2021?X-Tailscale-Handshake=" + encodeURIComponent("HANDSHAKE"),
      "tailscale-control-protocol"),
    relay: await first("wss://127.0.0.1:8080/derp", "derp"),
  };
  await fetch("/report", { method: "POST", body: JSON.stringify(report) });
})();
</script>"#;

/// Serves the page on the port that it is given, and keeps what is reported to it.
const SERVER: &str = r#"
import http.server, sys
class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = open('page.html', 'rb').read() if self.path == '/' else b''
        self.send_response(200); self.send_header('Content-Type', 'text/html'); self.end_headers(); self.wfile.write(page)
    def do_POST(self):
        report = self.rfile.read(int(self.headers['Content-Length']))
        open('report-' + sys.argv[1] + '.new', 'wb').write(report)
        import os; os.rename('report-' + sys.argv[1] + '.new', 'report-' + sys.argv[1])
        self.send_response(204); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Pages).serve_forever()
"#;

#[test]
fn a_page_of_an_allowed_origin_opens_control_and_relay_and_another_one_neither() {
    if !warren_e2e::inside() {
        return;
    }
    let found = BROWSERS.iter().find(|name| {
        std::process::Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    let Some(browser) = found else {
        println!("SKIPPED: WebSocket from a browser page: no Chromium (apt-get install chromium)");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let machine = Machine::new("browser", folder.path());
    let config = machine.folder().join("control.toml");
    std::fs::write(&config, format!("websocket_origins = [\"{ALLOWED}\"]\n")).expect("write");
    let config = config.display().to_string();
    let control = Control::start(&machine, "control", "127.0.0.1:8080", &["--config", &config]);
    let answer: Value = serde_json::from_str(&machine.sh(&format!("curl -sS --noproxy '*' {}/key?v=145", control.url)))
        .expect("the server's keys");
    let server: MachinePublic = answer["publicKey"].as_str().expect("a key").parse().expect("a machine key");

    for (origin, is_allowed) in [(ALLOWED, true), (OTHER, false)] {
        let port = &origin[origin.len() - 4..];
        let mut random = Random::from_seed([7; 32]);
        let secret = MachineSecret::generate(&mut random);
        let (initiator, initiation) = Initiator::new(&secret, &server, 145, &mut random).expect("an initiation");
        let handshake = base64::engine::general_purpose::STANDARD.encode(initiation);
        std::fs::write(machine.folder().join("page.html"), PAGE.replace("HANDSHAKE", &handshake)).expect("write");
        std::fs::write(machine.folder().join("pages.py"), SERVER).expect("write");
        let _pages = machine.start(&format!("pages-{port}"), "python3", &["pages.py", port]);
        till(PATIENCE, "the page's server", || {
            let got = machine.try_sh(&format!("curl -fsS --noproxy '*' {origin}/"));
            got.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&got.stderr).into_owned())
        });
        let profile = format!("--user-data-dir={}", machine.folder().join(format!("profile-{port}")).display());
        let words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--ignore-certificate-errors",
            "--remote-debugging-port=0",
            &profile,
            origin,
        ];
        let tab = machine.start(&format!("tab-{port}"), browser, &words);
        let report = machine.folder().join(format!("report-{port}"));
        let (report, took) = till(2 * PATIENCE, "the page's report", || {
            std::fs::read_to_string(&report).map_err(|error| format!("{error}; {}", tab.log()))
        });
        println!("browser: the page of {origin} reported after {took:?}: {report}");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let (control, relay) = (report["control"].as_str().expect("text"), report["relay"].as_str().expect("text"));
        if is_allowed {
            let response = hex::decode(control).expect("the Noise response in hex");
            initiator.finish(&response).expect("the server proves its key to a page");
            // A frame of type 1, 40 bytes: the relay's magic word and key.
            assert!(relay.starts_with("0100000028444552"), "{relay}");
        } else {
            assert_eq!((control, relay), ("closed 1006", "closed 1006"));
        }
    }
}
