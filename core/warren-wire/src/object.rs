//! How a table of fields becomes JSON in the way Go's encoder means it.
//!
//! The protocol's own documentation is a set of field tables: key, type, and whether the key is there when the value is
//! empty. [`wire_object!`] takes exactly such a table, so the code can be read beside the documentation. Reading is
//! the same for every kind: unknown keys are skipped, `null` means the empty value, and the case of a key does not matter
//! (Go's decoder does all three; the official Rust client leans on the last: it says `HostInfo` and `PreferredDerp`).
//!
//! | kind | Rust type | written when empty | read |
//! |---|---|---|---|
//! | `always` | any | yes, as the empty value (`Option` → `null`) | |
//! | `omit` | any | no | |
//! | `time` | `Option<UnixTime>` | no | year 1 (Go's zero time) is `None` |
//! | `always_time` | `Option<UnixTime>` | as year 1 | 〃 |
//! | `patch_time` | `Option<Option<UnixTime>>` | outer `None` no; inner `None` as year 1 | 〃 |
//! | `key` | `Option<key>` | no | 64 zeros is `None` |
//! | `always_key` | `Option<key>` | as 64 zeros | 〃 |
//! | `bytes` | `Vec<u8>` | no | standard base64 |
//! | `always_bytes` | `Vec<u8>` | as `null` | 〃 |
//! | `caps` | `CapMap` | no | a `null` list is an empty one |
//! | `patch_caps` | `Option<CapMap>` | no | 〃 |
//! | `region` | `Option<RegionId>` | no | 0 is `None` |
//! | `lists` | map of lists | no | a `null` list is an empty one; written as `[]` always |
//! | `entries` | map | no | entries whose value is `null` are dropped |
//! | `always_entries` | map | as `{}` | 〃 |
//! | `prefixes`, `maybe_prefixes` | `Vec<Prefix>`, `Option` of it | no | host bits are masked, unreadable entries left out |
//! | `always_prefixes` | `Vec<Prefix>` | as `[]` | 〃 |
//! | `text` | `String` | no | cut after 1024 bytes |
//! | `always_text` | `String` | yes | 〃 |
//! | `few` | `Vec` | no | as many as are plausible, the rest left out |
//! | `few_texts` | `Vec<String>` | no | 〃, each cut after 4096 bytes |
//! | `few_prefixes` | `Vec<Prefix>` | no | 〃, as `prefixes` |
//! | `few_entries` | map | no | 〃, as `entries` |
//! | `endpoints`, `maybe_endpoints` | `Vec<SocketAddr>`, `Option` of it | no | IPv6 zones are cut off, unreadable entries left out |

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use warren_crypto::{ChallengePublic, DiscoPublic, LockPublic, MachinePublic, NodePublic, UnixTime};

/// What Go writes for a time that was never set.
pub(crate) const GO_ZERO_TIME: &str = "0001-01-01T00:00:00Z";

macro_rules! wire_object {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* [$kind:ident] pub $field:ident : $type:ty => $key:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;
                #[allow(unused_mut)]
                let mut map = serializer.serialize_map(None)?;
                $( $crate::object::wire_object!(@put map, $kind, $key, &self.$field); )*
                map.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[allow(non_camel_case_types)]
                enum Key { $( $field, )* unknown_key }

                impl<'de> serde::Deserialize<'de> for Key {
                    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                        struct KeyVisitor;
                        impl serde::de::Visitor<'_> for KeyVisitor {
                            type Value = Key;
                            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                                formatter.write_str("a key")
                            }
                            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                                Ok(match text {
                                    $( $key => Key::$field, )*
                                    $( _ if text.eq_ignore_ascii_case($key) => Key::$field, )*
                                    _ => Key::unknown_key,
                                })
                            }
                        }
                        deserializer.deserialize_identifier(KeyVisitor)
                    }
                }

                struct ObjectVisitor;
                impl<'de> serde::de::Visitor<'de> for ObjectVisitor {
                    type Value = $name;
                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str(concat!("a ", stringify!($name), " object"))
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        #[allow(unused_mut)]
                        let mut object = $name::default();
                        while let Some(wire_key) = map.next_key::<Key>()? {
                            match wire_key {
                                $( Key::$field => object.$field = $crate::object::wire_object!(@get map, $kind), )*
                                Key::unknown_key => { map.next_value::<serde::de::IgnoredAny>()?; }
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(ObjectVisitor)
            }
        }
    };

    (@put $map:ident, always, $key:literal, $value:expr) => { $map.serialize_entry($key, $value)?; };
    (@put $map:ident, omit, $key:literal, $value:expr) => {
        if !$crate::object::is_empty($value) { $map.serialize_entry($key, $value)?; }
    };
    (@put $map:ident, time, $key:literal, $value:expr) => { $crate::object::wire_object!(@put $map, omit, $key, $value); };
    (@put $map:ident, always_time, $key:literal, $value:expr) => {
        $map.serialize_entry($key, &$crate::object::GoTime(*$value))?;
    };
    (@put $map:ident, patch_time, $key:literal, $value:expr) => {
        if let Some(time) = $value { $map.serialize_entry($key, &$crate::object::GoTime(*time))?; }
    };
    (@put $map:ident, key, $key:literal, $value:expr) => { $crate::object::wire_object!(@put $map, omit, $key, $value); };
    (@put $map:ident, always_key, $key:literal, $value:expr) => {
        $map.serialize_entry($key, &$value.unwrap_or_default())?;
    };
    (@put $map:ident, bytes, $key:literal, $value:expr) => {
        if !$value.is_empty() { $map.serialize_entry($key, &$crate::object::Base64($value.clone()))?; }
    };
    (@put $map:ident, always_bytes, $key:literal, $value:expr) => {
        $map.serialize_entry($key, &(!$value.is_empty()).then(|| $crate::object::Base64($value.clone())))?;
    };
    (@put $map:ident, always_text, $key:literal, $value:expr) => { $map.serialize_entry($key, $value)?; };
    (@put $map:ident, always_entries, $key:literal, $value:expr) => { $map.serialize_entry($key, $value)?; };
    (@put $map:ident, always_prefixes, $key:literal, $value:expr) => { $map.serialize_entry($key, $value)?; };
    (@put $map:ident, $kind:ident, $key:literal, $value:expr) => {
        $crate::object::wire_object!(@put $map, omit, $key, $value);
    };

    (@get $map:ident, time) => { $map.next_value::<Option<$crate::object::GoTime>>()?.and_then(|time| time.0) };
    (@get $map:ident, always_time) => { $crate::object::wire_object!(@get $map, time) };
    (@get $map:ident, patch_time) => { $map.next_value::<Option<$crate::object::GoTime>>()?.map(|time| time.0) };
    (@get $map:ident, key) => { $crate::object::unless_zero($map.next_value::<Option<_>>()?) };
    (@get $map:ident, always_key) => { $crate::object::wire_object!(@get $map, key) };
    (@get $map:ident, bytes) => {
        $map.next_value::<Option<$crate::object::Base64>>()?.map(|bytes| bytes.0).unwrap_or_default()
    };
    (@get $map:ident, always_bytes) => { $crate::object::wire_object!(@get $map, bytes) };
    (@get $map:ident, caps) => { $crate::object::lists($map.next_value()?) };
    (@get $map:ident, patch_caps) => {
        $map.next_value::<Option<_>>()?.map(|caps| $crate::object::lists(Some(caps)))
    };
    (@get $map:ident, prefixes) => {
        $map.next_value::<Option<$crate::lenient::Prefixes>>()?.map(|list| list.0).unwrap_or_default()
    };
    (@get $map:ident, always_prefixes) => { $crate::object::wire_object!(@get $map, prefixes) };
    (@get $map:ident, maybe_prefixes) => {
        $map.next_value::<Option<$crate::lenient::Prefixes>>()?.map(|list| list.0)
    };
    (@get $map:ident, endpoints) => {
        $map.next_value::<Option<$crate::lenient::Endpoints>>()?.map(|list| list.0).unwrap_or_default()
    };
    (@get $map:ident, maybe_endpoints) => {
        $map.next_value::<Option<$crate::lenient::Endpoints>>()?.map(|list| list.0)
    };
    (@get $map:ident, region) => {
        $map.next_value::<Option<$crate::RegionId>>()?.filter(|region| region.0 != 0)
    };
    (@get $map:ident, lists) => { $crate::object::lists($map.next_value()?) };
    (@get $map:ident, entries) => { $crate::object::entries($map.next_value()?) };
    (@get $map:ident, always_entries) => { $crate::object::wire_object!(@get $map, entries) };
    (@get $map:ident, text) => {
        $map.next_value::<Option<$crate::capped::Text<{ $crate::capped::LONGEST_TEXT }>>>()?
            .map(|text| text.0).unwrap_or_default()
    };
    (@get $map:ident, always_text) => { $crate::object::wire_object!(@get $map, text) };
    (@get $map:ident, few) => {
        $map.next_value::<Option<$crate::capped::Few<_>>>()?.map(|few| few.0).unwrap_or_default()
    };
    (@get $map:ident, few_texts) => {
        $map.next_value::<Option<$crate::capped::Few<$crate::capped::Text<{ $crate::capped::LONGEST_ENTRY }>>>>()?
            .map(|few| few.0.into_iter().map(|text| text.0).collect()).unwrap_or_default()
    };
    (@get $map:ident, few_prefixes) => {
        $map.next_value::<Option<$crate::capped::FewPrefixes>>()?.map(|few| few.0).unwrap_or_default()
    };
    (@get $map:ident, few_entries) => {
        $map.next_value::<Option<$crate::capped::FewEntries<_>>>()?.map(|few| few.0).unwrap_or_default()
    };
    (@get $map:ident, $kind:ident) => { $map.next_value::<Option<_>>()?.unwrap_or_default() };
}
pub(crate) use wire_object;

pub(crate) fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

type Lists<K, V> = std::collections::BTreeMap<K, Vec<V>>;
type NullableLists<K, V> = std::collections::BTreeMap<K, Option<Vec<V>>>;
type Entries<K, V> = std::collections::BTreeMap<K, V>;
type NullableEntries<K, V> = std::collections::BTreeMap<K, Option<V>>;

pub(crate) fn lists<K: Ord, V>(lists: Option<NullableLists<K, V>>) -> Lists<K, V> {
    lists.unwrap_or_default().into_iter().map(|(key, list)| (key, list.unwrap_or_default())).collect()
}

pub(crate) fn entries<K: Ord, V>(entries: Option<NullableEntries<K, V>>) -> Entries<K, V> {
    entries.unwrap_or_default().into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A public key whose all-zero value means "none" on this wire.
pub(crate) trait ZeroMeansNone: Sized {
    fn means_none(&self) -> bool;
}

macro_rules! zero_means_none {
    ($($key:ident),*) => { $( impl ZeroMeansNone for $key {
        fn means_none(&self) -> bool { self.is_zero() }
    } )* };
}
zero_means_none!(MachinePublic, NodePublic, DiscoPublic, LockPublic, ChallengePublic);

pub(crate) fn unless_zero<K: ZeroMeansNone>(key: Option<K>) -> Option<K> {
    key.filter(|key| !key.means_none())
}

/// A time as Go writes it, where year 1 stands for "never set".
#[derive(Clone, Copy)]
pub(crate) struct GoTime(pub Option<UnixTime>);

impl Serialize for GoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => time.serialize(serializer),
            None => serializer.serialize_str(GO_ZERO_TIME),
        }
    }
}

impl<'de> Deserialize<'de> for GoTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(
            "an RFC 3339 time",
            |text| UnixTime::parse_go_time(text).ok().map(GoTime),
            PhantomData,
        ))
    }
}

/// `[]byte` in Go: standard base64 with padding.
pub(crate) struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(
            "standard base64",
            |text| BASE64.decode(text).ok().map(Base64),
            PhantomData,
        ))
    }
}

struct TextVisitor<T, F: Fn(&str) -> Option<T>>(&'static str, F, PhantomData<T>);

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for TextVisitor<T, F> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self.0))
    }
}
