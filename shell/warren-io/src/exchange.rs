//! One question to somebody else's web service: HTTP/1.1, one connection, one answer.
//!
//! Nothing is followed and nothing is assumed: no redirects, no proxies of the environment, no cookies, no
//! compression. So what was asked for goes where it was meant to go, or nowhere.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use url::Url;

use crate::control_dial::{DialOptions, connect};

/// What is asked.
pub struct Question<'a> {
    /// Where: `https` or `http`.
    pub url: &'a Url,
    /// A form to post; `None` gets.
    pub form: Option<&'a str>,
    /// Value of `Authorization`. Never logged, nor is the form.
    pub authorization: Option<&'a str>,
}

/// What was answered, whatever the status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Not something that can be asked.
    #[error("{0} cannot be asked by HTTP")]
    Url(String),
    /// TCP or TLS.
    #[error("connect to {place}: {source}")]
    Connect {
        /// Host and port.
        place: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The exchange broke.
    #[error("{place} did not answer as a web server: {reason}")]
    Http {
        /// Host and port.
        place: String,
        /// What happened.
        reason: String,
    },
    /// More than was allowed.
    #[error("{place} answered more than {cap} bytes")]
    TooLong {
        /// Host and port.
        place: String,
        /// What was allowed.
        cap: usize,
    },
    /// Nothing within the deadline.
    #[error("{place} did not answer within {} s", .deadline.as_secs())]
    TimedOut {
        /// Host and port.
        place: String,
        /// What was allowed.
        deadline: Duration,
    },
}

/// Asks and reads at most `cap` bytes, all within `deadline`. Dropping the future closes the connection.
///
/// # Errors
/// [`ExchangeError`]; a status that says "no" is an answer.
pub async fn ask(
    question: Question<'_>,
    tls: &Arc<rustls::ClientConfig>,
    cap: usize,
    deadline: Duration,
) -> Result<Answer, ExchangeError> {
    let request = question.request().map_err(|_| ExchangeError::Url(question.url.to_string()))?;
    let (head, body) = exchange(request, Some(tls), cap, deadline).await?.into_parts();
    Ok(Answer { status: head.status.as_u16(), body })
}

/// Sends `request`, whose URI is absolute, and reads at most `cap` bytes of the answer, all within `deadline`. Trust for TLS
/// is the system's unless `tls` says otherwise. Dropping the future closes the connection.
///
/// # Errors
/// [`ExchangeError`]; a status that says "no" is an answer.
pub async fn exchange(
    mut request: Request<Full<Bytes>>,
    tls: Option<&Arc<rustls::ClientConfig>>,
    cap: usize,
    deadline: Duration,
) -> Result<Response<Bytes>, ExchangeError> {
    let wrong = |request: &Request<_>| ExchangeError::Url(request.uri().to_string());
    let url = Url::parse(&request.uri().to_string()).map_err(|_| wrong(&request))?;
    let by_tls = url.scheme() == "https";
    let host = url.host().filter(|_| by_tls || url.scheme() == "http").map(|host| host.to_owned());
    let (Some(host), Some(port)) = (host, url.port_or_known_default()) else { return Err(wrong(&request)) };
    let place = format!("{host}:{port}");
    // The port is named where it is not the scheme's own.
    let named = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let named = HeaderValue::from_str(&named).map_err(|_| wrong(&request))?;
    request.headers_mut().entry(HOST).or_insert(named);
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    let options = DialOptions { tls: tls.cloned(), ..DialOptions::default() };
    let exchange = async {
        let io = connect(&host, port, by_tls.then_some(&options), None)
            .await
            .map_err(|source| ExchangeError::Connect { place: place.clone(), source })?;
        let broken =
            |error: &dyn std::fmt::Display| ExchangeError::Http { place: place.clone(), reason: error.to_string() };
        let opened = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = opened.map_err(|error| broken(&error))?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await.map_err(|error| broken(&error))?.into_parts();
            match Limited::new(body, cap).collect().await {
                Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(ExchangeError::TooLong { place: place.clone(), cap })
                }
                Err(error) => Err(broken(&error)),
            }
        };
        let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // What it brought before it ended is still there.
            _ = &mut connection => exchange.await,
        }
    };
    let timed_out = |_| Err(ExchangeError::TimedOut { place: place.clone(), deadline });
    tokio::time::timeout(deadline, exchange).await.unwrap_or_else(timed_out)
}

impl Question<'_> {
    fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder()
            .method(if self.form.is_some() { Method::POST } else { Method::GET })
            .uri(self.url.as_str())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "warren")
            .header(CONNECTION, "close");
        if let Some(authorization) = self.authorization {
            let mut value = HeaderValue::from_str(authorization)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if self.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        request.body(Full::new(Bytes::from(self.form.unwrap_or_default().to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::tls::{Trust, client_config};

    /// Answers one request with `answer` and returns what was asked.
    async fn serve(answer: &'static str) -> (Url, tokio::task::JoinHandle<String>) {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/token?x=1", port.local_addr().expect("bound"));
        let serving = tokio::spawn(async move {
            let (mut stream, _) = port.accept().await.expect("a client");
            let mut asked = vec![0; 4096];
            let read = stream.read(&mut asked).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("an answer");
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        (Url::parse(&url).expect("a URL"), serving)
    }

    async fn post(url: &Url, cap: usize) -> Result<Answer, ExchangeError> {
        let tls = client_config(Trust::Anything).expect("TLS");
        let question = Question { url, form: Some("a=b"), authorization: Some("Basic c2VjcmV0") };
        ask(question, &tls, cap, Duration::from_millis(500)).await
    }

    #[tokio::test]
    async fn a_form_is_posted_and_any_status_is_an_answer() {
        let (url, serving) =
            serve("HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\nContent-Length: 2\r\n\r\nno").await;
        let answer = post(&url, 10).await.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (302, &b"no"[..]));
        let asked = serving.await.expect("no panic").to_lowercase();
        assert!(asked.starts_with("post /token?x=1 http/1.1\r\n") && asked.ends_with("\r\n\r\na=b"), "{asked}");
        assert!(asked.contains("authorization: basic c2vjcmv0"), "{asked}");
        assert!(asked.contains(&format!("host: {}", url.authority())), "{asked}");
    }

    #[tokio::test]
    async fn too_much_nonsense_and_silence_are_told_apart() {
        let (url, _serving) = serve("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world").await;
        assert!(matches!(post(&url, 10).await, Err(ExchangeError::TooLong { cap: 10, .. })));
        let (url, _serving) = serve("220 mail ready\r\n").await;
        assert!(matches!(post(&url, 10).await, Err(ExchangeError::Http { .. })));
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = Url::parse(&format!("http://{}/", silent.local_addr().expect("bound"))).expect("a URL");
        assert!(matches!(post(&url, 10).await, Err(ExchangeError::TimedOut { .. })));
        drop(silent);
        assert!(matches!(post(&url, 10).await, Err(ExchangeError::Connect { .. })));
        let url = Url::parse("ftp://127.0.0.1/").expect("a URL");
        assert!(matches!(post(&url, 10).await, Err(ExchangeError::Url(_))));
    }
}
