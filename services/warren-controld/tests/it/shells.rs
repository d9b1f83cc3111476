//! Shell sessions that need a check.

use http::{Method, StatusCode};
use warren_api::admin::ExpireNode;
use warren_control::AuthId;
use warren_wire::ssh::SshAction;

use crate::client::Machine;
use crate::doors::get;
use crate::world::{World, start};

const POLICY: &str = r#"{
    "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }],
    "ssh": [{
        "action": "check", "checkPeriod": "1h", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"],
    }],
}"#;

/// Two machines of ann's: node 1 wants in at node 2.
async fn two() -> (World, [Machine; 2]) {
    let world = start().await;
    let key = world.join_key(true).await;
    let machines = [Machine::new(&world, 1, "from").await, Machine::new(&world, 2, "to").await];
    for machine in &machines {
        machine.join(&key).await;
    }
    world.admin.set_policy(POLICY).await.expect("a policy");
    (world, machines)
}

async fn ask(machine: &Machine, path: &str) -> Result<SshAction, StatusCode> {
    let (status, body) = machine.ask(Method::GET, path, &()).await;
    if status == StatusCode::OK { Ok(serde_json::from_slice(&body).expect("an action")) } else { Err(status) }
}

/// The path at which to ask again, and the id of the check.
fn held(action: &SshAction) -> (String, String) {
    let url = url::Url::parse(&action.hold_and_delegate).expect("a link");
    let id = url.query_pairs().find(|(name, _)| name == "auth_id").expect("an id").1.into_owned();
    assert!(id.parse::<AuthId>().is_ok());
    (format!("{}?{}", url.path(), url.query().expect("a query")), id)
}

const FIRST: &str = "/machine/ssh/action/1/to/2?local_user=root";

#[tokio::test]
async fn a_session_is_held_until_somebody_allows_it_and_then_lets_in_for_the_period() {
    let (world, [from, to]) = two().await;
    let first = ask(&to, FIRST).await.expect("an action");
    let (again, id) = held(&first);
    assert!(first.message.contains(&format!("/auth/{id}")), "{}", first.message);
    let (status, page) = get(&world, &format!("/auth/{id}")).await;
    assert!(status == 200 && page.contains("from wants a shell on to") && page.contains(&id), "{page}");
    let (answer, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&id));
    approved.expect("approved");
    let answer = answer.expect("an action");
    assert!(answer.accept && !answer.reject && answer.hold_and_delegate.is_empty(), "{answer:?}");
    assert!(ask(&to, FIRST).await.expect("an action").accept, "within the hour it is not asked again");
    let other_user = ask(&to, "/machine/ssh/action/1/to/2?local_user=daemon").await.expect("an action");
    assert!(other_user.reject, "no rule lets in as this user");
    assert_eq!(ask(&from, FIRST).await, Err(StatusCode::NOT_FOUND), "only the node that is entered asks for itself");
    assert_eq!(ask(&to, "/machine/ssh/action/1/to/2").await, Err(StatusCode::BAD_REQUEST));
}

#[tokio::test]
async fn a_node_whose_key_has_expired_is_told_of_nobody_who_may_come_in() {
    let (world, [_, to]) = two().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    world.admin.expire_node("2", &ExpireNode::default()).await.expect("expired");
    let (answer, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&id));
    approved.expect("the check is still there");
    assert!(answer.expect("an action").reject);
    assert!(ask(&to, FIRST).await.expect("an action").reject);
}

#[tokio::test]
async fn where_every_session_is_checked_an_earlier_check_counts_for_nothing() {
    let (world, [_, to]) = two().await;
    world.admin.set_policy(&POLICY.replace("\"1h\"", "\"always\"")).await.expect("a policy");
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let (answer, approved) = tokio::join!(ask(&to, &again), world.admin.approve(&id));
    approved.expect("approved");
    assert!(answer.expect("an action").accept);
    assert!(!ask(&to, FIRST).await.expect("an action").accept);
}

#[tokio::test]
async fn a_check_that_is_refused_or_forged_lets_nobody_in() {
    let (world, [_, to]) = two().await;
    let (again, id) = held(&ask(&to, FIRST).await.expect("an action"));
    let (answer, rejected) = tokio::join!(ask(&to, &again), world.admin.reject(&id));
    rejected.expect("refused");
    assert!(answer.expect("an action").reject);
    let made_up = format!("{FIRST}&auth_id={}", AuthId::from_bytes([7; 16]));
    let other = ask(&to, &made_up).await.expect("an action");
    assert!(!other.accept && held(&other).1 != id, "an unknown check is begun anew");
    assert_eq!(get(&world, "/auth/nonsense").await.0, 404);
}
