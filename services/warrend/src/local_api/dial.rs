//! `dial`: a TCP stream to a node, over an upgraded connection (what `warren nc` and SSH proxies use).

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::door::{Body, empty};
use super::{Backend, Refusal};

pub(super) async fn dial<B: Backend>(mut request: Request<Incoming>, backend: B) -> Result<Response<Body>, Refusal> {
    let upgrade = header(request.headers(), "upgrade").to_ascii_lowercase();
    if upgrade != "ts-dial" {
        return Err(Refusal::new(400, "bad ts-dial upgrade"));
    }
    if !matches!(header(request.headers(), "dial-network"), "" | "tcp") {
        return Err(Refusal::new(400, "only tcp can be dialled"));
    }
    let host = header(request.headers(), "dial-host").to_string();
    let port: u16 = header(request.headers(), "dial-port").parse().unwrap_or(0);
    if host.is_empty() || host.len() > 255 || port == 0 {
        return Err(Refusal::new(400, "missing or invalid Dial-Host or Dial-Port"));
    }
    let mut stream = backend.dial(host, port).await?;
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(client) = upgrading.await {
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut stream).await;
        }
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("ts-dial"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}
