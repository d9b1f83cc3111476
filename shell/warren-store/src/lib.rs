//! Control state in SQLite
