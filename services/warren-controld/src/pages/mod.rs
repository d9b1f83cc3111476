//! Pages for people: plain, readable on a phone, without scripts, everything escaped.
//!
//! | module | what |
//! |---|---|
//! | `register` | where a device sends its person: sign in, wait, done, turned away |
//! | `sign_in` | after the provider: add this device?, and why not |
//! | `shell` | where somebody who opens a shell is sent: sign in, wait, let in, turned away |
//! | `join` | how to join, for each system |

mod join;
mod register;
mod shell;
mod sign_in;

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use warren_control::{AuthId, Waiting};
use warren_crypto::sha256;
use warren_io::answer::{self, Body};

use crate::service::Shared;

pub(crate) use join::join;
pub(crate) use register::register;
pub(crate) use shell::{confirm_shell, shell};
pub(crate) use sign_in::{confirm, refused};

const STYLE: &str = "*{box-sizing:border-box}body{font:17px/1.5 system-ui,sans-serif;max-width:34rem;margin:0 auto;\
padding:1.5rem 1.1rem 3rem;color:#1c1f23;background:#fff}h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1rem}\
h2{font-size:1.15rem;margin-top:2rem}pre{background:#f1f2f4;padding:.8rem;white-space:pre-wrap;word-break:break-all;\
border-radius:.4rem;font-size:.95rem}dl{border:1px solid #d5d8dd;border-radius:.5rem;padding:.4rem 1rem;margin:1.2rem 0}\
dt{font-size:.85rem;color:#5a6068;margin-top:.5rem}dd{margin:0 0 .5rem;overflow-wrap:anywhere}\
dd.code{font:600 1.3rem/1.4 ui-monospace,monospace;letter-spacing:.08em}a{color:#0b57b5}\
.main,button{display:block;width:100%;min-height:3rem;padding:.75rem 1rem;margin:.8rem 0;border-radius:.5rem;\
border:1px solid #0b57b5;font:inherit;font-weight:600;text-align:center;text-decoration:none;cursor:pointer}\
.main{background:#0b57b5;color:#fff}button.other{background:transparent;color:#0b57b5}.small{font-size:.9rem;color:#5a6068}\
:focus-visible{outline:3px solid #e08a00;outline-offset:2px}\
@media(prefers-color-scheme:dark){body{color:#e3e5e8;background:#16181b}pre{background:#25282d}dl{border-color:#3c4148}\
dt,.small{color:#a3a9b2}a{color:#8fc0ff}.main{background:#8fc0ff;border-color:#8fc0ff;color:#10141a}\
button.other{color:#8fc0ff;border-color:#8fc0ff}}";

/// Nothing may be loaded, and of styles only the one above; forms come back to us alone; nobody frames us.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = base64::engine::general_purpose::STANDARD.encode(sha256(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// `/`: what this is.
pub(crate) async fn root(shared: Arc<Shared>, _request: Request<Incoming>) -> Response<Body> {
    let body = format!(
        "{}<p><a href=\"/join\">How to join</a></p>",
        paragraph(&format!("The control server of the network at {}.", shared.server_url))
    );
    page(StatusCode::OK, "Warren", &body)
}

/// A page; `body` is markup whose texts were escaped.
fn page(status: StatusCode, title: &str, body: &str) -> Response<Body> {
    whole_page(status, title, "", body)
}

/// A page that asks itself anew every five seconds, since there is no script that could wait for news.
fn page_that_waits(title: &str, body: &str) -> Response<Body> {
    whole_page(StatusCode::OK, title, "<meta http-equiv=\"refresh\" content=\"5\">", body)
}

fn whole_page(status: StatusCode, title: &str, head: &str, body: &str) -> Response<Body> {
    let title = escape(title);
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">{head}<title>{title}</title>\
         <style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>\n"
    );
    let mut response = answer::content(status, "text/html; charset=utf-8", html);
    guard(&mut response);
    response
}

/// What every answer to a browser says, redirections included: not to be kept, framed, guessed at or told of elsewhere.
/// The address of a page is somebody's way in, so it leaves with no link.
pub(crate) fn guard(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (HeaderName::from_static("referrer-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What a waiting device says about itself, and the end of its link, by which a person tells it from another.
fn device(id: AuthId, waiting: &Waiting) -> String {
    let host = waiting.request.hostinfo.as_deref();
    let said = |text: Option<&str>| text.unwrap_or_default().chars().take(64).collect::<String>();
    let facts = [
        ("Name", said(host.map(|host| host.hostname.as_str()))),
        ("System", said(host.map(|host| host.os.as_str()))),
        ("Machine key", waiting.machine.short()),
    ];
    let mut list = String::from("<dl>");
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(list, "<dt>{name}</dt><dd>{}</dd>", escape(value)); // writing to a String cannot go wrong
    }
    let _ = write!(list, "<dt>The link that the device shows ends with</dt><dd class=\"code\">{}</dd></dl>", code(id));
    list
}

/// The last six digits of a link.
fn code(id: AuthId) -> String {
    let text = id.to_string();
    text.get(text.len().saturating_sub(6)..).unwrap_or_default().to_owned()
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>", escape(text))
}

fn command(text: &str) -> String {
    format!("<pre>{}</pre>", escape(text))
}

/// Text that cannot become markup, in an element or in a quoted attribute, nor change the direction of what follows.
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
            c if warren_wire::is_deceptive(c) => {}
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use warren_crypto::{MachineSecret, NodeSecret, UnixTime};
    use warren_wire::{Hostinfo, RegisterRequest};

    use super::*;

    pub(super) fn waiting(hostname: &str, os: &str) -> Waiting {
        let hostinfo = Hostinfo { hostname: hostname.into(), os: os.into(), ..Hostinfo::default() };
        let request = RegisterRequest { hostinfo: Some(Box::new(hostinfo)), ..RegisterRequest::default() };
        Waiting {
            machine: MachineSecret::from_seed([1; 32]).public(),
            node_key: NodeSecret::from_seed([1; 32]).public(),
            request: Arc::new(request),
            source: None,
            since: UnixTime::from_secs(0),
            verdict: None,
        }
    }

    #[test]
    fn what_a_machine_says_cannot_become_markup_or_turn_the_page_around() {
        let id = AuthId::from_bytes([0xab; 16]);
        let list = device(id, &waiting("<script>alert(1)</script>\u{202e}", "a\"b'c&d\n"));
        assert!(!list.contains("<script") && !list.contains('\u{202e}'));
        assert!(list.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(list.contains("a&quot;b&#39;c&amp;d "));
        assert!(list.contains("<dd class=\"code\">ababab</dd>"));
        assert!(device(id, &waiting(&"x".repeat(500), "")).len() < 500);
    }

    #[test]
    fn a_page_lets_nothing_in_but_its_own_style() {
        let response = page(StatusCode::OK, "A & B", "");
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        for header in ["cache-control", "x-content-type-options", "x-frame-options", "referrer-policy"] {
            assert!(response.headers().contains_key(header), "{header}");
        }
    }
}
