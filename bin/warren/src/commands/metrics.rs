//! `warren metrics`: this node in numbers, for those who collect them.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use warren_api::local::Client;

use super::serve::write_whole;

#[derive(Args, Clone, Debug, Default)]
pub struct Metrics {
    #[command(subcommand)]
    command: Option<MetricsCommand>,
}

#[derive(Subcommand, Clone, Debug)]
enum MetricsCommand {
    /// Print them as Prometheus text (what `warren metrics` does)
    Print,
    /// Write them to a file, whole or not at all, for a collector that reads files
    Write { file: PathBuf },
}

pub async fn run(client: &Client, command: &Metrics) -> Result<()> {
    let text = client.user_metrics().await?;
    match &command.command {
        None | Some(MetricsCommand::Print) => print!("{}", crate::safe::lines(&text)),
        Some(MetricsCommand::Write { file }) => write_whole(file, text.as_bytes())?,
    }
    Ok(())
}
