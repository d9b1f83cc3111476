//! `watch-ipn-bus`: first what the mask asks for, then news until somebody leaves.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use warren_api::local::{BackendState, CONTRACT_VERSION, Notify, watch};

use super::door::Body;
use super::{Backend, Refusal};

pub(super) async fn watch<B: Backend>(mask: &str, backend: B) -> Result<Response<Body>, Refusal> {
    let mask: u64 = match mask {
        "" => 0,
        mask => mask.parse().map_err(|_| Refusal::new(400, "bad mask"))?,
    };
    if mask & watch::IN_PROCESS != 0 {
        return Err(Refusal::new(400, "this mask is for watchers inside the daemon only"));
    }
    // News are taken from before the first look, so that nothing falls between the two.
    let mut news = backend.watch().await;
    let first = first(mask, &backend).await?;
    let lines = async_lines(first, move |context| news.poll_recv(context));
    Ok(Response::new(StreamBody::new(lines).boxed()))
}

async fn first<B: Backend>(mask: u64, backend: &B) -> Result<Notify, Refusal> {
    let wants = |bit: u64| mask & bit != 0;
    let mut notify = Notify { version: CONTRACT_VERSION.into(), session_id: session(), ..Notify::default() };
    if wants(watch::INITIAL_STATE) || wants(watch::INITIAL_NETMAP) || wants(watch::INITIAL_STATUS) {
        let status = backend.status(wants(watch::INITIAL_STATUS)).await?;
        if wants(watch::INITIAL_STATE) {
            notify.state = BackendState::parse(&status.backend_state).map(BackendState::number);
            notify.browse_to_url = Some(status.auth_url.clone()).filter(|url| !url.is_empty());
        }
        if wants(watch::INITIAL_STATUS) {
            notify.initial_status = Some(status);
        }
    }
    if wants(watch::INITIAL_PREFS) {
        notify.prefs = Some(backend.prefs().await?);
    }
    Ok(notify)
}

fn session() -> String {
    let mut bytes = [0_u8; 8];
    // A session id is a label, not a secret: without entropy it is merely not unique.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Poll = std::task::Poll<Option<Notify>>;

/// A stream of lines: `first`, then whatever `next` gives until it gives `None`.
fn async_lines(
    first: Notify,
    mut next: impl FnMut(&mut std::task::Context<'_>) -> Poll + Send + Sync,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync {
    let mut first = Some(first);
    futures_util::stream::poll_fn(move |context| {
        let notify = match first.take() {
            Some(notify) => Some(notify),
            None => std::task::ready!(next(context)),
        };
        std::task::Poll::Ready(notify.map(|mut notify| {
            notify.version = CONTRACT_VERSION.into();
            let mut line = serde_json::to_vec(&notify).unwrap_or_else(|_| b"{}".to_vec());
            line.push(b'\n');
            Ok(Frame::data(Bytes::from(line)))
        }))
    })
}
