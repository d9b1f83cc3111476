//! A batch in one transaction: rows, revision, what changed, and the audit lines, or nothing of it.

use sqlx::{Connection as _, Row as _, Sqlite, SqliteConnection, Transaction};
use warren_control::Batch;
use warren_control::rows::{
    ApiKey, AuditLine, NameOrigin, Node, PreAuthKey, Registered, Revision, RowChange, Service, SignIn, User,
};

use crate::columns::{json, maybe_time, owner, time};
use crate::{CommitError, Store};

/// How many revisions `changes` keeps. Whoever is further behind loads everything.
const KEPT_REVISIONS: u64 = 10_000;

impl Store {
    /// Commits a batch. When this returns, it survives a power cut.
    ///
    /// Dropping the future before it returns leaves the batch either whole or absent; [`Store::load`] tells which.
    ///
    /// # Errors
    /// [`CommitError`]: nothing of the batch is in the database.
    pub async fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        if !batch.needs_commit() {
            return Ok(());
        }
        let mut open = self.begin(batch.base).await?;
        open.write(batch.revision, &batch.rows, &batch.audit).await?;
        open.finish().await
    }

    /// Begins a commit: locks the revision and holds it against what the batch was decided on.
    ///
    /// # Errors
    /// [`CommitError::Stale`], or what SQLite says.
    pub async fn begin(&mut self, base: Revision) -> Result<OpenCommit<'_>, CommitError> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query("SELECT revision FROM server WHERE id = 1").fetch_one(&mut *transaction).await?;
        let stored = Revision(row.try_get::<i64, _>(0)? as u64);
        if stored != base {
            return Err(CommitError::Stale { stored, base });
        }
        Ok(OpenCommit { transaction })
    }
}

/// A transaction that is open: dropping it undoes it.
#[derive(Debug)]
pub struct OpenCommit<'a> {
    transaction: Transaction<'a, Sqlite>,
}

impl OpenCommit<'_> {
    /// Writes rows and lines, not yet for good.
    ///
    /// # Errors
    /// What SQLite says; drop the commit then.
    pub async fn write(
        &mut self,
        revision: Revision,
        rows: &[RowChange],
        audit: &[AuditLine],
    ) -> Result<(), CommitError> {
        let connection = &mut *self.transaction;
        // Rows of one batch may trade unique values (names, say), and their order is not that of dependence: so all
        // old rows go before any new one comes, and references are looked at in the end.
        sqlx::raw_sql("PRAGMA defer_foreign_keys = ON").execute(&mut *connection).await?;
        for change in rows {
            delete(connection, change).await?;
        }
        for change in rows {
            insert(connection, change).await?;
        }
        sqlx::query("UPDATE server SET revision = ? WHERE id = 1")
            .bind(revision.0 as i64)
            .execute(&mut *connection)
            .await?;
        for change in rows {
            let (kind, id) = change.id().kind_and_number();
            sqlx::query("INSERT INTO changes (revision, kind, id) VALUES (?, ?, ?)")
                .bind(revision.0 as i64)
                .bind(kind)
                .bind(id)
                .execute(&mut *connection)
                .await?;
        }
        sqlx::query("DELETE FROM changes WHERE revision <= ?")
            .bind(revision.0.saturating_sub(KEPT_REVISIONS) as i64)
            .execute(&mut *connection)
            .await?;
        for line in audit {
            sqlx::query("INSERT INTO audit (revision, at, actor, action, target, detail) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(revision.0 as i64)
                .bind(time(line.at))
                .bind(&line.actor)
                .bind(line.action)
                .bind(&line.target)
                .bind(&line.detail)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    /// Makes it last: returns when the disk has it.
    ///
    /// # Errors
    /// What SQLite says; nothing of the batch is in the database.
    pub async fn finish(self) -> Result<(), CommitError> {
        Ok(self.transaction.commit().await?)
    }
}

async fn delete(connection: &mut SqliteConnection, change: &RowChange) -> Result<(), sqlx::Error> {
    let (sql, id) = match change {
        RowChange::PutUser(user) => ("DELETE FROM users WHERE id = ?", user.id.0),
        RowChange::DeleteUser(id) => ("DELETE FROM users WHERE id = ?", id.0),
        RowChange::PutSignIn(sign_in) => ("DELETE FROM sign_ins WHERE user_id = ?", sign_in.user.0),
        RowChange::DeleteSignIn(id) => ("DELETE FROM sign_ins WHERE user_id = ?", id.0),
        RowChange::PutNode(node) => ("DELETE FROM nodes WHERE id = ?", node.id.0),
        RowChange::DeleteNode(id) => {
            sqlx::query("DELETE FROM soft WHERE node_id = ?").bind(id.0).execute(&mut *connection).await?;
            ("DELETE FROM nodes WHERE id = ?", id.0)
        }
        RowChange::PutKey(key) => ("DELETE FROM join_keys WHERE id = ?", key.id.0),
        RowChange::DeleteKey(id) => ("DELETE FROM join_keys WHERE id = ?", id.0),
        RowChange::PutService(service) => ("DELETE FROM services WHERE id = ?", service.id.0),
        RowChange::DeleteService(id) => ("DELETE FROM services WHERE id = ?", id.0),
        RowChange::PutApiKey(key) => ("DELETE FROM api_keys WHERE id = ?", key.id.0),
        RowChange::DeleteApiKey(id) => ("DELETE FROM api_keys WHERE id = ?", id.0),
        RowChange::PutPolicy(_) => ("DELETE FROM policy WHERE id = ?", 1),
        RowChange::PutFacts(_) => return Ok(()), // updated in place
    };
    sqlx::query(sql).bind(id).execute(connection).await?;
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, change: &RowChange) -> Result<(), sqlx::Error> {
    match change {
        RowChange::PutUser(user) => insert_user(connection, user).await,
        RowChange::PutSignIn(sign_in) => insert_sign_in(connection, sign_in).await,
        RowChange::PutNode(node) => insert_node(connection, node).await,
        RowChange::PutKey(key) => insert_key(connection, key).await,
        RowChange::PutService(service) => insert_service(connection, service).await,
        RowChange::PutApiKey(key) => insert_api_key(connection, key).await,
        RowChange::PutPolicy(policy) => {
            sqlx::query("INSERT INTO policy (id, text, updated) VALUES (1, ?, ?)")
                .bind(&policy.text)
                .bind(time(policy.updated))
                .execute(connection)
                .await?;
            Ok(())
        }
        RowChange::PutFacts(facts) => {
            let sql = "UPDATE server SET next_user = ?, next_node = ?, next_key = ?, next_service = ?, next_api_key = ?
                       WHERE id = 1";
            sqlx::query(sql)
                .bind(facts.next_user)
                .bind(facts.next_node)
                .bind(facts.next_key)
                .bind(facts.next_service)
                .bind(facts.next_api_key)
                .execute(connection)
                .await?;
            Ok(())
        }
        RowChange::DeleteUser(_)
        | RowChange::DeleteSignIn(_)
        | RowChange::DeleteNode(_)
        | RowChange::DeleteKey(_)
        | RowChange::DeleteService(_)
        | RowChange::DeleteApiKey(_) => Ok(()),
    }
}

async fn insert_user(connection: &mut SqliteConnection, user: &User) -> Result<(), sqlx::Error> {
    let sql =
        "INSERT INTO users (id, issuer, subject, name, display_name, email, picture_url, created, role, self_named)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(user.id.0)
        .bind(&user.issuer)
        .bind(&user.subject)
        .bind(&user.name)
        .bind(&user.display_name)
        .bind(&user.email)
        .bind(&user.picture_url)
        .bind(time(user.created))
        .bind(user.role.as_str())
        .bind(user.self_named)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_sign_in(connection: &mut SqliteConnection, sign_in: &SignIn) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO sign_ins (user_id, groups, refresh, checked, ended) VALUES (?, ?, ?, ?, ?)")
        .bind(sign_in.user.0)
        .bind(json(&sign_in.groups)?)
        .bind(sign_in.refresh.as_ref().map(|sealed| &sealed.0[..]))
        .bind(time(sign_in.checked))
        .bind(sign_in.ended)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_node(connection: &mut SqliteConnection, node: &Node) -> Result<(), sqlx::Error> {
    let (user, tags) = owner(&node.owner)?;
    let joined_with = match node.registered {
        Registered::Key(key) => Some(key.0),
        Registered::Approved | Registered::SignIn => None,
    };
    let sql =
        "INSERT INTO nodes (id, machine_key, node_key, user_id, tags, name, name_chosen, hostname, v4, v6, created,
                                  expiry, expired, ephemeral, joined_with_key, approved_routes, hides_endpoints,
                                  signed_in, approved, kept_out, logged_out, attributes)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(node.id.0)
        .bind(node.machine_key.to_string())
        .bind(node.node_key.to_string())
        .bind(user)
        .bind(tags)
        .bind(&node.name)
        .bind(node.name_origin == NameOrigin::Chosen)
        .bind(&node.hostname)
        .bind(node.v4.map(|v4| v4.to_string()))
        .bind(node.v6.map(|v6| v6.to_string()))
        .bind(time(node.created))
        .bind(maybe_time(node.expiry))
        .bind(node.expired)
        .bind(node.ephemeral)
        .bind(joined_with)
        .bind(json(&node.approved_routes)?)
        .bind(node.hides_endpoints)
        .bind(node.registered == Registered::SignIn)
        .bind(node.approved)
        .bind(node.kept_out)
        .bind(node.logged_out)
        .bind(json(&node.attributes)?)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_key(connection: &mut SqliteConnection, key: &PreAuthKey) -> Result<(), sqlx::Error> {
    let sql =
        "INSERT INTO join_keys (id, prefix, secret_sha256, user_id, tags, reusable, ephemeral, used, created, expiry,
                                preapproved, revoked)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(key.id.0)
        .bind(&key.prefix)
        .bind(&key.secret_sha256[..])
        .bind(key.user.map(|user| user.0))
        .bind(json(&key.tags)?)
        .bind(key.reusable)
        .bind(key.ephemeral)
        .bind(key.used)
        .bind(time(key.created))
        .bind(maybe_time(key.expiry))
        .bind(key.preapproved)
        .bind(key.revoked)
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_service(connection: &mut SqliteConnection, service: &Service) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO services (id, name, v4, v6, ports, comment, tags, approved, created)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(service.id.0)
        .bind(&service.name)
        .bind(service.v4.map(|v4| v4.to_string()))
        .bind(service.v6.map(|v6| v6.to_string()))
        .bind(json(&service.ports)?)
        .bind(&service.comment)
        .bind(json(&service.tags)?)
        .bind(json(&service.approved)?)
        .bind(time(service.created))
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_api_key(connection: &mut SqliteConnection, key: &ApiKey) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO api_keys (id, prefix, secret_sha256, scopes, created, expiry, last_seen)
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(key.id.0)
        .bind(&key.prefix)
        .bind(&key.secret_sha256[..])
        .bind(json(&key.scopes)?)
        .bind(time(key.created))
        .bind(time(key.expiry))
        .bind(maybe_time(key.last_seen))
        .execute(connection)
        .await?;
    Ok(())
}
