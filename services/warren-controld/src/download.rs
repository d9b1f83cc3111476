//! `/get/<system>-<architecture>`: this very executable, for machines that have nothing yet.
//!
//! The file is opened once, so that an update of it on the disk changes neither what is served nor its SHA-256.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use sha2::Digest as _;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use warren_io::answer::{self, Body};

use crate::service::Shared;

/// Downloads at a time; each holds one piece in memory.
const AT_A_TIME: usize = 32;

const PIECE: usize = 128 << 10;

/// The executable, if one is served.
#[derive(Debug)]
pub(crate) struct Download {
    file: Option<Arc<std::fs::File>>,
    name: String,
    sha256: OnceCell<String>,
    places: Arc<Semaphore>,
}

impl Download {
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(std::fs::File::open).transpose()?.map(Arc::new);
        let name = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
        Ok(Self { file, name, sha256: OnceCell::new(), places: Arc::new(Semaphore::new(AT_A_TIME)) })
    }

    /// `<system>-<architecture>` of what is served.
    pub(crate) fn name(&self) -> Option<&str> {
        self.file.as_ref().map(|_| self.name.as_str())
    }

    /// SHA-256 in hex of what is served.
    pub(crate) async fn sha256(&self) -> Option<&str> {
        let file = self.file.clone()?;
        let hash = || async {
            match tokio::task::spawn_blocking(move || hash(&file)).await {
                Ok(hash) => hash,
                Err(error) => Err(io::Error::other(error)),
            }
        };
        let known = self.sha256.get_or_try_init(hash).await;
        known.inspect_err(|error| tracing::error!(%error, "the executable could not be read")).ok().map(String::as_str)
    }
}

fn hash(file: &std::fs::File) -> io::Result<String> {
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => {
                hash.update(&piece[..count]);
                at += count as u64;
            }
        }
    }
}

pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    let download = &shared.download;
    let asked = request.uri().path().strip_prefix("/get/").unwrap_or_default();
    let (Some(file), Some(name)) = (download.file.clone(), download.name()) else {
        return answer::text(StatusCode::NOT_FOUND, "this server does not hand out its program");
    };
    if asked != name {
        let text = format!("this server only has its own program, which is for {name}");
        return answer::text(StatusCode::NOT_FOUND, &text);
    }
    let Ok(place) = Arc::clone(&download.places).try_acquire_owned() else {
        return answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many downloads at once; try again in a minute");
    };
    let (Some(sha256), Ok(length)) = (download.sha256().await, file.metadata().map(|data| data.len())) else {
        return answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
    };
    let body = Pieces { file, at: 0, reading: None, _place: place };
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"warren\""));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(value) = HeaderValue::from_str(sha256) {
        headers.insert(HeaderName::from_static("x-sha256"), value);
    }
    response
}

/// The file, one piece ahead of the client at most.
struct Pieces {
    file: Arc<std::fs::File>,
    at: u64,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let (file, at) = (&this.file, this.at);
        let reading = this.reading.get_or_insert_with(|| {
            let file = Arc::clone(file);
            tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; PIECE];
                let count = file.read_at(&mut piece, at)?;
                piece.truncate(count);
                Ok(piece)
            })
        });
        let read = ready!(Pin::new(reading).poll(cx));
        this.reading = None;
        match read.map_err(io::Error::other).and_then(|read| read) {
            Ok(piece) if piece.is_empty() => Poll::Ready(None),
            Ok(piece) => {
                this.at += piece.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(piece.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
