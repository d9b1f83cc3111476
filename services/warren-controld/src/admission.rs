//! May a relay carry packets of this node? Asked by relays elsewhere over `POST /verify`, by the one beside us in process.
//!
//! Like the field's, the question needs no credentials: it tells whether a node key is known, and node keys are public
//! to nobody but peers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use warren_control::Snapshot;
use warren_crypto::NodePublic;
use warren_io::answer::{self, Body};
use warren_wire::{DerpAdmitRequest, DerpAdmitResponse};

use crate::clock;
use crate::service::Shared;

/// A question is some hundred bytes.
const LARGEST_QUESTION: usize = 4096;

/// Relays hold a client up while they ask.
const DEADLINE: Duration = Duration::from_secs(5);

/// Answers from the last picture of the registry. Cheap to clone; it outlives the server, and then knows no more news.
#[derive(Clone, Debug)]
pub struct Admission {
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Admission {
    pub(crate) fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { snapshots }
    }

    /// Whether a relay should carry packets of `node` now: it is registered and its key has not expired. Where it calls
    /// from makes no difference yet.
    pub fn admits(&self, node: &NodePublic, _source: IpAddr) -> bool {
        self.snapshots.borrow().admits(node, clock::wall())
    }

    /// Waits until answers may be other than before. False: the server has stopped, and there will be no news.
    /// Dropping the future loses no news.
    pub async fn changed(&mut self) -> bool {
        self.snapshots.changed().await.is_ok()
    }
}

pub(crate) async fn verify(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use POST");
    }
    let body = match answer::read_body(request.into_body(), LARGEST_QUESTION, DEADLINE).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    match serde_json::from_slice::<DerpAdmitRequest>(&body) {
        Ok(question) => {
            let allow = shared.registry.snapshot().admits(&question.node_public, clock::wall());
            answer::json(&DerpAdmitResponse { allow })
        }
        Err(error) => answer::text(StatusCode::BAD_REQUEST, &format!("not an admission request: {error}")),
    }
}
