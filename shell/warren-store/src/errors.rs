//! What can go wrong, each in one line that an operator can act on.

use std::io;
use std::path::PathBuf;

use warren_control::rows::Revision;

/// A database that was not opened. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or file cannot be read, made or written.
    #[error("control database {}: {source}", .path.display())]
    Access {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A later Warren wrote it.
    #[error("control database {} has schema {found}; this build knows up to {newest}. Use the newer build", .path.display())]
    FromTheFuture {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        newest: u32,
    },
    /// An SQLite database of another program.
    #[error("{} is a database, but not a Warren control database; it was left alone", .path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// Not a database, or a damaged one.
    #[error("control database {} is damaged ({detail}); put it aside and restore a copy", .path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has it.
    #[error("control database {} is in use by another control server", .path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// Nothing more fits on the disk.
    #[error("control database {}: the disk is full", .path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error("control database {}: {source}", .path.display())]
    Sql {
        /// The database.
        path: PathBuf,
        /// What it says.
        #[source]
        source: sqlx::Error,
    },
}

/// A batch that was not committed: nothing of it is in the database.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It was decided on another revision than the database has.
    #[error("the database has revision {}, the batch was decided on {}", .stored.0, .base.0)]
    Stale {
        /// In the database.
        stored: Revision,
        /// Of the batch.
        base: Revision,
    },
    /// Nothing more fits on the disk.
    #[error("the disk of the control database is full")]
    DiskFull,
    /// Anything else that SQLite says.
    #[error("write to the control database")]
    Sql(#[source] sqlx::Error),
}

/// A registry that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A row that no Warren wrote.
    #[error("control database: row {id} of {table} has no usable {column}")]
    Row {
        /// The table.
        table: &'static str,
        /// The row.
        id: i64,
        /// The column.
        column: &'static str,
    },
    /// The pages themselves.
    #[error("control database is damaged ({0}); restore a copy")]
    Damaged(String),
    /// Anything else that SQLite says.
    #[error("read the control database")]
    Sql(#[source] sqlx::Error),
}

/// SQLite's primary result codes that mean something to us (sqlite.org/rescode.html).
pub(crate) mod code {
    pub(crate) const PERM: u32 = 3;
    pub(crate) const READONLY: u32 = 8;
    pub(crate) const IOERR: u32 = 10;
    pub(crate) const CORRUPT: u32 = 11;
    pub(crate) const FULL: u32 = 13;
    pub(crate) const CANTOPEN: u32 = 14;
    pub(crate) const NOTADB: u32 = 26;
}

/// The primary result code behind an error, if SQLite gave one.
pub(crate) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let extended: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

impl From<sqlx::Error> for CommitError {
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(code::FULL) => Self::DiskFull,
            _ => Self::Sql(error),
        }
    }
}

impl From<sqlx::Error> for LoadError {
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(code::CORRUPT | code::NOTADB) => Self::Damaged(error.to_string()),
            _ => Self::Sql(error),
        }
    }
}
