//! Values as columns and back. A column that cannot be read names its row.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};
use warren_control::rows::Owner;
use warren_crypto::UnixTime;

use crate::errors::LoadError;

/// One row that is being read.
pub(crate) struct Reader<'a> {
    row: &'a SqliteRow,
    table: &'static str,
    pub(crate) id: i64,
}

impl<'a> Reader<'a> {
    /// `id_column` is the row's number, which every table has.
    pub(crate) fn new(row: &'a SqliteRow, table: &'static str, id_column: &'static str) -> Result<Self, LoadError> {
        let unread = Self { row, table, id: -1 };
        Ok(Self { id: unread.plain(id_column)?, ..unread })
    }

    /// A column that SQLite itself understands.
    pub(crate) fn plain<T: Decode<'a, Sqlite> + Type<Sqlite>>(&self, column: &'static str) -> Result<T, LoadError> {
        self.row.try_get(column).map_err(|_| self.bad(column))
    }

    /// A column whose text has a form of ours.
    pub(crate) fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, LoadError> {
        self.plain::<&str>(column)?.parse().map_err(|_| self.bad(column))
    }

    /// The same, where there may be none.
    pub(crate) fn maybe_parsed<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, LoadError> {
        let text = self.plain::<Option<&str>>(column)?;
        text.map(|text| text.parse().map_err(|_| self.bad(column))).transpose()
    }

    /// A time.
    pub(crate) fn time(&self, column: &'static str) -> Result<UnixTime, LoadError> {
        self.maybe_time(column)?.ok_or_else(|| self.bad(column))
    }

    /// A time, where there may be none.
    pub(crate) fn maybe_time(&self, column: &'static str) -> Result<Option<UnixTime>, LoadError> {
        let text = self.plain::<Option<&str>>(column)?;
        text.map(|text| UnixTime::parse_rfc3339(text).map_err(|_| self.bad(column))).transpose()
    }

    /// A column of JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, LoadError> {
        serde_json::from_str(self.plain(column)?).map_err(|_| self.bad(column))
    }

    pub(crate) fn bad(&self, column: &'static str) -> LoadError {
        LoadError::Row { table: self.table, id: self.id, column }
    }
}

/// A value as JSON text.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(crate) fn time(time: UnixTime) -> String {
    time.to_rfc3339()
}

pub(crate) fn maybe_time(time: Option<UnixTime>) -> Option<String> {
    time.map(UnixTime::to_rfc3339)
}

/// Owner as (`user_id`, `tags`), one of which is null.
pub(crate) fn owner(owner: &Owner) -> Result<(Option<i64>, Option<String>), sqlx::Error> {
    Ok(match owner {
        Owner::User(user) => (Some(user.0), None),
        Owner::Tags(tags) => (None, Some(json(tags)?)),
    })
}

pub(crate) fn read_owner(reader: &Reader<'_>) -> Result<Owner, LoadError> {
    if let Some(user) = reader.plain::<Option<i64>>("user_id")? {
        return Ok(Owner::User(warren_wire::UserId(user)));
    }
    let tags: BTreeSet<String> = reader.json("tags")?;
    if tags.is_empty() { Err(reader.bad("tags")) } else { Ok(Owner::Tags(tags)) }
}
