//! People.

use http::Response;
use warren_api::admin::{CreateUser, SetRole, UserAnswer, UsersAnswer};
use warren_control::{Answer, NoRole, UserRole, What};
use warren_io::answer::{self, Body};
use warren_wire::UserId;

use super::scopes::{Need, Noun};
use super::{Asked, RestError, nothing, number, shapes};

pub(super) fn list(asked: &Asked) -> Result<Response<Body>, RestError> {
    let id = asked.query("id").map(|text| number(text, "user")).transpose()?;
    let snapshot = asked.snapshot();
    let users = snapshot
        .registry()
        .users()
        .filter(|user| id.is_none_or(|id| user.id.0 == id))
        .filter(|user| asked.query("name").is_none_or(|name| user.name == name))
        .filter(|user| asked.query("email").is_none_or(|email| user.email == email))
        .map(|user| shapes::person(user, snapshot.registry()))
        .collect();
    Ok(answer::json(&UsersAnswer { users }))
}

pub(super) async fn create(asked: &Asked) -> Result<Response<Body>, RestError> {
    let CreateUser { name, display_name, email, picture_url } = asked.json()?;
    show(asked, asked.command(What::CreateUser { name, display_name, email, picture_url }).await?)
}

pub(super) async fn rename(asked: &Asked, id: &str, name: &str) -> Result<Response<Body>, RestError> {
    let user = UserId(number(id, "user")?);
    show(asked, asked.command(What::RenameUser { user, name: name.to_owned() }).await?)
}

pub(super) async fn set_role(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let SetRole { role } = asked.json()?;
    let role: UserRole = role.parse().map_err(|error: NoRole| RestError::Wrong(error.to_string()))?;
    let user = UserId(number(id, "user")?);
    show(asked, asked.command(What::SetRole { user, role }).await?)
}

pub(super) async fn delete(asked: &Asked, id: &str) -> Result<Response<Body>, RestError> {
    let user = UserId(number(id, "user")?);
    let with_nodes = asked.query("force").is_some_and(|text| text == "true" || text == "1");
    if with_nodes {
        asked.also_needs(Need::Write(Noun::Nodes))?;
    }
    asked.command(What::DeleteUser { user, with_nodes }).await?;
    Ok(nothing())
}

fn show(asked: &Asked, answered: Answer) -> Result<Response<Body>, RestError> {
    match answered {
        Answer::User(user) => {
            let user = shapes::person(&user, asked.snapshot().registry());
            Ok(answer::json(&UserAnswer { user }))
        }
        _ => Err(RestError::Mixed),
    }
}
