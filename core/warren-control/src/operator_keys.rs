//! Join keys, as an operator makes and ends them.

use std::collections::BTreeSet;

use warren_crypto::{Random, UnixTime};
use warren_wire::UserId;

use crate::auth_keys;
use crate::command::{Answer, Refusal};
use crate::names;
use crate::register::next;
use crate::rows::{KeyId, PreAuthKey};
use crate::staged::Staged;

/// What an operator wants of a new key.
pub(crate) struct KeyWish {
    pub(crate) user: Option<UserId>,
    pub(crate) tags: BTreeSet<String>,
    pub(crate) reusable: bool,
    pub(crate) ephemeral: bool,
    pub(crate) preapproved: bool,
    pub(crate) expiry: Option<UnixTime>,
}

impl Staged {
    pub(crate) fn create_key(&mut self, wish: KeyWish, now: UnixTime, random: &mut Random) -> Result<Answer, Refusal> {
        let KeyWish { user, tags, reusable, ephemeral, preapproved, expiry } = wish;
        if let Some(user) = user {
            self.user(user)?;
        } else if tags.is_empty() {
            return Err(Refusal::Invalid("a join key needs a user or tags".to_owned()));
        }
        check_tags(&tags)?;
        if expiry.is_some_and(|expiry| expiry <= now) {
            return Err(Refusal::Invalid("a join key must expire in the future".to_owned()));
        }
        let minted = auth_keys::mint(&self.state.registry, random);
        let id = KeyId(self.count(|facts| next(&mut facts.next_key)));
        let detail = format!("reusable {reusable}, ephemeral {ephemeral}");
        self.note(now, format!("key:{id}"), detail);
        let key = self.put_key(PreAuthKey {
            id,
            prefix: minted.prefix,
            secret_sha256: minted.secret_sha256,
            user,
            tags,
            reusable,
            ephemeral,
            preapproved,
            used: false,
            revoked: false,
            created: now,
            expiry,
        });
        Ok(Answer::Key { key, secret: Some(minted.text) })
    }

    pub(crate) fn expire_key(&mut self, id: KeyId, now: UnixTime) -> Result<Answer, Refusal> {
        let key = self.key(id)?;
        if key.expiry.is_some_and(|expiry| expiry <= now) {
            return Ok(Answer::Key { key, secret: None });
        }
        self.note(now, format!("key:{id}"), "");
        let key = self.put_key(PreAuthKey { expiry: Some(now), revoked: true, ..PreAuthKey::clone(&key) });
        Ok(Answer::Key { key, secret: None })
    }

    pub(crate) fn delete_key(&mut self, id: KeyId, now: UnixTime) -> Result<Answer, Refusal> {
        self.key(id)?;
        self.note(now, format!("key:{id}"), "");
        self.remove_key(id);
        Ok(Answer::Done)
    }

    fn key(&self, id: KeyId) -> Result<std::sync::Arc<PreAuthKey>, Refusal> {
        let missing = || Refusal::NotFound { kind: "key", name: id.to_string() };
        self.state.registry.key(id).cloned().ok_or_else(missing)
    }
}

/// Whether all of these are tags.
pub(crate) fn check_tags(tags: &BTreeSet<String>) -> Result<(), Refusal> {
    match tags.iter().find(|tag| !names::is_tag(tag)) {
        Some(tag) => Err(Refusal::Invalid(format!("{tag:?} is not a tag: write tag: and a name"))),
        None => Ok(()),
    }
}
