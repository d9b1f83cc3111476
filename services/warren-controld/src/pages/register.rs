//! `/register/<id>`: where a device sends its person, and what became of it.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::{AuthId, Verdict, Waiting};
use warren_io::answer::Body;

use super::{command, device, escape, page, page_that_waits, paragraph};
use crate::service::Shared;

/// What the person who was sent here, or their operator, does next.
pub(crate) async fn register(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let id = request.uri().path().strip_prefix("/register/").unwrap_or_default();
    let Ok(id) = id.parse::<AuthId>() else {
        return page(StatusCode::NOT_FOUND, "This link is not complete", &not_good("It was cut or mistyped."));
    };
    let Some(waiting) = shared.registry.waiting(id) else {
        let title = "This link is not good any more";
        return page(StatusCode::NOT_FOUND, title, &not_good("A device is let in once, within 15 minutes."));
    };
    match (&waiting.verdict, &shared.sign_in) {
        (None, Some(sign_in)) => {
            page(StatusCode::OK, "A device wants to join", &sign_in_body(id, &waiting, &sign_in.provider_name()))
        }
        (None, None) => page_that_waits("A device wants to join", &waiting_body(id, &waiting)),
        (Some(Verdict::Rejected), _) => {
            let why = "Somebody who may decide it said no. If that was a mistake, start the login on the device again.";
            page(StatusCode::OK, "This device was turned away", &paragraph(why))
        }
        (Some(Verdict::Refused(refusal)), _) => {
            let why = format!("It asks for what it may not have: {refusal}. The device says so, too.");
            page(StatusCode::OK, "This device was not let in", &paragraph(&why))
        }
        (Some(Verdict::Approved(node)), _) => match shared.registry.snapshot().registry().node(*node) {
            Some(node) if node.approved => page(StatusCode::OK, "This device is in", &done_body(&node.name)),
            Some(node) => page_that_waits("Almost done", &held_body(&node.name)),
            None => page(StatusCode::NOT_FOUND, "This link is not good any more", &not_good("The device was removed.")),
        },
    }
}

/// Signing in is a plain link, so that nothing happens before the person wants it.
fn sign_in_body(id: AuthId, waiting: &Waiting, provider: &str) -> String {
    format!(
        "<p>Is it yours? Then sign in, and it becomes one of your devices. You will be asked once more before it does.</p>\
         {}<a class=\"main\" href=\"/oidc/start/{id}\">Sign in with {}</a>\
         <p class=\"small\">If you did not start this, close the page: nothing has happened.</p>",
        device(id, waiting),
        escape(provider)
    )
}

fn waiting_body(id: AuthId, waiting: &Waiting) -> String {
    format!(
        "<p>Is it yours? An operator of the control server lets it in with this command, run there:</p>{}\
         <p>USER is whose device it will be; <code>warren control users list</code> shows who there is. The device goes on \
         by itself as soon as it is let in, and this page will say so.</p>{}\
         <p class=\"small\">If you did not start this, close the page: nothing has happened.</p>",
        command(&format!("warren control nodes register --user USER --auth-id {id}")),
        device(id, waiting)
    )
}

fn done_body(name: &str) -> String {
    format!(
        "<p><b>{}</b> is part of the network now. You can close this page and go back to the device.</p>",
        escape(name)
    )
}

fn held_body(name: &str) -> String {
    let name = escape(name);
    format!(
        "<p><b>{name}</b> is registered and waits for an operator of this network, who lets new devices in:</p>{}\
         <p>The device goes on by itself as soon as it is let in, and this page will say so.</p>",
        command(&format!("warren control nodes approve {name}"))
    )
}

fn not_good(why: &str) -> String {
    format!("{}{}", paragraph(why), paragraph("Start the login on the device again; it will give a new link."))
}

#[cfg(test)]
mod tests {
    use super::super::tests::waiting;
    use super::*;

    #[test]
    fn a_page_shows_the_id_and_the_way_and_escapes_what_the_machine_said() {
        let id = AuthId::from_bytes([1; 16]);
        let waiting = waiting("<b>x</b>", "linux");
        let body = waiting_body(id, &waiting);
        assert!(body.contains(&format!("--user USER --auth-id {id}</pre>")) && !body.contains("<b>x"));
        let body = sign_in_body(id, &waiting, "id.example<i>");
        assert!(
            body.contains(&format!("href=\"/oidc/start/{id}\"")) && !body.contains("<b>x") && !body.contains("<i>")
        );
    }
}
