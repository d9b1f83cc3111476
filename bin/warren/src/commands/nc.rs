//! `warren nc`: standard input and output, connected to a port of a node.

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::AsyncWriteExt;
use warren_api::local::Client;

#[derive(Args, Clone, Debug)]
pub struct Nc {
    /// Name or address of a node
    host: String,
    port: u16,
}

pub async fn run(client: &Client, command: &Nc) -> Result<()> {
    let stream = client.dial(&command.host, command.port).await?;
    let (mut from_peer, mut to_peer) = tokio::io::split(stream);
    let sending = async {
        tokio::io::copy(&mut tokio::io::stdin(), &mut to_peer).await.context("read standard input")?;
        to_peer.shutdown().await.context("close the connection")
    };
    let receiving = async {
        let mut out = tokio::io::stdout();
        tokio::io::copy(&mut from_peer, &mut out).await.context("read from the connection")?;
        out.flush().await.context("write standard output")
    };
    // The peer's end decides: what it still says after our input has ended must be shown.
    tokio::pin!(sending);
    tokio::pin!(receiving);
    tokio::select! {
        done = &mut receiving => done,
        sent = &mut sending => { sent?; receiving.await }
    }
}
