//! `POST /machine/feature/query`: a command line that needs something which the network must switch on (`serve`, `funnel`)
//! asks what its person should do (control-protocol.md §4.3). It shows them the text.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use warren_crypto::NodePublic;
use warren_io::answer::{self, Body};

use crate::noise_endpoint::Machine;
use crate::service::Shared;
use crate::small_requests::{node, read, words};

const FUNNEL: &str = "Funnel is not available in this network: its control server has no way in from the internet. \
                      Within the network `serve` shows the same to everyone whom the policy lets reach this device.";

const NO_CERTIFICATES: &str = "This network has no HTTPS certificates for its devices: an operator of the control server can set \
                               up set_dns_command for them. Without, share by HTTP or TCP, which the network encrypts all the \
                               same: serve --http=80 ..., or serve --tcp=PORT ...";

#[derive(Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Asked {
    node_key: NodePublic,
    feature: String,
}

impl Default for Asked {
    fn default() -> Self {
        Self { node_key: NodePublic::ZERO, feature: String::new() }
    }
}

/// `URL`, a page on which it could be switched on, and `ShouldWait`, for somebody to do so there, are never said: there is no
/// such page.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    /// It is there; the text is not shown then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    complete: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
}

/// See the module.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>, machine: Machine) -> Response<Body> {
    let asked: Asked = match read(request).await {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    match node(&shared, &machine, &asked.node_key) {
        Ok(_) => answer::json(&say(&asked.feature, shared.set_dns.is_some())),
        Err(response) => *response,
    }
}

fn say(feature: &str, has_certificates: bool) -> Said {
    let text = match feature {
        "serve" | "https" if has_certificates => return Said { complete: true, ..Said::default() },
        "serve" | "https" => NO_CERTIFICATES.to_owned(),
        "funnel" => FUNNEL.to_owned(),
        other => format!("This network's control server does not know the feature {:?}.", words(other)),
    };
    Said { complete: false, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_complete_and_of_the_rest_it_says_why_not() {
        assert_eq!(say("serve", true), Said { complete: true, text: String::new() });
        for (feature, has_certificates, text) in [
            ("serve", false, "no HTTPS certificates"),
            ("https", false, "set_dns_command"),
            ("funnel", true, "Funnel is not available"),
            ("\u{1b}[2J", true, "does not know the feature \" [2J\""),
        ] {
            let said = say(feature, has_certificates);
            assert!(!said.complete && said.text.contains(text), "{said:?}");
        }
    }
}
