//! Pages for people: how to let a machine in, how to join. Readable on a phone, no script, everything escaped.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::AuthId;
use warren_io::answer::{self, Body};

use crate::service::Shared;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem;\
color:#222;background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
pre{background:#f2f2f2;padding:.8rem;overflow-x:auto;white-space:pre-wrap;word-break:break-all;border-radius:.3rem}\
dt{font-weight:600}dd{margin:0 0 .5rem}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}\
pre{background:#2a2a2a}a{color:#9cf}}";

/// `/register/<id>`: what the person who was sent here, or their operator, does next.
pub(crate) async fn register(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let id = request.uri().path().strip_prefix("/register/").unwrap_or_default();
    let Ok(id) = id.parse::<AuthId>() else {
        return page(StatusCode::NOT_FOUND, "This link is not complete", &not_good("It was cut or mistyped."));
    };
    match shared.registry.waiting(id).await {
        Some(waiting) if waiting.rejected => {
            page(StatusCode::OK, "This device was turned away", &paragraph("An operator of this network said no."))
        }
        Some(waiting) => {
            let host = waiting.request.hostinfo.as_deref();
            let hostname = host.map_or("", |host| host.hostname.as_str());
            let system = host.map_or("", |host| host.os.as_str());
            let body = waiting_body(id, hostname, system, &waiting.machine.short());
            page(StatusCode::OK, "A device wants to join", &body)
        }
        None => page(
            StatusCode::NOT_FOUND,
            "This link is not good any more",
            &not_good("A device is let in once, within 15 minutes."),
        ),
    }
}

fn waiting_body(id: AuthId, hostname: &str, system: &str, machine: &str) -> String {
    let facts = [("Name", hostname), ("System", system), ("Machine key", machine)];
    let mut body =
        String::from("<p>Is it yours? An operator of the control server lets it in with this command, run there:</p>");
    body.push_str(&command(&format!("warren control auth register --user USER --auth-id {id}")));
    body.push_str("<p>USER is whose device it will be; <code>warren control users list</code> shows who there is. ");
    body.push_str("The device goes on by itself as soon as it is let in.</p><h2>What it says about itself</h2><dl>");
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(body, "<dt>{name}</dt><dd>{}</dd>", escape(value)); // writing to a String cannot go wrong
    }
    body.push_str("</dl><p>If you did not start this, close the page: nothing has happened.</p>");
    body
}

fn not_good(why: &str) -> String {
    format!("{}{}", paragraph(why), paragraph("Start the login on the device again; it will give a new link."))
}

/// `/join`: steps for each system.
pub(crate) async fn join(shared: Arc<Shared>, _request: Request<Incoming>) -> Response<Body> {
    page(StatusCode::OK, "Join this network", &join_body(&shared.server_url, shared.download.name()))
}

fn join_body(server: &str, download: Option<&str>) -> String {
    let mut body = paragraph("The address of this network's server is");
    body.push_str(&command(server));
    if server.starts_with("http://") {
        body.push_str(&paragraph(
            "It is a plain http address. Apps on phones may insist on https; on a private network most accept it.",
        ));
    }
    body.push_str("<p>Each device ends at a page that tells how an operator lets it in. With a join key, that step falls away.</p>");
    let phone = |steps: &[&str]| {
        let items: String = steps.iter().map(|step| format!("<li>{}</li>", escape(step))).collect();
        format!("<ol>{items}</ol>")
    };
    body.push_str("<h2>iPhone and iPad (iOS)</h2>");
    body.push_str(&phone(&[
        "Install Tailscale from the App Store and open it.",
        "Tap the account picture, then Log in, then the menu at the top right, then Use custom coordination server.",
        "Enter the address above and log in.",
    ]));
    body.push_str("<h2>Android</h2>");
    body.push_str(&phone(&[
        "Install Tailscale from the Play Store or F-Droid and open it.",
        "Open the settings, then Accounts, then the menu at the top right, then Use an alternate server.",
        "Enter the address above and log in.",
    ]));
    body.push_str("<h2>macOS</h2><p>Install Tailscale, then in Terminal:</p>");
    body.push_str(&command(&format!("tailscale login --login-server {server}")));
    body.push_str("<h2>Windows</h2><p>Install Tailscale, then in a command prompt:</p>");
    body.push_str(&command(&format!("tailscale login --login-server {server}")));
    body.push_str("<h2>Linux</h2>");
    if let Some(name) = download {
        body.push_str("<p>With nothing installed, fetch this server's own program and join with it:</p>");
        body.push_str(&command(&format!(
            "curl -fo warren {server}/get/{name} && chmod +x warren && ./warren join {server}"
        )));
        body.push_str("<p>The line that <code>warren quickstart</code> prints on the server also checks the program and the server's key.</p>");
    }
    body.push_str("<p>With Warren installed:</p>");
    body.push_str(&command(&format!("warren up --login-server {server}")));
    body.push_str("<p>With Tailscale installed:</p>");
    body.push_str(&command(&format!("tailscale up --login-server {server}")));
    body
}

/// `/`: what this is.
pub(crate) async fn root(shared: Arc<Shared>, _request: Request<Incoming>) -> Response<Body> {
    let body = format!(
        "{}<p><a href=\"/join\">How to join</a></p>",
        paragraph(&format!("The control server of the network at {}.", shared.server_url))
    );
    page(StatusCode::OK, "Warren", &body)
}

fn page(status: StatusCode, title: &str, body: &str) -> Response<Body> {
    let title = escape(title);
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    );
    let mut response = answer::content(status, "text/html; charset=utf-8", html);
    let no_store = http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(http::header::CACHE_CONTROL, no_store);
    response
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>", escape(text))
}

fn command(text: &str) -> String {
    format!("<pre>{}</pre>", escape(text))
}

/// Text that cannot become markup, in an element or in a quoted attribute.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_cannot_become_markup() {
        let id = AuthId::from_bytes([1; 16]);
        let body = waiting_body(id, "<script>alert(1)</script>", "a\"b'c&d", "[AAAAA]");
        assert!(!body.contains("<script"));
        assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(body.contains("a&quot;b&#39;c&amp;d"));
        assert!(body.contains(&format!("--auth-id {id}")));
    }

    #[test]
    fn the_join_page_has_steps_for_every_system() {
        let body = join_body("http://192.0.2.1:8080", Some("linux-x86_64"));
        for part in ["iPhone", "Android", "macOS", "Windows", "Linux", "/get/linux-x86_64", "plain http"] {
            assert!(body.contains(part), "{part}");
        }
        assert!(!join_body("https://a.test", None).contains("/get/"));
    }
}
