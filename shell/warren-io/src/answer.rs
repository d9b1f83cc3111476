//! Small HTTP answers, and request bodies read with a cap and a deadline.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

/// Body of every answer. An error ends the connection (or HTTP/2 stream), so that half an answer is not taken for one.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer of one content type.
pub fn content(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// One line for a person.
pub fn text(status: StatusCode, line: &str) -> Response<Body> {
    content(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// A status and nothing else.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// A value as JSON with status 200; status 500 if it cannot be written, which is a mistake of ours.
pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => content(StatusCode::OK, "application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        }
    }
}

/// Why a request's body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More than `cap` bytes.
    #[error("the request is longer than {cap} bytes")]
    TooLong {
        /// What was allowed.
        cap: usize,
    },
    /// It did not come in time.
    #[error("the request did not arrive within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The connection broke.
    #[error("the request broke off")]
    Broken,
}

impl BodyError {
    /// The answer for whoever sent it.
    pub fn response(&self) -> Response<Body> {
        let status = match self {
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        };
        text(status, &self.to_string())
    }
}

/// The whole body of a request, at most `cap` bytes, within `deadline`. Memory grows with what arrives, not with what
/// is announced.
///
/// # Errors
/// [`BodyError`].
pub async fn read_body<B>(body: B, cap: usize, deadline: Duration) -> Result<Bytes, BodyError>
where
    B: http_body_util::BodyExt + Send,
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match tokio::time::timeout(deadline, Limited::new(body, cap).collect()).await {
        Err(_) => Err(BodyError::TooSlow(deadline)),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLong { cap }),
        Ok(Err(_)) => Err(BodyError::Broken),
    }
}
