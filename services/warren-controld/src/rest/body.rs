//! What scripts and other people's programs say in a request's body, brought to one form.
//!
//! The API of the field was JSON over protocol buffers for years, and its readers take more than one way to say a thing:
//! `disable_expiry` for `disableExpiry`, 1 for `"1"`, null for nothing at all, the number of the path once more as
//! `nodeId`. All these are taken here. A key that then means nothing is refused by name: what it was to keep from happening
//! would happen all the same.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Keys that name somebody or something; elsewhere a number is a number.
const IDS: [&str; 3] = ["id", "user", "authId"];

/// Reads a body; an empty one is `{}`.
///
/// # Errors
/// What is wrong with it, for whoever wrote it.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    let object: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut plain = Map::new();
    for (key, value) in object {
        let name = camel_case(&key);
        let value = match value {
            Value::Null => continue,
            Value::Number(number) if IDS.contains(&name.as_str()) => Value::String(number.to_string()),
            value => value,
        };
        if name == "nodeId" {
            continue; // it is in the path
        }
        if plain.insert(name, value).is_some() {
            return Err(format!("{key:?} is said twice"));
        }
    }
    serde_json::from_value(Value::Object(plain)).map_err(|error| error.to_string())
}

/// `disable_expiry` → `disableExpiry`; what has no underscore stays.
fn camel_case(key: &str) -> String {
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

#[cfg(test)]
mod tests {
    use warren_api::admin::{CreateKey, ExpireKey, ExpireNode, SetTags};

    use super::*;

    #[test]
    fn what_other_programs_say_is_understood() {
        let node: ExpireNode = read(br#"{"disable_expiry": true, "node_id": 1, "expiry": null}"#).expect("as gRPC");
        assert!(node.disable_expiry && node.expiry.is_none());
        let key: CreateKey = read(br#"{"user": 7, "acl_tags": ["tag:web"], "reusable": true}"#).expect("a number");
        assert_eq!((key.user.as_str(), key.acl_tags.len(), key.reusable), ("7", 1, true));
        assert_eq!(read::<ExpireKey>(br#"{"id": 3}"#).expect("a number").id, "3");
        assert_eq!(read::<ExpireNode>(b" ").expect("nothing"), ExpireNode::default());
    }

    #[test]
    fn what_would_be_passed_over_is_refused_by_name() {
        let error = read::<ExpireNode>(br#"{"disableExpirey": true}"#).expect_err("a slip");
        assert!(error.contains("disableExpirey") && error.contains("disableExpiry"), "{error}");
        let error = read::<ExpireNode>(br#"{"disableExpiry": true, "disable_expiry": false}"#).expect_err("both");
        assert!(error.contains("twice"), "{error}");
        assert!(read::<SetTags>(br#"["tag:web"]"#).is_err());
        assert!(read::<SetTags>(br#"{"tags": "tag:web"}"#).is_err());
    }
}
