//! Control state in SQLite: rows in, rows out, one transaction a batch. It never decides anything.
//!
//! | module | what |
//! |---|---|
//! | [`open`](Store::open) | opening or making a database, and refusing what is not ours to touch |
//! | `schema` | numbered migrations, each with a way back |
//! | `commit` | a batch of the registry in one durable transaction |
//! | `load` | the whole registry |
//! | `soft` | what nodes say about themselves, in batches, outside of any revision |
//! | `columns` | values as columns and back |
//!
//! Durability: write-ahead log with `synchronous=FULL`, so a commit that has returned survives a power cut. Every write
//! transaction is `BEGIN IMMEDIATE`. One process at a time: a lock file beside the database says so; reading it with
//! other tools is always fine.
//!
//! Laws, in `tests/`: `load(commit(staged)) == staged`; a crash at any point leaves the state before or after, never
//! between.

#![forbid(unsafe_code)]

mod columns;
mod commit;
mod errors;
mod load;
mod open;
mod schema;
mod soft;

pub use commit::OpenCommit;
pub use errors::{CommitError, LoadError, OpenError};
pub use load::AuditEntry;
pub use schema::NEWEST_SCHEMA;

/// An open database. One owner; its methods wait for the disk.
#[derive(Debug)]
pub struct Store {
    connection: sqlx::SqliteConnection,
    path: std::path::PathBuf,
    /// Held for the life of the store; the system lets go of it when the process dies.
    _lock: std::fs::File,
}
