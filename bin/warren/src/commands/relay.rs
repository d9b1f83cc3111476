//! `warren relay serve`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tokio::sync::watch;
use tracing::info;
use warren_relayd::config::{Config, Overrides};
use warren_wire::{RegionId, RelayMap, RelayNode, RelayRegion};

use super::serve::{make_folder, usual_file, worker_threads, write_whole};
use crate::{life, places};

/// Runs a relay.
#[derive(Args, Clone, Debug)]
pub struct RelayServe {
    /// Configuration file (/etc/warren/relay.toml if it is there)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of its key and certificate
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where to listen (TLS), [::]:443
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// UDP port of STUN, 3478; 0 for none
    #[arg(long, value_name = "PORT")]
    stun: Option<u16>,
    /// Number of its region in the relay map, 900 to 999
    #[arg(long, value_name = "NUMBER")]
    region: Option<u32>,
    /// Name or address at which nodes reach it
    #[arg(long, value_name = "HOST")]
    hostname: Option<String>,
    /// Ask this address of a control server whom to serve (https://server/verify)
    #[arg(long, value_name = "URL")]
    verify_client_url: Option<String>,
    /// Serve everybody who finds it
    #[arg(long, conflicts_with = "verify_client_url")]
    open: bool,
    /// Certificate chain (PEM); without one a self-made certificate is used, which the relay map pins
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Get a certificate for the hostname by ACME
    #[arg(long, conflicts_with = "tls_certificate")]
    acme: bool,
}

impl RelayServe {
    fn overrides(&self) -> Overrides {
        Overrides {
            hostname: self.hostname.clone(),
            listen: self.listen,
            stun_port: self.stun,
            state_dir: self.state.clone(),
            region: self.region,
            verify_client_url: self.verify_client_url.clone(),
            open: self.open.then_some(true),
            tls_certificate: self.tls_certificate.clone(),
            tls_key: self.tls_key.clone(),
            acme: self.acme.then_some(true),
            ..Overrides::default()
        }
    }
}

/// `warren relay serve`.
pub fn relay(command: RelayServe) -> Result<()> {
    life::enter("info")?;
    let file = command.config.clone().or_else(|| usual_file("relay"));
    let variable = |name: &str| std::env::var(name).ok();
    let config = Config::load(file.as_deref(), variable, command.overrides(), &places::state_dir("relay"))?;
    make_folder(&config.relay.state)?;
    life::run(worker_threads(), |shutdown| serve(config, shutdown))
}

async fn serve(config: Config, shutdown: watch::Receiver<bool>) -> Result<()> {
    let file = config.relay.state.join("relay-map.json");
    let prepared = warren_relayd::prepare(config.relay.clone()).await?;
    let pin = prepared.pin().map(|pin| format!("sha256-raw:{}", hex::encode(pin)));
    let map = describe(&config, prepared.address()?.port(), pin);
    write_whole(&file, &serde_json::to_vec_pretty(&map)?)?;
    info!(listen = %prepared.address()?, relay = %prepared.public(), map = %file.display(), "the relay is ready");
    prepared.run(shutdown).await;
    Ok(())
}

/// The relay's entry for a control server's relay map.
fn describe(config: &Config, port: u16, pin: Option<String>) -> RelayMap {
    let host = config.hostname.clone();
    let literal: Option<IpAddr> = host.parse().ok();
    let family = |is_v4: bool| match literal {
        Some(address) if address.is_ipv4() == is_v4 => address.to_string(),
        Some(_) => "none".to_owned(),
        None => String::new(),
    };
    let region = RegionId(config.region);
    let node = RelayNode {
        name: format!("{region}a"),
        region_id: region,
        host_name: host.clone(),
        cert_name: pin.unwrap_or_default(),
        ipv4: family(true),
        ipv6: family(false),
        stun_port_raw: config.relay.stun.map_or(-1, |stun| i32::from(stun.port())),
        derp_port_raw: i32::from(port),
        can_port_80: config.relay.http_listen.is_some_and(|listen| listen.port() == 80),
        ..RelayNode::default()
    };
    let described = RelayRegion {
        region_id: region,
        region_code: format!("relay{region}"),
        region_name: host,
        nodes: vec![node],
        ..RelayRegion::default()
    };
    RelayMap { regions: BTreeMap::from([(region, described)]), ..RelayMap::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        relay: RelayServe,
    }

    fn config(line: &str) -> Result<Config> {
        let line = Line::try_parse_from(line.split(' '))?;
        Ok(Config::new(line.relay.overrides(), std::path::Path::new("/state"))?)
    }

    fn map_of(line: &str) -> RelayMap {
        describe(&config(line).expect("a good line"), 3443, Some("sha256-raw:00".into()))
    }

    #[test]
    fn a_relay_at_a_literal_address_names_one_family_and_its_certificate() {
        let map = map_of("relay --hostname 192.0.2.7 --region 901 --open --stun 0");
        let node = &map.regions[&RegionId(901)].nodes[0];
        assert_eq!(
            (node.ipv4.as_str(), node.ipv6.as_str(), node.cert_name.as_str()),
            ("192.0.2.7", "none", "sha256-raw:00")
        );
        assert_eq!((node.derp_port(), node.stun_port()), (3443, None));
        let map = map_of("relay --hostname relay.example.net --open");
        let node = &map.regions[&RegionId(900)].nodes[0];
        assert_eq!((node.ipv4.as_str(), node.ipv6.as_str(), node.stun_port()), ("", "", Some(3478)));
    }

    #[test]
    fn whom_a_relay_serves_is_said_and_never_assumed() {
        assert!(config("relay --hostname x").is_err());
        assert!(config("relay --hostname x --open --verify-client-url http://y").is_err());
        assert!(config("relay --hostname x --verify-client-url http://y").is_ok());
    }
}
