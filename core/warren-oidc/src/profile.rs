//! Who a person is, as far as their claims tell.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::claims::Claims;

/// Bounds what one token can make others store.
const MOST_GROUPS: usize = 256;
const LONGEST: usize = 255;

/// A person by their claims. Texts are cut to 255 bytes and have no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Who vouches.
    pub issuer: String,
    /// For whom.
    pub subject: String,
    /// `preferred_username`; empty for none. Anybody may be able to choose it.
    pub login: String,
    /// An address that counts as theirs; empty for none.
    pub email: String,
    /// `name`; empty for none.
    pub display_name: String,
    /// `picture`, if it is an https URL; else empty.
    pub picture_url: String,
    /// By the configured claim.
    pub groups: BTreeSet<String>,
}

/// Why somebody has no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// No address, where one is required.
    #[error("the provider names no e-mail address for this account; is the scope \"email\" granted?")]
    NoEmail,
    /// An address that cannot be one. To cut it would make somebody else's of it, and `alice@` is a policy's word for a name.
    #[error("the e-mail address of this account is too long, has control characters or lacks a part")]
    OddEmail,
    /// An address that nobody has checked.
    #[error("the e-mail address of this account has not been verified by the provider")]
    Unverified,
}

impl Claims {
    /// Reads the profile. With `verified_email`, only an address that the provider has verified counts, and there must
    /// be one; without, every address counts, which is right for providers that do not say.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn profile(&self, groups_claim: &str, verified_email: bool) -> Result<Profile, ProfileError> {
        let text = |name: &str| self.all.get(name).and_then(Value::as_str).map(plain).unwrap_or_default();
        let email = self.all.get("email").and_then(Value::as_str).unwrap_or_default().trim();
        let is_part = email.split_once('@').is_some_and(|(local, domain)| local.is_empty() || domain.is_empty());
        if email.len() > LONGEST || email.contains(char::is_control) || is_part {
            return Err(ProfileError::OddEmail);
        }
        // Some providers write the truth as a text.
        let is_verified = match self.all.get("email_verified") {
            Some(Value::Bool(verified)) => *verified,
            Some(Value::String(verified)) => verified == "true",
            _ => false,
        };
        if verified_email && email.is_empty() {
            return Err(ProfileError::NoEmail);
        }
        if verified_email && !is_verified {
            return Err(ProfileError::Unverified);
        }
        let picture_url = text("picture");
        Ok(Profile {
            issuer: self.issuer.clone(),
            subject: self.subject.clone(),
            login: text("preferred_username"),
            email: if email.contains('@') { email.to_owned() } else { String::new() },
            display_name: text("name"),
            picture_url: if picture_url.starts_with("https://") { picture_url } else { String::new() },
            groups: groups(&self.all, groups_claim),
        })
    }
}

/// A claim by its name, or else by a path of names with dots (`realm_access.roles`).
pub(crate) fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        find(claims.get(first)?.as_object()?, rest)
    })
}

fn groups(claims: &Map<String, Value>, name: &str) -> BTreeSet<String> {
    let names: Vec<&str> = match find(claims, name) {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    // A name that had to be cut would be another group's.
    let whole = names.into_iter().filter(|group| !group.is_empty() && plain(group) == *group);
    whole.take(MOST_GROUPS).map(str::to_owned).collect()
}

fn plain(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text[..text.floor_char_boundary(LONGEST)].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use warren_crypto::UnixTime;

    use super::*;

    fn claims(all: Value) -> Claims {
        let Value::Object(all) = all else { panic!("claims are an object") };
        Claims { issuer: "https://id.example".into(), subject: "42".into(), expires: UnixTime::from_secs(0), all }
    }

    #[test]
    fn an_address_counts_only_if_it_was_verified_or_the_operator_says_so() {
        for (all, verified_email, expect) in [
            (json!({ "email": "a@b.c", "email_verified": true }), true, Ok("a@b.c")),
            (json!({ "email": "a@b.c", "email_verified": "true" }), true, Ok("a@b.c")),
            (json!({ "email": "a@b.c", "email_verified": false }), true, Err(ProfileError::Unverified)),
            (json!({ "email": "a@b.c", "email_verified": 1 }), true, Err(ProfileError::Unverified)),
            (json!({ "email": "a@b.c" }), true, Err(ProfileError::Unverified)),
            (json!({}), true, Err(ProfileError::NoEmail)),
            (json!({ "email": ["a@b.c"], "email_verified": true }), true, Err(ProfileError::NoEmail)),
            (json!({ "email": "a@b.c" }), false, Ok("a@b.c")),
            (json!({ "email": "no address" }), false, Ok("")),
            (json!({}), false, Ok("")),
            (json!({ "email": format!("{}@b.c", "a".repeat(252)) }), false, Err(ProfileError::OddEmail)),
            (json!({ "email": "alice@", "email_verified": true }), true, Err(ProfileError::OddEmail)),
            (json!({ "email": "@b.c" }), false, Err(ProfileError::OddEmail)),
            (json!({ "email": "a\n@b.c", "email_verified": true }), true, Err(ProfileError::OddEmail)),
        ] {
            let found = claims(all.clone()).profile("groups", verified_email);
            assert_eq!(found.as_ref().map(|p| p.email.as_str()), expect.as_ref().copied(), "{all}");
        }
    }

    #[test]
    fn groups_come_from_the_configured_claim() {
        let groups = |all: Value, name: &str| {
            claims(all).profile(name, false).expect("a profile").groups.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(groups(json!({ "groups": ["b", "a", 7, "", "a\n"] }), "groups"), ["a", "b"]);
        assert_eq!(groups(json!({ "role": "ops" }), "role"), ["ops"]);
        assert_eq!(groups(json!({ "realm_access": { "roles": ["x"] } }), "realm_access.roles"), ["x"]);
        assert_eq!(groups(json!({ "https://a.example/roles": ["y"] }), "https://a.example/roles"), ["y"]);
        assert!(groups(json!({ "groups": { "a": 1 } }), "groups").is_empty());
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(groups(json!({ "groups": many }), "groups").len(), MOST_GROUPS);
    }

    #[test]
    fn what_a_person_calls_themselves_is_one_short_line() {
        let all = json!({ "name": format!(" Ann\u{7}\n{}", "ä".repeat(300)), "picture": "javascript:alert(1)" });
        let profile = claims(all).profile("groups", false).expect("a profile");
        assert!(profile.display_name.starts_with("Annä") && profile.display_name.len() <= LONGEST);
        assert_eq!(profile.picture_url, "");
    }
}
