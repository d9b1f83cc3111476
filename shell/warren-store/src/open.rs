//! Opening: what is ours is brought up to date, anything else is refused and left as it is.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::errors::{OpenError, code, primary_code};
use crate::schema::{APPLICATION_ID, Head, MIGRATIONS, NEWEST_SCHEMA, head};
use crate::{CommitError, Store};

impl Store {
    /// Opens the database at `path`, or makes it, with its folder, readable by its owner only.
    ///
    /// Dropping the future leaves the database openable; a migration is one transaction.
    ///
    /// # Errors
    /// [`OpenError`]; the file is not changed by a refusal.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let path = path.to_owned();
        make_folder(&path)?;
        let lock = lock(&path)?;
        refuse_by_head(&path)?;
        refuse_tables_of_others(&path).await?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .create_if_missing(false);
        let sql = |error| explain(&path, error);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(sql)?;
        // Before anything is written. The head may be older than the truth, which can still lie in the log of a server
        // that was killed.
        let found = u32_of(&mut connection, "PRAGMA user_version").await.map_err(sql)?;
        refuse(&path, u32_of(&mut connection, "PRAGMA application_id").await.map_err(sql)?, found)?;
        let verdict: String = sqlx::query("PRAGMA quick_check(1)")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(sql)?;
        if verdict != "ok" {
            let detail = verdict.split_whitespace().filter(|word| *word != "***").collect::<Vec<_>>().join(" ");
            return Err(OpenError::Damaged { path, detail });
        }
        // Setting the journal mode answers with the mode, so these are queries.
        for pragma in ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL"] {
            sqlx::raw_sql(pragma).execute(&mut connection).await.map_err(sql)?;
        }
        migrate(&mut connection, found).await.map_err(sql)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(access(&path))?;
        Ok(Self { connection, path, _lock: lock })
    }

    /// Opens a database that may not grow beyond `most` pages of 4 KiB (or what it has): a quota, refused like a full
    /// disk.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with_most_pages(path: &Path, most: u32) -> Result<Self, OpenError> {
        let mut store = Self::open(path).await?;
        // PRAGMA takes no parameters. SQLite raises the limit to the present size, and 0 would mean "tell me".
        let limit = format!("PRAGMA max_page_count = {}", most.max(1));
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&mut store.connection).await;
        done.map_err(|error| explain(path, error))?;
        Ok(store)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the database still answers.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn check(&mut self) -> Result<(), CommitError> {
        sqlx::query("SELECT revision FROM server").fetch_one(&mut self.connection).await?;
        Ok(())
    }

    /// Writes the log back into the file and closes it. Dropping a store instead loses nothing; the next one reads the
    /// log.
    ///
    /// # Errors
    /// What SQLite says; the commits are safe all the same.
    pub async fn close(self) -> Result<(), CommitError> {
        Ok(self.connection.close().await?)
    }
}

fn make_folder(path: &Path) -> Result<(), OpenError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(access(folder))
}

/// Takes the lock file, and makes the database file if there is none, so that SQLite does not make it readable to all.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let open = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(access(path))
    };
    // The database first: if it cannot be opened, that is the news, not the lock.
    open(path)?;
    let lock = open(&lock_path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::Access { path: lock_path, source }),
    }
}

fn refuse_by_head(path: &Path) -> Result<(), OpenError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(100).read_to_end(&mut bytes)).map_err(access(path))?;
    match head(&bytes) {
        Head::Empty => Ok(()),
        Head::Database { application_id, schema } => refuse(path, application_id, schema),
        Head::Garbage => {
            Err(OpenError::Damaged { path: path.to_owned(), detail: "it does not begin like a database".to_owned() })
        }
    }
}

fn refuse(path: &Path, application_id: u32, schema: u32) -> Result<(), OpenError> {
    let path = path.to_owned();
    match (application_id, schema) {
        // Perhaps one whose making was interrupted; another program's has tables.
        (0, 0) => Ok(()),
        (APPLICATION_ID, found) if found > NEWEST_SCHEMA => {
            Err(OpenError::FromTheFuture { path, found, newest: NEWEST_SCHEMA })
        }
        (APPLICATION_ID, _) => Ok(()),
        _ => Err(OpenError::Foreign { path }),
    }
}

/// A database that nobody marked as theirs must be empty to become ours. Looked at without locks, log or any write.
async fn refuse_tables_of_others(path: &Path) -> Result<(), OpenError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(100).read_to_end(&mut bytes)).map_err(access(path))?;
    if !matches!(head(&bytes), Head::Database { application_id: 0, schema: 0 }) {
        return Ok(());
    }
    let sql = |error| explain(path, error);
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(sql)?;
    let objects = u32_of(&mut connection, "SELECT count(*) FROM sqlite_schema").await.map_err(sql)?;
    connection.close().await.map_err(sql)?;
    if objects > 0 { Err(OpenError::Foreign { path: path.to_owned() }) } else { Ok(()) }
}

/// Brings a database from schema `found` to ours, each step with its number in one transaction.
async fn migrate(connection: &mut SqliteConnection, found: u32) -> Result<(), sqlx::Error> {
    for (number, migration) in (1_u32..).zip(&MIGRATIONS).skip(found as usize) {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(migration.up).execute(&mut *transaction).await?;
        // PRAGMA takes no parameters; both are numbers of ours.
        let mark = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(mark)).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    if (found as usize) < MIGRATIONS.len() {
        // Into the file's head, so that an older build refuses without opening it.
        sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *connection).await?;
    }
    Ok(())
}

async fn u32_of(connection: &mut SqliteConnection, pragma: &'static str) -> Result<u32, sqlx::Error> {
    let row = sqlx::query(pragma).fetch_one(connection).await?;
    let number: i64 = row.try_get(0)?;
    Ok(number as u32)
}

fn access(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull => OpenError::DiskFull { path },
        _ => OpenError::Access { path, source },
    }
}

fn explain(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match primary_code(&error) {
        Some(code::CORRUPT | code::NOTADB) => OpenError::Damaged { path, detail: error.to_string() },
        Some(code::FULL) => OpenError::DiskFull { path },
        Some(code::PERM | code::READONLY | code::CANTOPEN) => {
            OpenError::Access { path, source: io::Error::new(io::ErrorKind::PermissionDenied, error) }
        }
        // A full disk also shows as a failed write of the log's index (its memory map cannot grow).
        Some(code::IOERR) if is_full(&path) => OpenError::DiskFull { path },
        _ => OpenError::Sql { path, source: error },
    }
}

/// Whether nothing can be written beside the database: tried, because no portable call tells.
fn is_full(path: &Path) -> bool {
    let mut name = path.as_os_str().to_owned();
    name.push(".probe");
    let probe = PathBuf::from(name);
    let written = fs::write(&probe, [1; 4096]);
    let _ = fs::remove_file(&probe); // it may not be there
    written.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
}
