//! Who may reach whom.

use http::Response;
use warren_api::admin::{Policy, PolicyCheck, SetPolicy};
use warren_control::{Answer, Refusal, What};
use warren_io::answer::{self, Body};

use super::{Asked, RestError};

pub(super) fn show(asked: &Asked) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    let policy = snapshot.registry().policy();
    Ok(answer::json(&Policy {
        policy: policy.map(|policy| policy.text.clone()).unwrap_or_default(),
        updated_at: policy.map(|policy| policy.updated),
        warnings: Vec::new(),
    }))
}

pub(super) async fn replace(asked: &Asked) -> Result<Response<Body>, RestError> {
    if let Some(path) = &asked.shared.policy_file {
        let path = path.display();
        return Err(Refusal::Conflict(format!(
            "the policy comes from {path}: change that file and send the server SIGHUP"
        ))
        .into());
    }
    let SetPolicy { policy } = asked.json()?;
    match asked.command(What::ReplacePolicy { text: policy }).await? {
        Answer::Policy { row, warnings } => {
            Ok(answer::json(&Policy { policy: row.text.clone(), updated_at: Some(row.updated), warnings }))
        }
        _ => Err(RestError::Mixed),
    }
}

pub(super) async fn check(asked: &Asked) -> Result<Response<Body>, RestError> {
    let SetPolicy { policy } = asked.json()?;
    // Long policies with many tests take their time, and the maps of all nodes are made by the same threads.
    let snapshot = asked.snapshot();
    let checked = tokio::task::spawn_blocking(move || snapshot.check_policy(&policy)).await;
    let warnings = checked.map_err(|_| RestError::Mixed)??;
    Ok(answer::json(&PolicyCheck { warnings }))
}
