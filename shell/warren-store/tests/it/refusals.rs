//! What is not ours, or not for us, is refused in one clear line and left as it is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};
use warren_store::{CommitError, NEWEST_SCHEMA, OpenError, Store};

use crate::batches::*;

async fn run_sql(path: &Path, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("a database");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect("SQL");
    connection.close().await.expect("closed");
}

/// Opening is refused with `line` in its one-line text, and the file stays as it was.
async fn check(path: &Path, line: &str) -> OpenError {
    let before = std::fs::read(path).ok();
    let error = Store::open(path).await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains(line) && !text.contains('\n'), "{text}");
    assert!(text.contains(&path.display().to_string()) || line == "Permission denied", "{text}");
    assert_eq!(std::fs::read(path).ok(), before, "untouched");
    error
}

#[tokio::test]
async fn a_newer_schema_is_refused_untouched() {
    let (_folder, path, _server, store) = with_one_node().await;
    store.close().await.expect("closed");
    run_sql(&path, "PRAGMA user_version = 99").await;
    let error = check(&path, "has schema 99; this build knows up to").await;
    assert!(matches!(error, OpenError::FromTheFuture { found: 99, newest: NEWEST_SCHEMA, .. }));
}

#[tokio::test]
async fn what_a_node_said_and_nobody_can_read_does_not_keep_the_server_from_starting() {
    let (_folder, path, _server, store) = with_one_node().await;
    store.close().await.expect("closed");
    run_sql(&path, "INSERT INTO soft VALUES (1, 'nonsense', '[', '{}', -1, 'yesterday', '?')").await;
    let mut store = Store::open(&path).await.expect("opened");
    let rows = store.load().await.expect("loaded");
    assert!(rows.nodes.len() == 1 && rows.soft.is_empty());
}

#[tokio::test]
async fn a_newer_schema_that_still_lies_in_the_log_is_refused_too() {
    let (folder, path, _server, store) = with_one_node().await;
    store.close().await.expect("closed");
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.expect("a database");
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&mut connection).await.expect("SQL");
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).expect("copied");
    std::fs::copy(path.with_extension("db-wal"), folder.path().join("copy.db-wal")).expect("copied");
    let error = Store::open(&copy).await.expect_err("refused");
    assert!(matches!(error, OpenError::FromTheFuture { found: 99, .. }), "{error}");
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_untouched() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = folder.path().join("plain.db");
    run_sql(&plain, "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine')").await;
    assert!(matches!(check(&plain, "not a Warren control database").await, OpenError::Foreign { .. }));
    let marked = folder.path().join("marked.db");
    run_sql(&marked, "PRAGMA application_id = 77; PRAGMA user_version = 1").await;
    assert!(matches!(check(&marked, "not a Warren control database").await, OpenError::Foreign { .. }));
}

#[tokio::test]
async fn garbage_and_damage_are_refused_untouched() {
    let folder = tempfile::tempdir().expect("a folder");
    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, "not a database at all, but a letter to my aunt".repeat(100)).expect("written");
    assert!(matches!(check(&garbage, "is damaged").await, OpenError::Damaged { .. }));

    let (_folder, path, mut server, mut store) = with_one_node().await;
    for name in ["bob", "cid"] {
        server.commit(&mut store, vec![user(name)]).await;
    }
    store.close().await.expect("closed");
    let whole = std::fs::read(&path).expect("the file");
    // From the second page on: the head is right, the trees are not.
    let mut damaged = whole.clone();
    damaged[4096..].fill(0xa5);
    std::fs::write(&path, damaged).expect("written");
    assert!(matches!(check(&path, "is damaged").await, OpenError::Damaged { .. }));
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    assert!(matches!(check(&path, "is damaged").await, OpenError::Damaged { .. }));
}

#[tokio::test]
async fn a_second_server_is_refused() {
    let (_folder, path, _server, store) = with_one_node().await;
    assert!(matches!(check(&path, "in use by another control server").await, OpenError::InUse { .. }));
    drop(store);
    open(&path).await;
}

#[tokio::test]
async fn a_folder_that_is_a_file_or_missing_rights_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    let error = Store::open(&file.join("control.db")).await.expect_err("refused");
    assert!(matches!(error, OpenError::Access { .. }), "{error}");
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).expect("made");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("closed");
    // Root may read everything; then there is nothing to refuse, and the end-to-end tests try it as somebody else.
    if std::fs::read_dir(&closed).is_err() {
        let error = Store::open(&closed.join("control.db")).await.expect_err("refused");
        assert!(error.to_string().contains("denied"), "{error}");
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).expect("opened");
}

#[tokio::test]
async fn files_are_their_owners_only() {
    let (_folder, path, mut server, mut store) = with_one_node().await;
    server.commit(&mut store, vec![user("bob")]).await;
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let folder = path.parent().expect("a folder");
    assert_eq!(mode(folder), 0o700);
    for file in std::fs::read_dir(folder).expect("files") {
        let file = file.expect("a file").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn making_a_database_that_was_interrupted_is_made_good() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.db");
    run_sql(&path, "PRAGMA journal_mode = WAL").await;
    assert!(std::fs::metadata(&path).expect("a file").len() > 0);
    assert!(open(&path).await.load().await.expect("a registry").nodes.is_empty());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let (_folder, path, _server, store) = with_one_node().await;
    store.close().await.expect("closed");
    run_sql(&path, "UPDATE nodes SET node_key = 'nodekey:zz'").await;
    let error = open(&path).await.load().await.expect_err("refused").to_string();
    assert_eq!(error, "control database: row 1 of nodes has no usable node_key");
}

/// `/dev/shm` aside, a small file system needs rights; a limit of pages gives the same refusal from SQLite.
#[tokio::test]
async fn a_full_disk_refuses_the_batch_and_keeps_what_was() {
    let (_folder, path, mut server, store) = with_one_node().await;
    store.close().await.expect("closed");
    let mut store = Store::open_with_most_pages(&path, 0).await.expect("opened");
    let before = store.load().await.expect("a registry");
    let (_, batch) = server.decide((0..400).map(|n| user(&format!("user{n}"))).collect());
    let refused = store.commit(&batch).await;
    assert!(matches!(refused, Err(CommitError::DiskFull)), "{refused:?}");
    assert_eq!(store.load().await.expect("a registry"), before);
    drop(store);
    let mut store = open(&path).await;
    store.commit(&batch).await.expect("there is room again");
}
