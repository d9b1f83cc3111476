//! Join keys.

use http::Response;
use warren_api::admin::{CreateKey, ExpireKey, KeyAnswer, KeysAnswer};
use warren_control::rows::KeyId;
use warren_control::{Answer, What};
use warren_io::answer::{self, Body};

use super::{Asked, RestError, nothing, number, shapes, user_id};

pub(super) fn list(asked: &Asked) -> Result<Response<Body>, RestError> {
    let snapshot = asked.snapshot();
    let pre_auth_keys = snapshot.registry().keys().map(|key| shapes::key(key, &snapshot)).collect();
    Ok(answer::json(&KeysAnswer { pre_auth_keys }))
}

pub(super) async fn create(asked: &Asked) -> Result<Response<Body>, RestError> {
    let CreateKey { user, reusable, ephemeral, pre_approved, expiration, acl_tags } = asked.json()?;
    let user = match user.as_str() {
        "" | "0" => None,
        user => Some(user_id(&asked.snapshot(), user)?),
    };
    let tags = acl_tags.into_iter().collect();
    let what = What::CreateKey { user, tags, reusable, ephemeral, preapproved: pre_approved, expiry: expiration };
    match asked.command(what).await? {
        Answer::Key { key, secret: Some(secret) } => {
            let mut shown = shapes::key(&key, &asked.snapshot());
            shown.key = secret.reveal().to_owned();
            Ok(answer::json(&KeyAnswer { pre_auth_key: shown }))
        }
        _ => Err(RestError::Mixed),
    }
}

pub(super) async fn expire(asked: &Asked) -> Result<Response<Body>, RestError> {
    let ExpireKey { id } = asked.json()?;
    asked.command(What::ExpireKey { key: KeyId(number(&id, "key")?) }).await?;
    Ok(nothing())
}

pub(super) async fn delete(asked: &Asked) -> Result<Response<Body>, RestError> {
    let id = asked.query("id").unwrap_or_default();
    asked.command(What::DeleteKey { key: KeyId(number(id, "key")?) }).await?;
    Ok(nothing())
}
