//! Small errands on the underlay: the sign of life that a control server asks for.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use warren_wire::PingRequest;

/// (control-protocol.md §4.5)
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers a plain ping request: `HEAD` to its URL, whatever comes back. Other kinds are not built.
pub(crate) async fn answer_ping(request: PingRequest) {
    if !request.types.is_empty() || request.url_is_noise {
        debug!(types = %request.types, "a kind of ping request that is not built");
        return;
    }
    let Ok(url) = url::Url::parse(&request.url) else { return };
    let _ = timeout(PATIENCE, head(&url)).await;
}

async fn head(url: &url::Url) -> Option<()> {
    let host = url.host_str()?;
    let stream = TcpStream::connect((host, url.port_or_known_default()?)).await.ok()?;
    let mut target = url.path().to_owned();
    if let Some(query) = url.query() {
        target.push('?');
        target.push_str(query);
    }
    // `Url` percent-encodes whatever could break out of the request line.
    let request = format!("HEAD {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    match url.scheme() {
        "http" => converse(stream, &request).await,
        "https" => converse(crate::relay_dial::tls(stream, host).await?, &request).await,
        _ => None,
    }
}

async fn converse(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, request: &str) -> Option<()> {
    stream.write_all(request.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let mut first = [0; 16];
    stream.read(&mut first).await.ok().map(|_| ())
}
