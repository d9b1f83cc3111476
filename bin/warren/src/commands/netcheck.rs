//! `warren netcheck`: what the network around this machine allows, measured by the daemon on the sockets that carry the traffic.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use warren_api::local::{Client, NetcheckReport};

use crate::words;

#[derive(Args, Clone, Debug, Default)]
pub struct Netcheck {
    /// Empty for people; json or json-line for programs
    #[arg(long, default_value = "", value_parser = ["", "json", "json-line"])]
    format: String,
    /// Same as --format=json
    #[arg(long)]
    json: bool,
}

pub async fn run(client: &Client, command: &Netcheck) -> Result<()> {
    let report = client.netcheck().await?;
    if command.json || command.format == "json" {
        println!("{}", crate::safe::json(&report)?);
        return Ok(());
    }
    if command.format == "json-line" {
        println!("{}", crate::safe::json_line(&report)?);
        return Ok(());
    }
    let regions = client.derp_map().await?.map(|map| {
        let named = map
            .regions
            .iter()
            .map(|(id, region)| (id.0.to_string(), (region.region_code.clone(), region.region_name.clone())));
        named.collect::<BTreeMap<_, _>>()
    });
    print!("{}", crate::safe::lines(&render(&report, &regions.unwrap_or_default())));
    Ok(())
}

fn render(report: &NetcheckReport, regions: &BTreeMap<String, (String, String)>) -> String {
    let mut lines = vec![format!("Time: {}", report.now), format!("UDP: {}", report.udp)];
    let address = |works: bool, seen: &str| match (works, seen) {
        (true, "") => "(no addr found)".to_string(),
        (true, seen) => format!("yes, {seen}"),
        (false, _) => "no".to_string(),
    };
    lines.push(format!("IPv4: {}", address(report.ipv4, &report.global_v4)));
    lines.push(match (report.ipv6, report.os_has_ipv6) {
        (false, true) => "IPv6: no, but OS has support".into(),
        (false, false) => "IPv6: no, unavailable in OS".into(),
        _ => format!("IPv6: {}", address(true, &report.global_v6)),
    });
    let varies =
        report.mapping_varies_by_dest_ip.map_or("unknown (needs two relays with STUN)".into(), |v| v.to_string());
    lines.push(format!("MappingVariesByDestIP: {varies}"));
    lines.push("PortMapping: not built yet".into());
    let home = report.preferred_derp.to_string();
    let nearest = regions.get(&home).map(|(_, name)| name.clone());
    lines
        .push(format!("Nearest DERP: {}", nearest.unwrap_or_else(|| "unknown (no response to latency probes)".into())));
    lines.push("DERP latency:".into());
    let mut text = String::from("\nReport:\n");
    for line in lines {
        text.push_str(&format!("\t* {line}\n"));
    }
    let mut latencies: Vec<(&String, &i64)> = report.region_latency.iter().collect();
    latencies.sort_by_key(|(_, nanoseconds)| **nanoseconds);
    for (id, nanoseconds) in latencies {
        let (code, name) = regions.get(id).cloned().unwrap_or_else(|| (id.clone(), String::new()));
        text.push_str(&format!("\t\t- {code}: {:<8} ({name})\n", words::latency(*nanoseconds as f64 / 1e9)));
    }
    text
}
