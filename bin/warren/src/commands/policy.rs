//! `warren policy`: policy files, without a server.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

#[derive(Subcommand, Clone, Debug)]
pub enum PolicyCommand {
    /// Is this file a policy? Says where it is not
    Check { file: PathBuf },
}

pub fn run(command: &PolicyCommand) -> Result<()> {
    let PolicyCommand::Check { file } = command;
    let text = std::fs::read_to_string(file).with_context(|| format!("read the policy {}", file.display()))?;
    match warren_policy::Policy::check(&file.display().to_string(), &text) {
        Ok(answer) => {
            println!("{answer}");
            Ok(())
        }
        Err(answer) => bail!("{answer}"),
    }
}
