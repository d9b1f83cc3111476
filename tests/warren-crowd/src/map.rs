//! One client's map: every message of its stream, decompressed, read and folded in the protocol's order.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use warren_crypto::UnixTime;
use warren_wire::netmap::{NetMap, PeerNews, fold, fold_peers};
use warren_wire::{MapResponse, PeerChange, framing};

use crate::shelf::{Held, Peer, Shelf};

/// A map whose peers lie on a shelf.
pub struct Map {
    shelf: Arc<Shelf>,
    /// All but the peers.
    pub rest: Option<NetMap>,
    pub held: Held,
}

/// The parts of a message that are large, as they stand in it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Parts<'a> {
    #[serde(borrow)]
    peers: Option<&'a RawValue>,
    #[serde(borrow)]
    peers_changed: Option<&'a RawValue>,
    #[serde(borrow)]
    peers_changed_patch: Option<&'a RawValue>,
}

/// What a message was, for counting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    KeepAlive,
    Whole,
    Delta,
}

impl Map {
    pub fn new(shelf: &Arc<Shelf>) -> Self {
        Self { shelf: Arc::clone(shelf), rest: None, held: Held::new(shelf) }
    }

    /// Takes one frame's body: zstd of JSON.
    pub fn take(&mut self, packed: &[u8], now: UnixTime) -> Result<(Kind, MapResponse)> {
        let json = unpack(packed)?;
        let json = std::str::from_utf8(&json).context("a message that is not UTF-8")?;
        let parts: Parts<'_> = serde_json::from_str(json).context("a message that is not JSON")?;
        let message: MapResponse = serde_json::from_str(&without(json, &parts)).context("a map response")?;
        let kind = match (message.keep_alive, parts.peers) {
            (true, _) => Kind::KeepAlive,
            (false, Some(_)) => Kind::Whole,
            // The first message of a node that sees nobody.
            (false, None) if self.rest.is_none() => Kind::Whole,
            (false, None) => Kind::Delta,
        };
        fold(&mut self.rest, message.clone(), now).context("a message that does not fold")?;
        if message.keep_alive {
            return Ok((kind, message));
        }
        let own = self.rest.as_ref().map(|map| map.self_node.id).unwrap_or_default();
        let whole = list(parts.peers)?;
        let is_whole = !whole.is_empty();
        let put = if is_whole { whole } else { list(parts.peers_changed)? };
        let put: Vec<Arc<Peer>> = put.into_iter().map(|text| self.shelf.record(text)).collect::<Result<_, _>>()?;
        let patches = list(parts.peers_changed_patch)?;
        let patches: Vec<Arc<PeerChange>> =
            patches.into_iter().map(|text| self.shelf.patch(text)).collect::<Result<_, _>>()?;
        let news = PeerNews {
            is_whole,
            put: put.into_iter().filter(|peer| peer.node.id != own).collect(),
            removed: &message.peers_removed,
            seen: &message.peer_seen_change,
            online: &message.online_change,
            patches: patches.iter().map(|patch| &**patch).collect(),
        };
        fold_peers(&mut self.held, news, now);
        Ok((kind, message))
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut json = Vec::with_capacity(packed.len() * 4);
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).context("zstd")?;
    let mut limited = std::io::Read::take(decoder, framing::LARGEST_FRAME as u64);
    std::io::Read::read_to_end(&mut limited, &mut json).context("zstd")?;
    Ok(json)
}

/// The message with `null` for its large parts.
fn without(json: &str, parts: &Parts<'_>) -> String {
    let begin = json.as_ptr().addr();
    let mut cuts: Vec<(usize, usize)> = [parts.peers, parts.peers_changed, parts.peers_changed_patch]
        .into_iter()
        .flatten()
        .map(|part| (part.get().as_ptr().addr() - begin, part.get().len()))
        .collect();
    cuts.sort_unstable();
    let mut text = String::new();
    let mut at = 0;
    for (from, length) in cuts {
        text.push_str(&json[at..from]);
        text.push_str("null");
        at = from + length;
    }
    text.push_str(&json[at..]);
    text
}

fn list(part: Option<&RawValue>) -> Result<Vec<&RawValue>> {
    part.map_or_else(|| Ok(Vec::new()), |part| serde_json::from_str(part.get()).context("a list of peers"))
}
