//! A database that an earlier build wrote is brought to our schema, with what it could not know yet filled in.

use sqlx::{Connection as _, SqliteConnection};
use warren_control::UserRole;

use crate::batches::*;

/// As they were when people had no roles. Later steps do not belong here.
const SCHEMA_5: [&str; 5] = [
    include_str!("../../schema/0001_registry.up.sql"),
    include_str!("../../schema/0002_hidden_endpoints.up.sql"),
    include_str!("../../schema/0003_enrolment.up.sql"),
    include_str!("../../schema/0004_ended_by_whom.up.sql"),
    include_str!("../../schema/0005_services.up.sql"),
];

#[tokio::test]
async fn people_of_an_earlier_build_are_members_and_a_name_of_unknown_origin_is_their_own_choice() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.expect("a database");
    for step in SCHEMA_5 {
        sqlx::raw_sql(step).execute(&mut old).await.expect("a step up");
    }
    let rows = "PRAGMA application_id = 1465012814; PRAGMA user_version = 5; UPDATE server SET next_user = 9;
        INSERT INTO users VALUES (1, 'local', '1', 'ann', '', '', '', '2026-01-01T00:00:00Z'),
            (2, 'https://id.example', 'b', 'bob@example.net', '', 'Bob@example.net', '', '2026-01-01T00:00:00Z'),
            (3, 'https://id.example', 'c', 'cid', '', '', '', '2026-01-01T00:00:00Z'),
            (4, 'https://id.example', 'd', 'dan', '', 'dan@example.net', '', '2026-01-01T00:00:00Z')";
    sqlx::raw_sql(rows).execute(&mut old).await.expect("rows");
    old.close().await.expect("closed");
    let mut store = open(&path).await;
    let loaded = store.load().await.expect("a registry");
    let people: Vec<_> = loaded.users.iter().map(|user| (user.name.as_str(), user.self_named, user.role)).collect();
    let member = |name, self_named| (name, self_named, UserRole::Member);
    let expected = [member("ann", false), member("bob@example.net", false), member("cid", true), member("dan", true)];
    assert_eq!(people, expected);
    Server::on(&loaded);
}

#[tokio::test]
async fn the_database_itself_takes_no_second_owner_and_no_other_word() {
    let (_folder, path, mut server, mut store) = with_one_node().await;
    server.commit(&mut store, vec![user("bob")]).await;
    store.close().await.expect("closed");
    let mut database = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.expect("a database");
    for (sql, is_taken) in [
        ("UPDATE users SET role = 'owner' WHERE id = 1", true),
        ("UPDATE users SET role = 'owner' WHERE id = 2", false),
        ("UPDATE users SET role = 'Owner' WHERE id = 2", false),
        ("UPDATE users SET role = 'auditor' WHERE id IN (1, 2)", true),
    ] {
        assert_eq!(sqlx::raw_sql(sql).execute(&mut database).await.is_ok(), is_taken, "{sql}");
    }
}
