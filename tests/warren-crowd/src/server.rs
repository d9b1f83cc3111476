//! The control server in a process of its own, and what it uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use url::Url;
use warren_api::admin::Client as Admin;
use warren_io::DialOptions;
use warren_io::control_dial::fetch_server_key;
use warren_wire::CapabilityVersion;

use crate::client::Place;

/// Ticks of the kernel's accounting in a second.
const TICKS: f64 = 100.0;

/// Until the server answers after its start.
const STARTING: Duration = Duration::from_secs(30);

/// A running server; it is killed when this is dropped.
pub struct Server {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Server {
    /// Starts `program` with its state in `folder`, on loopback.
    pub async fn start(program: &Path, folder: &Path) -> Result<Server> {
        // A port that was free a moment ago.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = std::fs::File::create(folder.join("server.log"))?;
        let child = Command::new(program)
            .args(["control", "--socket"])
            .arg(folder.join("control.sock"))
            .args(["serve", "--no-relay", "--state"])
            .arg(folder.join("state"))
            .args(["--listen", &address.to_string(), "--server-url", &format!("http://{address}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let server = Server { child, folder: folder.to_owned(), address };
        let began = std::time::Instant::now();
        while let Err(error) = server.admin().health().await {
            if began.elapsed() > STARTING {
                bail!("the control server does not answer: {error}; it said: {}", server.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    pub fn admin(&self) -> Admin {
        Admin::new(self.folder.join("control.sock"))
    }

    pub async fn place(&self) -> Result<Place> {
        place(self.address).await
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// User and system time so far, in seconds.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        // Fields 14 and 15 of proc(5); the state is the third.
        let ticks = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS
    }

    /// The most memory that it had at once, in MiB.
    pub fn peak_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default() / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// The server at `address`, with the key that it says.
pub async fn place(address: SocketAddr) -> Result<Place> {
    let url = Url::parse(&format!("http://{address}"))?;
    let version = u16::try_from(CapabilityVersion::OUR_NODE.0)?;
    let key = fetch_server_key(&url, version, &DialOptions::default()).await?;
    Ok(Place { url, key })
}
