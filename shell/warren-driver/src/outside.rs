//! Small errands on the underlay: one HTTP request to a URL that the control server named.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request; `None` when the server could not be asked. What it answers does not matter. The caller sets the deadline.
pub(crate) async fn call(method: &str, url: &url::Url, body: &[u8]) -> Option<()> {
    let host = url.host_str()?;
    let stream = TcpStream::connect((host, url.port_or_known_default()?)).await.ok()?;
    let mut target = url.path().to_owned();
    if let Some(query) = url.query() {
        target.push('?');
        target.push_str(query);
    }
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    // `Url` percent-encodes whatever could break out of the request line.
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n");
    let request = [head.as_bytes(), body].concat();
    match url.scheme() {
        "http" => converse(stream, &request).await,
        "https" => converse(crate::relay_dial::tls(stream, host).await?, &request).await,
        _ => None,
    }
}

async fn converse(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, request: &[u8]) -> Option<()> {
    stream.write_all(request).await.ok()?;
    stream.flush().await.ok()?;
    let mut first = [0; 16];
    stream.read(&mut first).await.ok().map(|_| ())
}
