//! Operating a server that is elsewhere: its address, and a key that is never a word of the command line.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use url::{Host, Url};
use warren_api::admin::{Client, Exchange};
use warren_io::exchange::exchange;

/// Far more than a key with its line feed.
const LONGEST: u64 = 4096;

#[derive(Args, Clone, Debug, Default)]
pub struct Remote {
    /// Operate the server at this address with an API key (from --api-key-file, or WARREN_API_KEY)
    #[arg(long, global = true, value_name = "URL")]
    server: Option<Url>,
    /// A file with nothing but the API key
    #[arg(long, global = true, value_name = "FILE", requires = "server")]
    api_key_file: Option<PathBuf>,
}

impl Remote {
    /// Whether anything was said.
    pub fn is_said(&self) -> bool {
        self.server.is_some() || self.api_key_file.is_some()
    }

    /// A client of the server that was named; `None` if none was. `variable` is what WARREN_API_KEY says.
    pub fn client(&self, variable: Option<String>) -> Result<Option<Client>> {
        let Some(server) = &self.server else { return Ok(None) };
        check(server)?;
        let key = match &self.api_key_file {
            Some(path) => read(path)?,
            None => variable.context("which API key? Name --api-key-file, or set WARREN_API_KEY")?,
        };
        let ask: Exchange = Arc::new(|request, cap, deadline| {
            Box::pin(async move { exchange(request, None, cap, deadline).await.map_err(|error| error.to_string()) })
        });
        Ok(Some(Client::remote(server.clone(), key.trim(), ask)?))
    }
}

/// Whether a key may be sent there: not where others can read it on its way.
fn check(server: &Url) -> Result<()> {
    let is_here = match server.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if server.query().is_some() || server.fragment().is_some() || !server.username().is_empty() {
        bail!("{:?} is more than a server's address, such as https://vpn.example.net", server.as_str());
    }
    match server.scheme() {
        "https" => Ok(()),
        "http" if is_here => Ok(()),
        "http" => bail!("{server} is plain HTTP: whoever listens could read the API key; use https"),
        _ => bail!("{:?} is not the address of a server, such as https://vpn.example.net", server.as_str()),
    }
}

fn read(path: &Path) -> Result<String> {
    let mut key = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut key));
    read.with_context(|| format!("read the API key {}", path.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_sent_where_others_can_read_it() {
        for (url, is_good) in [
            ("https://vpn.example.net", true),
            ("https://192.0.2.1:8443/", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("http://vpn.example.net", false),
            ("http://localhost.example.net", false),
            ("https://vpn.example.net/?key=1", false),
            ("https://ann@vpn.example.net", false),
            ("ftp://vpn.example.net", false),
        ] {
            assert_eq!(check(&Url::parse(url).expect("a URL")).is_ok(), is_good, "{url}");
        }
    }

    #[test]
    fn a_server_needs_a_key_that_is_one() {
        let remote = Remote { server: Url::parse("https://vpn.example.net").ok(), api_key_file: None };
        assert!(remote.client(None).expect_err("no key").to_string().contains("--api-key-file"));
        let error = remote.client(Some("wkey-auth-5e5e".to_owned())).expect_err("a join key").to_string();
        assert!(error.contains("no API key") && !error.contains("5e5e"), "{error}");
        let client = remote.client(Some("wkey-api-0-5e5e\n".to_owned())).expect("a key").expect("a client");
        assert!(!format!("{client:?}").contains("5e5e"));
        assert!(Remote::default().client(Some("wkey-api-0-5e5e".to_owned())).expect("nothing asked").is_none());
    }
}
