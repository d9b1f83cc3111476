//! The whole registry, and what operators ask of its past.

use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _};
use warren_control::rows::{
    ApiKey, ApiKeyId, KeyId, NameOrigin, Node, PolicyRow, PreAuthKey, Registered, Revision, Sealed, ServerFacts,
    Service, ServiceId, SignIn, User,
};
use warren_control::{Rows, SoftRow};
use warren_wire::{NodeId, StableId, UserId};

use crate::columns::{Reader, read_owner};
use crate::{LoadError, Store, soft};

/// One line of the audit table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Growing.
    pub id: i64,
    /// The revision that it was committed with.
    pub revision: Revision,
    /// RFC 3339.
    pub at: String,
    /// Who asked, and by which door.
    pub actor: String,
    /// What was asked.
    pub action: String,
    /// On what.
    pub target: String,
    /// With what.
    pub detail: String,
}

impl Store {
    /// Everything, as of one moment.
    ///
    /// # Errors
    /// [`LoadError`]: a row that no Warren wrote, or what SQLite says.
    pub async fn load(&mut self) -> Result<Rows, LoadError> {
        let mut transaction = self.connection.begin().await?;
        let connection = &mut *transaction;
        let server = sqlx::query("SELECT * FROM server WHERE id = 1").fetch_one(&mut *connection).await?;
        let server = Reader::new(&server, "server", "id")?;
        let facts = ServerFacts {
            next_user: server.plain("next_user")?,
            next_node: server.plain("next_node")?,
            next_key: server.plain("next_key")?,
            next_service: server.plain("next_service")?,
            next_api_key: server.plain("next_api_key")?,
        };
        let revision = Revision(server.plain::<i64>("revision")? as u64);
        let users = sqlx::query("SELECT * FROM users ORDER BY id").fetch_all(&mut *connection).await?;
        let sign_ins = sqlx::query("SELECT * FROM sign_ins ORDER BY user_id").fetch_all(&mut *connection).await?;
        let nodes = sqlx::query("SELECT * FROM nodes ORDER BY id").fetch_all(&mut *connection).await?;
        let keys = sqlx::query("SELECT * FROM join_keys ORDER BY id").fetch_all(&mut *connection).await?;
        let services = sqlx::query("SELECT * FROM services ORDER BY id").fetch_all(&mut *connection).await?;
        let api_keys = sqlx::query("SELECT * FROM api_keys ORDER BY id").fetch_all(&mut *connection).await?;
        let policy = sqlx::query("SELECT * FROM policy").fetch_optional(&mut *connection).await?;
        let soft = sqlx::query("SELECT * FROM soft ORDER BY node_id").fetch_all(&mut *connection).await?;
        transaction.commit().await?;
        Ok(Rows {
            revision,
            users: users.iter().map(user).collect::<Result<_, _>>()?,
            sign_ins: sign_ins.iter().map(sign_in).collect::<Result<_, _>>()?,
            nodes: nodes.iter().map(node).collect::<Result<_, _>>()?,
            keys: keys.iter().map(key).collect::<Result<_, _>>()?,
            services: services.iter().map(service).collect::<Result<_, _>>()?,
            api_keys: api_keys.iter().map(api_key).collect::<Result<_, _>>()?,
            policy: policy.as_ref().map(policy_row).transpose()?,
            facts,
            soft: soft.iter().filter_map(readable).collect(),
        })
    }

    /// The last `most` audit lines, newest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn audit(&mut self, most: u32) -> Result<Vec<AuditEntry>, LoadError> {
        let rows = sqlx::query("SELECT * FROM audit ORDER BY id DESC LIMIT ?")
            .bind(most)
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter().map(audit_entry).collect()
    }

    /// The rows that changed after `since`, as (kind, id) without repeats; `None` if that is too long ago to tell.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn changes_since(&mut self, since: Revision) -> Result<Option<Vec<(String, i64)>>, LoadError> {
        let mut transaction = self.connection.begin().await?;
        let sql = "SELECT (SELECT revision FROM server), (SELECT min(revision) FROM changes)";
        let row = sqlx::query(sql).fetch_one(&mut *transaction).await?;
        let (present, oldest): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        let is_known = since.0 as i64 >= present || oldest.is_some_and(|oldest| since.0 as i64 + 1 >= oldest);
        if !is_known {
            return Ok(None);
        }
        let rows = sqlx::query("SELECT DISTINCT kind, id FROM changes WHERE revision > ? ORDER BY kind, id")
            .bind(since.0 as i64)
            .fetch_all(&mut *transaction)
            .await?;
        let changed = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        Ok(Some(changed.collect::<Result<_, sqlx::Error>>()?))
    }
}

/// What a node said about itself; it says most of it again, so a row that cannot be read is no reason not to start.
fn readable(row: &SqliteRow) -> Option<SoftRow> {
    soft::read(row).inspect_err(|error| tracing::warn!(%error, "what a node said last is passed over")).ok()
}

fn user(row: &SqliteRow) -> Result<Arc<User>, LoadError> {
    let row = Reader::new(row, "users", "id")?;
    Ok(Arc::new(User {
        id: UserId(row.id),
        issuer: row.plain("issuer")?,
        subject: row.plain("subject")?,
        name: row.plain("name")?,
        self_named: row.plain("self_named")?,
        role: row.parsed("role")?,
        display_name: row.plain("display_name")?,
        email: row.plain("email")?,
        picture_url: row.plain("picture_url")?,
        created: row.time("created")?,
    }))
}

fn sign_in(row: &SqliteRow) -> Result<Arc<SignIn>, LoadError> {
    let row = Reader::new(row, "sign_ins", "user_id")?;
    Ok(Arc::new(SignIn {
        user: UserId(row.id),
        groups: row.json("groups")?,
        refresh: row.plain::<Option<Vec<u8>>>("refresh")?.map(Sealed),
        checked: row.time("checked")?,
        ended: row.plain("ended")?,
    }))
}

fn node(row: &SqliteRow) -> Result<Arc<Node>, LoadError> {
    let row = Reader::new(row, "nodes", "id")?;
    let name_origin = if row.plain("name_chosen")? { NameOrigin::Chosen } else { NameOrigin::Hostname };
    let registered = match (row.plain("joined_with_key")?, row.plain("signed_in")?) {
        (Some(key), false) => Registered::Key(KeyId(key)),
        (None, true) => Registered::SignIn,
        (None, false) => Registered::Approved,
        (Some(_), true) => return Err(row.bad("signed_in")),
    };
    Ok(Arc::new(Node {
        id: NodeId(row.id),
        stable_id: StableId(row.id.to_string()),
        machine_key: row.parsed("machine_key")?,
        node_key: row.parsed("node_key")?,
        owner: read_owner(&row)?,
        name: row.plain("name")?,
        name_origin,
        hostname: row.plain("hostname")?,
        v4: row.maybe_parsed("v4")?,
        v6: row.maybe_parsed("v6")?,
        created: row.time("created")?,
        expiry: row.maybe_time("expiry")?,
        expired: row.plain("expired")?,
        logged_out: row.plain("logged_out")?,
        ephemeral: row.plain("ephemeral")?,
        registered,
        approved: row.plain("approved")?,
        kept_out: row.plain("kept_out")?,
        approved_routes: row.json("approved_routes")?,
        hides_endpoints: row.plain("hides_endpoints")?,
        attributes: row.json("attributes")?,
    }))
}

fn key(row: &SqliteRow) -> Result<Arc<PreAuthKey>, LoadError> {
    let row = Reader::new(row, "join_keys", "id")?;
    let secret: &[u8] = row.plain("secret_sha256")?;
    Ok(Arc::new(PreAuthKey {
        id: KeyId(row.id),
        prefix: row.plain("prefix")?,
        secret_sha256: secret.try_into().map_err(|_| row.bad("secret_sha256"))?,
        user: row.plain::<Option<i64>>("user_id")?.map(UserId),
        tags: row.json("tags")?,
        reusable: row.plain("reusable")?,
        ephemeral: row.plain("ephemeral")?,
        preapproved: row.plain("preapproved")?,
        used: row.plain("used")?,
        revoked: row.plain("revoked")?,
        created: row.time("created")?,
        expiry: row.maybe_time("expiry")?,
    }))
}

fn service(row: &SqliteRow) -> Result<Arc<Service>, LoadError> {
    let row = Reader::new(row, "services", "id")?;
    Ok(Arc::new(Service {
        id: ServiceId(row.id),
        name: row.plain("name")?,
        v4: row.maybe_parsed("v4")?,
        v6: row.maybe_parsed("v6")?,
        ports: row.json("ports")?,
        comment: row.plain("comment")?,
        tags: row.json("tags")?,
        approved: row.json("approved")?,
        created: row.time("created")?,
    }))
}

fn api_key(row: &SqliteRow) -> Result<Arc<ApiKey>, LoadError> {
    let row = Reader::new(row, "api_keys", "id")?;
    let secret: &[u8] = row.plain("secret_sha256")?;
    Ok(Arc::new(ApiKey {
        id: ApiKeyId(row.id),
        prefix: row.plain("prefix")?,
        secret_sha256: secret.try_into().map_err(|_| row.bad("secret_sha256"))?,
        scopes: row.json("scopes")?,
        created: row.time("created")?,
        expiry: row.time("expiry")?,
        last_seen: row.maybe_time("last_seen")?,
    }))
}

fn policy_row(row: &SqliteRow) -> Result<Arc<PolicyRow>, LoadError> {
    let row = Reader::new(row, "policy", "id")?;
    Ok(Arc::new(PolicyRow { text: row.plain("text")?, updated: row.time("updated")? }))
}

fn audit_entry(row: &SqliteRow) -> Result<AuditEntry, LoadError> {
    let row = Reader::new(row, "audit", "id")?;
    Ok(AuditEntry {
        id: row.id,
        revision: Revision(row.plain::<i64>("revision")? as u64),
        at: row.plain("at")?,
        actor: row.plain("actor")?,
        action: row.plain("action")?,
        target: row.plain("target")?,
        detail: row.plain("detail")?,
    })
}
