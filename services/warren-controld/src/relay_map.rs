//! The relays of the network: what the operator wrote in files, what somebody publishes at URLs, and our own.
//!
//! ```text
//! URLs (last good answer kept on the disk) ──▶ files ──▶ our own region ──▶ map of every node
//! ```
//!
//! What comes later wins, region by region; a region that a later source gives as `null` is taken away. Sources are looked at
//! again while the server runs ([`follow`]): files when they change, URLs now and then. A source that cannot be read any more
//! leaves its last good regions in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use url::Url;
use warren_io::{exchange, files};
use warren_wire::{RegionId, RelayMap, RelayMapUpdate, RelayRegion};

use crate::registry::Registry;
use crate::reload::Asked;

/// Largest file or answer that is read; the largest public map has some 100 kB.
const LARGEST: usize = 4 << 20;
/// For one URL.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// How often files are looked at. A change reaches nodes within seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a URL could not be fetched.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Stock clients on 32-bit machines read no larger number, and discard a whole map for one.
const LARGEST_REGION: u32 = i32::MAX as u32;

/// Where relays are described.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Relay maps in JSON.
    pub files: Vec<PathBuf>,
    /// The same, `https` or `http`.
    pub urls: Vec<Url>,
    /// How often URLs are fetched.
    pub refresh: Duration,
    /// Our own region, if it is to be in the map.
    pub own: Option<RelayRegion>,
}

/// What is wrong with a relay map, for whoever wrote it.
#[derive(Debug, thiserror::Error)]
pub enum RelayMapError {
    /// It cannot be read.
    #[error("relay map {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It cannot be fetched.
    #[error("relay map {url}: {reason}")]
    Fetch {
        /// Where it should be.
        url: String,
        /// Why it is not.
        reason: String,
    },
    /// Its content.
    #[error("relay map {place}: {reason}")]
    Content {
        /// File or URL.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Regions of one source; `None` takes a region away.
type Regions = BTreeMap<RegionId, Option<RelayRegion>>;

/// All sources at their last good state.
pub struct Relays {
    sources: Sources,
    /// Where the last good answers of URLs are kept.
    folder: PathBuf,
    of_urls: Vec<Regions>,
    /// Whether each URL answered the last time.
    answered: Vec<bool>,
    of_files: Vec<(Stamp, Regions)>,
}

/// What shows that a file was changed or replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp(Option<(SystemTime, u64, u64)>);

impl Sources {
    /// What can be said without the network: files and our own region.
    ///
    /// # Errors
    /// [`RelayMapError`]: at a start, a file that cannot be read is a mistake to mend.
    pub fn without_urls(&self) -> Result<RelayMap, RelayMapError> {
        let files = self.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        Ok(merge(&[], files.iter(), self.own.as_ref()))
    }
}

impl Relays {
    /// Reads all sources. A URL that does not answer has its last good answer, which is kept in `folder`.
    ///
    /// # Errors
    /// [`RelayMapError`] of a file.
    pub async fn open(sources: Sources, folder: &Path) -> Result<Self, RelayMapError> {
        let mut of_files = Vec::new();
        for path in &sources.files {
            of_files.push((Stamp::of(path), read(path)?));
        }
        let urls = sources.urls.len();
        let mut relays = Self {
            of_urls: vec![Regions::new(); urls],
            answered: vec![false; urls],
            folder: folder.to_owned(),
            of_files,
            sources,
        };
        for at in 0..urls {
            let fetched = relays.fetch(at).await;
            relays.answered[at] = fetched.is_ok();
            if let Err(error) = fetched {
                let kept = read(&relays.kept(at));
                tracing::warn!(%error, is_kept = kept.is_ok(), "relay map; its last good answer is used if there is one");
                relays.of_urls[at] = kept.unwrap_or_default();
            }
        }
        Ok(relays)
    }

    /// All sources in one.
    pub fn map(&self) -> RelayMap {
        merge(&self.of_urls, self.of_files.iter().map(|(_, regions)| regions), self.sources.own.as_ref())
    }

    /// How long a URL is left alone now.
    fn rest(&self, at: usize) -> Duration {
        let refresh = self.sources.refresh;
        if self.answered[at] { refresh } else { TRY_AGAIN.min(refresh) }
    }

    fn kept(&self, at: usize) -> PathBuf {
        let name = hex::encode(&Sha256::digest(self.sources.urls[at].as_str())[..8]);
        self.folder.join(format!("relay-map-{name}.json"))
    }

    async fn fetch(&mut self, at: usize) -> Result<(), RelayMapError> {
        let url = &self.sources.urls[at];
        let failed = |reason: String| RelayMapError::Fetch { url: url.to_string(), reason };
        let request =
            Request::get(url.as_str()).body(Full::new(Bytes::new())).map_err(|error| failed(error.to_string()))?;
        let answer = exchange::exchange(request, None, LARGEST, FETCH_DEADLINE).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(failed(format!("HTTP status {}", answer.status())));
        }
        let regions = parse(url.as_str(), answer.body())?;
        if regions != self.of_urls[at] {
            // Without it, the next start would depend on the other server.
            if let Err(error) = files::replace(&self.kept(at), answer.body(), 0o600) {
                tracing::warn!(%error, "a relay map was not kept on the disk");
            }
        }
        self.of_urls[at] = regions;
        Ok(())
    }

    /// Reads files that changed, or all. What is wrong with one is told once, and put into its place in `problems`; its last
    /// good regions stay.
    fn look(&mut self, is_asked: bool, problems: &mut [Option<String>]) {
        for ((path, (stamp, regions)), problem) in self.sources.files.iter().zip(&mut self.of_files).zip(problems) {
            let now = Stamp::of(path);
            if now == *stamp && !is_asked {
                continue;
            }
            *stamp = now;
            *problem = match read(path) {
                Ok(new) => {
                    *regions = new;
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "the last good relays stay");
                    Some(error.to_string())
                }
            };
        }
    }
}

/// Keeps the relay map of the registry up to date; all sources are read when it is `asked` for. Ends with the registry;
/// dropping it is all right at any time.
pub(crate) async fn follow(
    mut relays: Relays,
    registry: Registry,
    mut asked: Asked,
    problem: watch::Sender<Option<String>>,
) {
    let files = relays.sources.files.len();
    let mut problems = vec![None; files + relays.sources.urls.len()];
    let begun = tokio::time::Instant::now();
    let mut fetch_at: Vec<_> = (0..relays.sources.urls.len()).map(|at| begun + relays.rest(at)).collect();
    let mut told = relays.map();
    loop {
        let is_asked = tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY.min(relays.sources.refresh)) => false,
            () = asked.wait() => true,
        };
        relays.look(is_asked, &mut problems);
        for (at, due) in fetch_at.iter_mut().enumerate() {
            if *due > tokio::time::Instant::now() && !is_asked {
                continue;
            }
            let fetched = relays.fetch(at).await;
            relays.answered[at] = fetched.is_ok();
            if let Err(error) = &fetched {
                tracing::warn!(%error, "the last good relays stay");
            }
            problems[files + at] = fetched.err().map(|error| error.to_string());
            *due = tokio::time::Instant::now() + relays.rest(at);
        }
        let line = problems.iter().flatten().cloned().collect::<Vec<_>>().join("; ");
        problem.send_if_modified(|told| {
            let new = (!line.is_empty()).then(|| format!("{line}; the last good relays stay"));
            let is_news = new != *told;
            *told = new;
            is_news
        });
        let map = relays.map();
        if map == told {
            continue;
        }
        tracing::info!(regions = map.regions.len(), "the relays have changed");
        if registry.set_relay_map(map.clone()).await.is_err() {
            return; // the server is stopping
        }
        told = map;
    }
}

impl Stamp {
    fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let facts = std::fs::metadata(path).ok();
        Self(facts.and_then(|facts| Some((facts.modified().ok()?, facts.len(), facts.ino()))))
    }
}

fn merge<'a>(
    of_urls: &'a [Regions],
    of_files: impl Iterator<Item = &'a Regions>,
    own: Option<&RelayRegion>,
) -> RelayMap {
    // A private network does not lean on its vendor's relays.
    let mut map = RelayMap { omit_default_regions: true, ..RelayMap::default() };
    for (id, region) in of_urls.iter().chain(of_files).flatten() {
        match region {
            Some(region) => map.regions.insert(*id, region.clone()),
            None => map.regions.remove(id),
        };
    }
    if let Some(own) = own {
        map.regions.insert(own.region_id, own.clone());
    }
    map
}

fn read(path: &Path) -> Result<Regions, RelayMapError> {
    let failed = |source| RelayMapError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > LARGEST as u64 {
        let reason = format!("{length} bytes are more than a relay map has");
        return Err(RelayMapError::Content { place: path.display().to_string(), reason });
    }
    parse(&path.display().to_string(), &std::fs::read(path).map_err(failed)?)
}

fn parse(place: &str, bytes: &[u8]) -> Result<Regions, RelayMapError> {
    let wrong = |reason: String| RelayMapError::Content { place: place.to_owned(), reason };
    let update: RelayMapUpdate = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let Some(mut regions) = update.regions else {
        return Err(wrong("it has no \"Regions\"".to_owned()));
    };
    for (id, region) in &mut regions {
        if id.0 == 0 || id.0 > LARGEST_REGION {
            return Err(wrong(format!("region {id}: region numbers are 1 to {LARGEST_REGION}")));
        }
        let Some(region) = region else { continue };
        check(*id, region).map_err(wrong)?;
    }
    Ok(regions)
}

/// Mends what can only mean one thing, and says what clients could not use.
fn check(id: RegionId, region: &mut RelayRegion) -> Result<(), String> {
    if region.region_id.0 == 0 {
        region.region_id = id;
    }
    if region.region_id != id {
        return Err(format!("region {id} says that it is region {}", region.region_id));
    }
    if region.nodes.is_empty() {
        return Err(format!("region {id} has no relays in \"Nodes\"; to take a region away, write null"));
    }
    for (at, node) in region.nodes.iter_mut().enumerate() {
        if node.region_id.0 == 0 {
            node.region_id = id;
        }
        if node.region_id != id {
            return Err(format!("relay {:?} of region {id} says that it is in region {}", node.name, node.region_id));
        }
        if node.host_name.is_empty() {
            return Err(format!("relay {} of region {id} has no \"HostName\"", at + 1));
        }
        for (key, text) in [("IPv4", &node.ipv4), ("IPv6", &node.ipv6)] {
            let is_usable = matches!(text.as_str(), "" | "none") || text.parse::<std::net::IpAddr>().is_ok();
            if !is_usable {
                return Err(format!(
                    "relay {:?} of region {id}: {key} is {text:?}, which is neither an address nor \"none\"",
                    node.host_name
                ));
            }
        }
        if node.name.is_empty() {
            node.name = format!("{id}{}", at + 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(text: &str) -> Result<Regions, String> {
        parse("x", text.as_bytes()).map_err(|error| error.to_string())
    }

    fn names(map: &RelayMap) -> Vec<(u32, &str)> {
        map.regions.iter().map(|(id, region)| (id.0, region.nodes[0].host_name.as_str())).collect()
    }

    #[test]
    fn later_sources_win_region_by_region_and_null_takes_away() {
        let url = regions(r#"{"Regions": {"1": {"Nodes": [{"HostName": "a"}]}, "2": {"Nodes": [{"HostName": "b"}]}}}"#);
        let file = regions(
            r#"{"Regions": {"1": null, "2": {"Nodes": [{"HostName": "c"}]}, "900": {"Nodes": [{"HostName": "d"}]}}}"#,
        );
        let (url, file) = (url.expect("good"), file.expect("good"));
        let own = RelayRegion { region_id: RegionId(900), nodes: vec![Default::default()], ..RelayRegion::default() };
        let map = merge(std::slice::from_ref(&url), [&file].into_iter(), None);
        assert_eq!(names(&map), [(2, "c"), (900, "d")]);
        let map = merge(&[url], [&file].into_iter(), Some(&own));
        assert_eq!(names(&map), [(2, "c"), (900, "")]);
        assert!(map.omit_default_regions);
        let region = &map.regions[&RegionId(2)];
        assert_eq!(
            (region.region_id, region.nodes[0].region_id, region.nodes[0].name.as_str()),
            (RegionId(2), RegionId(2), "21")
        );
    }

    #[tokio::test]
    async fn a_url_that_did_not_answer_at_the_start_is_tried_again_soon() {
        let folder = tempfile::tempdir().expect("a folder");
        let nobody = "http://127.0.0.1:1/".parse().expect("a URL");
        let sources = Sources { urls: vec![nobody], refresh: Duration::from_secs(3 * 3600), ..Sources::default() };
        let mut relays = Relays::open(sources, folder.path()).await.expect("no file is needed");
        assert_eq!(relays.rest(0), TRY_AGAIN);
        relays.answered[0] = true;
        assert_eq!(relays.rest(0), Duration::from_secs(3 * 3600));
    }

    #[test]
    fn what_clients_could_not_use_is_named() {
        for (text, part) in [
            ("[]", "x: "),
            ("{}", "no \"Regions\""),
            (r#"{"Regions": {"0": null}}"#, "numbers are 1 to"),
            (r#"{"Regions": {"2147483648": {"Nodes": [{"HostName": "a"}]}}}"#, "numbers are 1 to"),
            (
                r#"{"Regions": {"1": {"RegionID": 2, "Nodes": [{"HostName": "a"}]}}}"#,
                "region 1 says that it is region 2",
            ),
            (r#"{"Regions": {"1": {"Nodes": []}}}"#, "write null"),
            (r#"{"Regions": {"1": {"Nodes": [{"Name": "a"}]}}}"#, "no \"HostName\""),
            (r#"{"Regions": {"1": {"Nodes": [{"HostName": "a", "RegionID": 7}]}}}"#, "in region 7"),
            (r#"{"Regions": {"1": {"Nodes": [{"HostName": "a", "IPv4": "1.2.3"}]}}}"#, "IPv4"),
        ] {
            let error = regions(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
