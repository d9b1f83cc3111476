//! `warren policy`: questions to policy files, with or without a server.

mod check;
mod diff;
mod explain;
mod input;
mod prove;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

#[derive(Subcommand, Clone, Debug)]
pub enum PolicyCommand {
    /// Is this file a policy? Says where it is not
    Check {
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Do the tests that a policy holds pass?
    Test {
        file: PathBuf,
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        output: Output,
    },
    /// Who gains and who loses reach to what, each line with a packet
    Diff {
        /// The policy before; left out, the one that the server has in force
        #[arg(value_names = ["OLD", "NEW"], num_args = 1..=2, required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        output: Output,
    },
    /// Which rule lets a packet pass, or what the nearest rule misses
    Explain {
        /// An address, the name of a node, a person, a tag, a group
        src: String,
        /// The same, a host or a service
        dst: String,
        /// As in 22, 53/udp, icmp
        port: String,
        /// A policy file; left out, the policy that the server has in force
        #[arg(long)]
        policy: Option<PathBuf>,
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        output: Output,
    },
    /// Do statements hold for every set of nodes that a policy admits?
    Prove {
        /// One a line, as in "nothing from tag:guest reaches tag:db"
        statements: PathBuf,
        /// A policy file; left out, the policy that the server has in force
        #[arg(long)]
        policy: Option<PathBuf>,
        #[command(flatten)]
        nodes: Nodes,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub struct Nodes {
    /// People and nodes, as `warren control nodes list --json` shows them; left out, those of the running server
    #[arg(long = "nodes", value_name = "FILE")]
    nodes_file: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Success is 0; a policy that is refused, two that differ, a packet that is refused or a statement that does not hold 1.
pub fn run(command: &PolicyCommand, socket: Option<PathBuf>) -> Result<ExitCode> {
    let is_fine = match command {
        PolicyCommand::Check { file, output } => check::check(file, output)?,
        PolicyCommand::Test { file, nodes, output } => check::test(file, nodes, output, socket)?,
        PolicyCommand::Diff { files, nodes, output } => diff::run(files, nodes, output, socket)?,
        PolicyCommand::Explain { src, dst, port, policy, nodes, output } => {
            let question = explain::Question { src, dst, port };
            explain::run(&question, policy.as_deref(), nodes, output, socket)?
        }
        PolicyCommand::Prove { statements, policy, nodes, output } => {
            prove::run(statements, policy.as_deref(), nodes, output, socket)?
        }
    };
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_json(value: &impl Serialize) -> Result<()> {
    println!("{}", crate::safe::json(value)?);
    Ok(())
}
