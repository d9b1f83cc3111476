//! What the writer wants asked of nodes: signs of life, and which services they offer. It waits for none of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use warren_control::Offered;
use warren_wire::{NodeId, VipServices};

use crate::ask_node::{self, AskError};
use crate::clock;
use crate::service::Shared;

/// For the list of services. Longer than a node needs; it is asked again anyway.
const SERVICES: Duration = Duration::from_secs(20);

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    SignOfLife(NodeId),
    Services(NodeId),
}

/// Why a node's list of services is not known.
#[derive(Debug, thiserror::Error)]
enum ServicesError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the node's answer is no list of services: {0}")]
    Nonsense(&'static str),
    #[error("the node's list of services is not understood")]
    Json(#[from] serde_json::Error),
}

/// Runs errands until the server stops. Whoever is silent needs no word: the writer has deadlines of its own.
pub(crate) async fn run(shared: Arc<Shared>, mut errands: mpsc::UnboundedReceiver<Errand>, sign_of_life: Duration) {
    let mut shutdown = shared.shutdown.clone();
    loop {
        let errand = tokio::select! {
            () = clock::told(&mut shutdown) => return,
            errand = errands.recv() => errand,
        };
        let Some(errand) = errand else { return };
        let (asking, mut shutdown) = (Arc::clone(&shared), shutdown.clone());
        shared.tasks.spawn(async move {
            tokio::select! {
                () = clock::told(&mut shutdown) => {}
                () = run_one(&asking, errand, sign_of_life) => {}
            }
        });
    }
}

async fn run_one(shared: &Shared, errand: Errand, sign_of_life: Duration) {
    match errand {
        Errand::SignOfLife(node) => {
            if ask_node::sign_of_life(shared, node, sign_of_life).await.is_ok() {
                shared.registry.alive(node).await;
            }
        }
        Errand::Services(node) => match ask_services(shared, node).await {
            Ok(Some(offered)) => shared.registry.offered(node, offered).await,
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%node, error = &error as &dyn std::error::Error, "asked for services");
            }
        },
    }
}

/// `None`: the node is gone.
async fn ask_services(shared: &Shared, node: NodeId) -> Result<Option<Offered>, ServicesError> {
    let Some(machine) = shared.registry.snapshot().registry().node(node).map(|row| row.machine_key) else {
        return Ok(None);
    };
    let request = b"GET /vip-services HTTP/1.1\r\nHost: c2n\r\n\r\n".to_vec();
    let answer = ask_node::c2n(shared, node, machine, request, SERVICES).await?;
    read_services(&answer).map(Some)
}

/// The answer is a whole HTTP/1 response that ends where its bytes end.
fn read_services(answer: &Bytes) -> Result<Offered, ServicesError> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(ServicesError::Nonsense("no headers"))?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(), &answer[end + 4..]);
    if head.split_whitespace().nth(1) != Some("200") {
        return Err(ServicesError::Nonsense("its status is not 200"));
    }
    if head.contains("\r\ntransfer-encoding:") {
        return Err(ServicesError::Nonsense("it has a transfer encoding"));
    }
    let answer: VipServices = serde_json::from_slice(body)?;
    Ok(Offered::from_answer(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_services_is_read_from_a_whole_http_answer() {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n\
                      {\"VIPServices\":[{\"Name\":\"svc:web\",\"Ports\":[\"tcp:443\"],\"Active\":true},\
                      {\"Name\":\"svc:db\",\"Ports\":null,\"Active\":false}],\"ServicesHash\":\"h\"}\n";
        let offered = read_services(&Bytes::from(answer)).expect("a list");
        assert_eq!((offered.hash.as_str(), offered.active().collect::<Vec<_>>()), ("h", vec!["svc:web"]));
        assert_eq!(offered.services.len(), 2);
        for bad in ["", "HTTP/1.1 400 Bad Request\r\n\r\nunknown c2n path", "HTTP/1.1 200 OK\r\n\r\n[]"] {
            assert!(read_services(&Bytes::from(bad)).is_err(), "{bad:?}");
        }
    }
}
