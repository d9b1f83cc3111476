//! Numbers and names that identify things, one type each.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

number_id!(
    /// A node's number at its control server: positive, at most 2^53 − 1, stable for the life of the record.
    NodeId(i64)
);
number_id!(
    /// A user's number at its control server.
    UserId(i64)
);
number_id!(
    /// A login identity's number at its control server.
    LoginId(i64)
);
number_id!(
    /// A relay region, 1 and up; 0 means "none" on the wire and is `Option::None` here. 900–999 are set aside for private regions.
    RegionId(u32)
);

impl UserId {
    /// The owner that tagged nodes show.
    pub const TAGGED_DEVICES: UserId = UserId(2_147_455_555);
}

/// An opaque, never reused name of a node's record.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StableId(pub String);

impl fmt::Display for StableId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
