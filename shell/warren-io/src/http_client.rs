//! One HTTP exchange with a server: a connection, a request, the whole answer.
//!
//! For the few things that a server asks of others now and then. No redirects, no proxies, nothing kept.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::{self, TlsError, Trust};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Not the address of anything that can be asked.
    #[error("{0:?} is not an http or https address")]
    Address(String),
    /// No TCP or TLS.
    #[error("connect to {place}: {source}")]
    Connect {
        /// Host and port.
        place: String,
        /// The system's reason, or TLS's.
        source: std::io::Error,
    },
    /// No configuration for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The exchange broke.
    #[error("speak HTTP with {place}: {reason}")]
    Http {
        /// Host and port.
        place: String,
        /// What happened.
        reason: String,
    },
    /// More than was asked for.
    #[error("the answer of {place} is longer than {cap} bytes")]
    TooLong {
        /// Host and port.
        place: String,
        /// What was allowed.
        cap: usize,
    },
}

/// Sends `request`, whose URI is absolute, and returns the answer with a body of at most `cap` bytes. Trust for TLS is the
/// system's unless `tls` says otherwise. Dropping the future closes the connection; the caller sets the deadline.
///
/// # Errors
/// [`ExchangeError`].
pub async fn exchange(
    mut request: Request<Full<Bytes>>,
    tls: Option<Arc<rustls::ClientConfig>>,
    cap: usize,
) -> Result<Response<Bytes>, ExchangeError> {
    let uri = std::mem::take(request.uri_mut());
    let is_tls = uri.scheme_str() == Some("https");
    let address = || ExchangeError::Address(uri.to_string());
    if !is_tls && uri.scheme_str() != Some("http") {
        return Err(address());
    }
    let authority = uri.authority().ok_or_else(address)?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let place = format!("{}:{port}", authority.host());
    let header = if authority.port().is_some() { place.as_str() } else { authority.host() };
    let header = HeaderValue::from_str(header).map_err(|_| address())?;
    request.headers_mut().entry(HOST).or_insert(header);
    *request.uri_mut() = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| path.clone().into());
    let connect = |source| ExchangeError::Connect { place: place.clone(), source };
    let tcp = match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect((ip, port)).await,
        Err(_) => TcpStream::connect((host, port)).await,
    };
    let tcp = tcp.map_err(connect)?;
    if !is_tls {
        return over(tcp, request, &place, cap).await;
    }
    let config = match tls {
        Some(config) => config,
        None => tls::client_config(Trust::System)?,
    };
    let name = tls::server_name(host).ok_or_else(address)?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(connect)?;
    over(stream, request, &place, cap).await
}

async fn over<T>(
    stream: T,
    request: Request<Full<Bytes>>,
    place: &str,
    cap: usize,
) -> Result<Response<Bytes>, ExchangeError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |reason: String| ExchangeError::Http { place: place.to_owned(), reason };
    let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| http(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| http(error.to_string()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, cap).collect().await.map_err(|error| {
            let is_long = error.is::<http_body_util::LengthLimitError>();
            if is_long { ExchangeError::TooLong { place: place.to_owned(), cap } } else { http(error.to_string()) }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // What it brought before it ended is still there.
        _ = &mut connection => exchange.await,
    }
}
