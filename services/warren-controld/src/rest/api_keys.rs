//! API keys.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Response;
use warren_api::admin::{ApiKeysAnswer, CreateApiKey, ExpireApiKey, NewApiKey};
use warren_control::api_keys::prefix_of;
use warren_control::rows::ApiKeyId;
use warren_control::{Answer, ApiScope, NoScope, Refusal, What};
use warren_io::answer::{self, Body};

use super::{Asked, RestError, nothing, number, shapes};
use crate::clock;

/// Of a key for which no end is asked: every key has one.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

pub(super) fn list(asked: &Asked) -> Result<Response<Body>, RestError> {
    let api_keys = asked.snapshot().registry().api_keys().map(|key| shapes::api_key(key)).collect();
    Ok(answer::json(&ApiKeysAnswer { api_keys }))
}

pub(super) async fn create(asked: &Asked) -> Result<Response<Body>, RestError> {
    let CreateApiKey { expiration, scopes } = asked.json()?;
    let wrong = |error: NoScope| RestError::Wrong(error.to_string());
    let mut scopes = scopes.iter().map(|word| word.parse()).collect::<Result<BTreeSet<_>, _>>().map_err(wrong)?;
    if scopes.is_empty() {
        scopes.insert(ApiScope::All); // what a key of the field may
    }
    let expiry = expiration.unwrap_or_else(|| clock::wall().saturating_add(LIFETIME));
    match asked.command(What::CreateApiKey { scopes, expiry }).await? {
        Answer::ApiKey { secret: Some(secret), .. } => {
            Ok(answer::json(&NewApiKey { api_key: secret.reveal().to_owned() }))
        }
        _ => Err(RestError::Mixed),
    }
}

pub(super) async fn expire(asked: &Asked) -> Result<Response<Body>, RestError> {
    let ExpireApiKey { prefix, id } = asked.json()?;
    let key = find(asked, &prefix, &id)?;
    asked.command(What::ExpireApiKey { key }).await?;
    Ok(nothing())
}

pub(super) async fn delete(asked: &Asked, prefix: &str) -> Result<Response<Body>, RestError> {
    let key = find(asked, prefix, asked.query("id").unwrap_or_default())?;
    asked.command(What::DeleteApiKey { key }).await?;
    Ok(nothing())
}

/// By prefix, by number, or by both if they agree.
fn find(asked: &Asked, prefix: &str, id: &str) -> Result<ApiKeyId, RestError> {
    let snapshot = asked.snapshot();
    let registry = snapshot.registry();
    let prefix = prefix_of(prefix);
    let missing = |name: &str| Refusal::NotFound { kind: "API key", name: name.to_owned() };
    let by_prefix = match prefix {
        "" => None,
        prefix => Some(registry.api_key_by_prefix(prefix).ok_or_else(|| missing(prefix))?.id),
    };
    let by_id = match id {
        "" | "0" => None,
        id => Some(ApiKeyId(number(id, "API key")?)),
    };
    match (by_prefix, by_id) {
        (Some(one), Some(other)) if one != other => {
            Err(RestError::Wrong(format!("prefix {prefix} and id {other} are two keys")))
        }
        (Some(key), _) | (None, Some(key)) => Ok(key),
        (None, None) => Err(RestError::Wrong("say which API key: prefix or id".to_owned())),
    }
}
