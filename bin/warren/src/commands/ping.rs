//! `warren ping`: does a node answer, by which path, how fast, and if not directly, why not.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use warren_api::local::{Client, PingKind, PingResult};

use crate::{find, safe, words};

#[derive(Args, Clone, Debug)]
pub struct Ping {
    /// Stop at the first direct answer
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    until_direct: bool,
    /// Probe through the tunnel, answered by the peer's daemon
    #[arg(long, conflicts_with = "icmp")]
    tsmp: bool,
    /// Probe through the tunnel, answered by the peer's system
    #[arg(long)]
    icmp: bool,
    /// How many probes (0: until interrupted)
    #[arg(short = 'c', long = "c", default_value = "10", value_name = "N")]
    count: u64,
    /// How long to wait for one answer
    #[arg(long, default_value = "5s", value_parser = words::parse_duration)]
    timeout: Duration,
    /// Bytes of each probe (0: as small as it goes)
    #[arg(long, default_value = "0")]
    size: usize,
    /// Each answer as JSON
    #[arg(long)]
    json: bool,
    /// Name or address of a node
    node: String,
}

pub async fn run(client: &Client, command: &Ping) -> Result<()> {
    let status = client.status(true).await?;
    let (_, addresses) = find::peer(&status, &command.node)?;
    let wanted = command.node.parse().ok().or_else(|| addresses.first().copied());
    let Some(ip) = wanted else { bail!("{} has no address", command.node) };
    let kind = match (command.tsmp, command.icmp) {
        (true, _) => PingKind::Tsmp,
        (_, true) => PingKind::Icmp,
        _ => PingKind::Disco,
    };
    let (mut sent, mut answered, mut why) = (0, 0, String::new());
    loop {
        sent += 1;
        let probe = tokio::time::timeout(command.timeout, client.ping(ip, kind, command.size)).await;
        match probe {
            Err(_) => println!("ping \"{}\" timed out", command.node),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(result)) if result.is_local_ip => {
                println!("{ip} is local Warren IP");
                return Ok(());
            }
            Ok(Ok(result)) if !result.err.is_empty() => {
                if result.err.contains("timed out") || result.err.contains("timeout") {
                    println!("ping \"{}\" timed out", command.node);
                } else {
                    bail!("{}", result.err);
                }
            }
            Ok(Ok(result)) => {
                answered += 1;
                why.clone_from(&result.warren_why);
                show(command, &result, kind)?;
                let direct = !result.endpoint.is_empty() || kind != PingKind::Disco;
                if command.until_direct && direct && kind == PingKind::Disco {
                    return Ok(());
                }
            }
        }
        if command.count > 0 && sent >= command.count {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if answered == 0 {
        bail!("no reply");
    }
    if command.until_direct && kind == PingKind::Disco {
        let reason = if why.is_empty() { String::new() } else { format!(": {why}") };
        bail!("direct connection not established{reason}");
    }
    Ok(())
}

fn show(command: &Ping, result: &PingResult, kind: PingKind) -> Result<()> {
    if command.json {
        println!("{}", crate::safe::json_line(result)?);
        return Ok(());
    }
    let via = match kind {
        PingKind::Disco if !result.endpoint.is_empty() => result.endpoint.clone(),
        PingKind::Disco => format!("DERP({})", result.derp_region_code),
        other => other.as_str().to_string(),
    };
    let name = result.node_name.split('.').next().unwrap_or_default();
    let took = words::latency(result.latency_seconds);
    println!("pong from {} ({}) via {} in {took}", safe::line(name), result.node_ip, safe::line(&via));
    Ok(())
}
