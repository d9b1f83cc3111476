//! `/join`: steps for each system.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_io::answer::Body;

use super::{command, escape, page, paragraph};
use crate::service::Shared;

/// The page.
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
    body.push_str(
        "<p>Each device ends at a page that tells how it is let in. With a join key, that step falls away.</p>",
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_page_has_steps_for_every_system() {
        let body = join_body("http://192.0.2.1:8080", Some("linux-x86_64"));
        for part in ["iPhone", "Android", "macOS", "Windows", "Linux", "/get/linux-x86_64", "plain http"] {
            assert!(body.contains(part), "{part}");
        }
        assert!(!join_body("https://a.test", None).contains("/get/"));
    }
}
