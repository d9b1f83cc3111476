//! The numbered migrations. Which one a database has reached is its `user_version`; that it is ours, its
//! `application_id`. Both lie in the file's first 100 bytes, where they can be read without opening it.

/// One step, and the way back.
pub(crate) struct Migration {
    pub(crate) up: &'static str,
    /// Run by hand by an operator who goes back to an older build; tested to undo `up`.
    #[cfg_attr(not(test), expect(dead_code, reason = "for operators and the test that holds both ways together"))]
    pub(crate) down: &'static str,
}

/// All steps in order; the first makes schema 1.
pub(crate) const MIGRATIONS: [Migration; 8] = [
    Migration {
        up: include_str!("../schema/0001_registry.up.sql"),
        down: include_str!("../schema/0001_registry.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0002_hidden_endpoints.up.sql"),
        down: include_str!("../schema/0002_hidden_endpoints.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0003_enrolment.up.sql"),
        down: include_str!("../schema/0003_enrolment.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0004_ended_by_whom.up.sql"),
        down: include_str!("../schema/0004_ended_by_whom.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0005_services.up.sql"),
        down: include_str!("../schema/0005_services.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0006_people.up.sql"),
        down: include_str!("../schema/0006_people.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0007_attributes.up.sql"),
        down: include_str!("../schema/0007_attributes.down.sql"),
    },
    Migration {
        up: include_str!("../schema/0008_api_keys.up.sql"),
        down: include_str!("../schema/0008_api_keys.down.sql"),
    },
];

/// The schema that this build writes.
pub const NEWEST_SCHEMA: u32 = MIGRATIONS.len() as u32;

/// `WRRN` in ASCII: whose file it is.
pub(crate) const APPLICATION_ID: u32 = 0x5752_524e;

/// What the head of a file says, without SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Nothing in it yet.
    Empty,
    /// An SQLite database.
    Database { application_id: u32, schema: u32 },
    /// Something else.
    Garbage,
}

/// Reads the head of a file: `bytes` are its first 100, or all if it has fewer. sqlite.org/fileformat2.html §1.3.
pub(crate) fn head(bytes: &[u8]) -> Head {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes);
    match (bytes.is_empty(), bytes.starts_with(b"SQLite format 3\0"), word(60), word(68)) {
        (true, ..) => Head::Empty,
        (_, true, Some(schema), Some(application_id)) if bytes.len() >= 100 => {
            Head::Database { application_id, schema }
        }
        _ => Head::Garbage,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, Row as _, SqliteConnection};

    use super::*;

    async fn objects(connection: &mut SqliteConnection) -> Vec<(String, String)> {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
        let rows = sqlx::query(sql).fetch_all(connection).await.expect("the schema");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn memory() -> SqliteConnection {
        SqliteConnection::connect("sqlite::memory:").await.expect("a database in memory")
    }

    #[tokio::test]
    async fn all_migrations_together_make_the_full_schema() {
        let (mut stepped, mut whole) = (memory().await, memory().await);
        for migration in &MIGRATIONS {
            sqlx::raw_sql(migration.up).execute(&mut stepped).await.expect("a step up");
        }
        sqlx::raw_sql(include_str!("../schema/full.sql")).execute(&mut whole).await.expect("the full schema");
        assert_eq!(objects(&mut stepped).await, objects(&mut whole).await);
    }

    #[tokio::test]
    async fn every_migration_has_a_way_back() {
        let mut database = memory().await;
        let mut states = vec![objects(&mut database).await];
        for migration in &MIGRATIONS {
            sqlx::raw_sql(migration.up).execute(&mut database).await.expect("a step up");
            states.push(objects(&mut database).await);
        }
        for migration in MIGRATIONS.iter().rev() {
            states.pop();
            sqlx::raw_sql(migration.down).execute(&mut database).await.expect("a step down");
            assert_eq!(Some(&objects(&mut database).await), states.last());
        }
    }

    #[test]
    fn a_head_is_told_from_garbage() {
        assert_eq!(head(b""), Head::Empty);
        assert_eq!(head(b"SQLite format 3\0"), Head::Garbage);
        assert_eq!(head(&[7; 200]), Head::Garbage);
        let mut bytes = [0; 100];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[63] = 9;
        bytes[68..72].copy_from_slice(&APPLICATION_ID.to_be_bytes());
        assert_eq!(head(&bytes), Head::Database { application_id: APPLICATION_ID, schema: 9 });
    }
}
