//! Texts and lists that anybody may send: capped while they are read, so that a short message makes no large value.
//!
//! `{}` in a list of objects is three bytes on the wire and some hundred in memory. What goes beyond a cap is cut or left
//! out, since a node with much to say is no reason to refuse it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use warren_ip::Prefix;

use crate::lenient::read_prefix;

/// Bytes of a text of its own: names, versions, ids.
pub(crate) const LONGEST_TEXT: usize = 1024;

/// Bytes of a text in a list: the longest in use are host keys for shells.
pub(crate) const LONGEST_ENTRY: usize = 4096;

/// Entries of a list or map.
const MOST: usize = 512;

/// Routes of one node; connectors for apps announce the most.
const MOST_PREFIXES: usize = 4096;

/// At most so many bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Text<const LONGEST: usize>(pub String);

impl<'de, const LONGEST: usize> Deserialize<'de> for Text<LONGEST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut<const LONGEST: usize>;
        impl<const LONGEST: usize> Visitor<'_> for Cut<LONGEST> {
            type Value = Text<LONGEST>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(text[..text.floor_char_boundary(LONGEST)].to_owned()))
            }
        }
        deserializer.deserialize_str(Cut)
    }
}

/// The first entries of a list.
#[derive(Debug, PartialEq)]
pub(crate) struct Few<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(First { most: MOST, keep: Some, kind: PhantomData }).map(Few)
    }
}

/// The first readable prefixes of a list.
#[derive(Debug, PartialEq)]
pub(crate) struct FewPrefixes(pub Vec<Prefix>);

impl<'de> Deserialize<'de> for FewPrefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Longer than any prefix is written.
        const LONGEST: usize = 64;
        let keep = |text: Text<LONGEST>| read_prefix(&text.0);
        deserializer.deserialize_seq(First { most: MOST_PREFIXES, keep, kind: PhantomData }).map(FewPrefixes)
    }
}

struct First<T, F> {
    most: usize,
    /// `None` leaves an entry out.
    keep: F,
    kind: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>, U, F: Fn(T) -> Option<U>> Visitor<'de> for First<T, F> {
    type Value = Vec<U>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<U>, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.most {
            match list.next_element::<T>()? {
                Some(entry) => first.extend((self.keep)(entry)),
                None => return Ok(first),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

/// Some entries of a map; those whose value is `null` are dropped.
#[derive(Debug, PartialEq)]
pub(crate) struct FewEntries<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for FewEntries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = FewEntries<V>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while entries.len() < MOST {
                    match map.next_entry::<Text<LONGEST_TEXT>, Option<V>>()? {
                        Some((key, value)) => entries.extend(value.map(|value| (key.0, value))),
                        None => return Ok(FewEntries(entries)),
                    }
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(FewEntries(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hostinfo;

    #[test]
    fn a_short_message_makes_no_large_value() {
        let many = |entry: &str| vec![entry; 20_000].join(",");
        let latency: Vec<String> = (0..20_000).map(|n| format!("\"{n}-v4\":0.1")).collect();
        let text = format!(
            r#"{{"Hostname":"{}","Services":[{}],"RequestTags":[{}],"RoutableIPs":[{},"10.0.0.1/8"],"NetInfo":{{"DERPLatency":{{{}}}}},"OS":"linux"}}"#,
            "ä".repeat(5000),
            many("{}"),
            many("\"tag:x\""),
            many("\"fd00::/8\""),
            latency.join(",")
        );
        let host: Hostinfo = serde_json::from_str(&text).expect("readable all the same");
        assert_eq!((host.hostname.len(), host.os.as_str()), (LONGEST_TEXT, "linux"));
        assert_eq!((host.services.len(), host.request_tags.len()), (MOST, MOST));
        assert_eq!(host.routable_ips.len(), MOST_PREFIXES);
        assert_eq!(host.net_info.expect("said").derp_latency.len(), MOST);
    }

    #[test]
    fn what_is_plausible_is_read_as_before() {
        let text = r#"{"RoutableIPs":["10.0.0.1/8","","fd00::/129"],"Services":null,"RequestTags":["tag:a"],"NetInfo":{"DERPLatency":{"1-v4":0.5,"2-v4":null}}}"#;
        let host: Hostinfo = serde_json::from_str(text).expect("readable");
        assert_eq!(host.routable_ips, ["10.0.0.0/8".parse().expect("a prefix")]);
        assert_eq!((host.services.len(), host.request_tags.as_slice()), (0, ["tag:a".to_owned()].as_slice()));
        assert_eq!(host.net_info.expect("said").derp_latency.len(), 1);
    }
}
