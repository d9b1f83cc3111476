//! Services with addresses of their own.

use http::Response;
use warren_api::admin::{ChangeService, CreateService, HostsAnswer, ServiceAnswer, ServicesAnswer, SetApproved};
use warren_control::rows::ServiceId;
use warren_control::{Answer, Refusal, ServiceChange, ServiceWish, Snapshot, What};
use warren_io::answer::{self, Body};

use super::{Asked, RestError, nodes, nothing, shapes};

pub(super) fn list(asked: &Asked) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    let vip_services = snapshot.registry().services().map(|service| shapes::service(service, &snapshot)).collect();
    Ok(answer::json(&ServicesAnswer { vip_services }))
}

pub(super) fn show(asked: &Asked, name: &str) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    let service = snapshot.registry().service(service_id(&snapshot, name)?).map(|row| shapes::service(row, &snapshot));
    let missing = || Refusal::NotFound { kind: "service", name: name.to_owned() };
    Ok(answer::json(&ServiceAnswer { service: service.ok_or_else(missing)? }))
}

pub(super) async fn create(asked: &Asked) -> Result<Response<Body>, RestError> {
    let CreateService { name, ports, comment, tags } = asked.json()?;
    let wish = ServiceWish { ports, comment, tags: tags.into_iter().collect() };
    done(asked, What::CreateService { name, wish }).await
}

pub(super) async fn change(asked: &Asked, name: &str) -> Result<Response<Body>, RestError> {
    let service = service_id(&asked.snapshot(), name)?;
    let ChangeService { ports, comment, tags } = asked.json()?;
    let tags = tags.map(|tags| tags.into_iter().collect());
    done(asked, What::ChangeService { service, change: ServiceChange { ports, comment, tags } }).await
}

pub(super) async fn delete(asked: &Asked, name: &str) -> Result<Response<Body>, RestError> {
    let service = service_id(&asked.snapshot(), name)?;
    asked.command(What::DeleteService { service }).await?;
    Ok(nothing())
}

pub(super) fn hosts(asked: &Asked, name: &str) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    let id = service_id(&snapshot, name)?;
    let hosts = snapshot.registry().service(id).map(|service| shapes::hosts(service, &snapshot)).unwrap_or_default();
    Ok(answer::json(&HostsAnswer { hosts }))
}

pub(super) async fn approve(asked: &Asked, name: &str, node: &str) -> Result<Response<Body>, RestError> {
    let SetApproved { approved } = asked.json()?;
    let service = service_id(&asked.snapshot(), name)?;
    done(asked, What::ApproveHost { service, node: nodes::node_id(node)?, approved }).await
}

async fn done(asked: &Asked, what: What) -> Result<Response<Body>, RestError> {
    match asked.command(what).await? {
        Answer::Service(service) => {
            Ok(answer::json(&ServiceAnswer { service: shapes::service(&service, &asked.snapshot()) }))
        }
        _ => Err(RestError::Mixed),
    }
}

/// With or without `svc:`.
fn service_id(snapshot: &Snapshot, name: &str) -> Result<ServiceId, RestError> {
    let found = snapshot.registry().service_by_name(name).map(|service| service.id);
    found.ok_or_else(|| Refusal::NotFound { kind: "service", name: name.to_owned() }.into())
}
