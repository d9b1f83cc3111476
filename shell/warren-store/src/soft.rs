//! What nodes say about themselves: written in batches, outside of any revision.

use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteRow;
use warren_control::{Offered, SoftRow};
use warren_wire::{CapabilityVersion, Endpoint, EndpointKind, Hostinfo, NodeId};

use crate::columns::{Reader, json, maybe_time};
use crate::{CommitError, LoadError, Store};

impl Store {
    /// Writes a batch of soft facts in one transaction. Facts of nodes that are gone are left out.
    ///
    /// Dropping the future loses the batch or not; either is fine for facts that are said again.
    ///
    /// # Errors
    /// What SQLite says; nothing of the batch was written.
    pub async fn save_soft(&mut self, rows: &[SoftRow]) -> Result<(), CommitError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let sql = "INSERT OR REPLACE INTO soft (node_id, disco, endpoints, hostinfo, capability, last_seen, offered)
                   SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (SELECT 1 FROM nodes WHERE id = ?1)";
        for row in rows {
            let endpoints: Vec<(SocketAddr, u8)> = row.endpoints.iter().map(|e| (e.addr, e.kind.0)).collect();
            sqlx::query(sql)
                .bind(row.node.0)
                .bind(row.disco.map(|disco| disco.to_string()))
                .bind(json(&endpoints)?)
                .bind(json(&*row.hostinfo)?)
                .bind(row.capability.0)
                .bind(maybe_time(row.last_seen))
                .bind(json(&*row.offered)?)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }
}

pub(crate) fn read(row: &SqliteRow) -> Result<SoftRow, LoadError> {
    let row = Reader::new(row, "soft", "node_id")?;
    let endpoints: Vec<(SocketAddr, u8)> = row.json("endpoints")?;
    let endpoint = |(addr, kind)| Endpoint { addr, kind: EndpointKind(kind) };
    Ok(SoftRow {
        node: NodeId(row.id),
        disco: row.maybe_parsed("disco")?,
        endpoints: endpoints.into_iter().map(endpoint).collect(),
        hostinfo: Arc::new(row.json::<Hostinfo>("hostinfo")?),
        capability: CapabilityVersion(row.plain("capability")?),
        last_seen: row.maybe_time("last_seen")?,
        offered: Arc::new(row.json::<Offered>("offered")?),
    })
}
