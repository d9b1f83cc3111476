//! Messages whose large parts were written before.
//!
//! A server tells thousands of nodes of the same peers. A record is written once, as JSON, and every message that shows
//! it takes that text; what many nodes are told together is compressed once, too. A [`Message`] is the pieces in their
//! order: what only this node is told, and what is shared. One after the other they are the JSON of one
//! [`MapResponse`], and since a message may consist of several compressed frames (control-protocol.md §6.3), each piece
//! may be compressed apart.

use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::MapResponse;

/// JSON that several messages have in common: some members of a list, or a whole message. Never empty.
pub struct Written {
    text: Box<[u8]>,
    is_large: bool,
    /// Compressed, alone and behind a comma.
    packed: [OnceLock<Arc<[u8]>>; 2],
}

/// A part of a [`Message`].
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text that is this message's only.
    Own(Vec<u8>),
    /// Text that others have, too.
    Shared {
        /// What it is.
        written: Arc<Written>,
        /// A comma comes before it.
        after_comma: bool,
    },
}

/// A map response, ready to be sent.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pieces: Vec<Piece>,
}

/// Members of the lists of a message that were written before.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// All peers, by id.
    pub peers: Vec<Arc<Written>>,
    /// Peers to add or replace, by id.
    pub peers_changed: Vec<Arc<Written>>,
    /// Changes of peers.
    pub patches: Vec<Arc<Written>>,
}

impl Written {
    /// One member of a list: it is copied into each message.
    ///
    /// # Errors
    /// What JSON cannot say.
    pub fn member(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::new(serde_json::to_vec(value)?, false))
    }

    /// Several members of a list, for messages that have all of them. `None` of none.
    pub fn page<'a>(members: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let texts: Vec<&[u8]> = members.into_iter().map(Self::text).collect();
        (!texts.is_empty()).then(|| Self::new(texts.join(&b','), true))
    }

    /// A whole message, for all who are told the same.
    pub fn message(message: &Message) -> Self {
        Self::new(message.text(), true)
    }

    fn new(text: Vec<u8>, is_large: bool) -> Self {
        Self { text: text.into_boxed_slice(), is_large, packed: Default::default() }
    }

    /// The JSON.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether [`Written::packed`] has nothing left to do.
    pub fn is_packed(&self, after_comma: bool) -> bool {
        self.packed[usize::from(after_comma)].get().is_some()
    }

    /// The text compressed by `pack`, which is asked once. Behind a comma it is another.
    pub fn packed<E>(&self, after_comma: bool, pack: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>) -> Result<Arc<[u8]>, E> {
        let place = &self.packed[usize::from(after_comma)];
        if let Some(packed) = place.get() {
            return Ok(Arc::clone(packed));
        }
        // Two who come at once both pack; one of the results is kept.
        let packed = match after_comma {
            false => pack(&self.text)?,
            true => pack(&[b",", &self.text[..]].concat())?,
        };
        Ok(Arc::clone(place.get_or_init(|| packed.into())))
    }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.text))
    }
}

impl Message {
    /// `own`, with these members after its own in the lists.
    ///
    /// # Errors
    /// What JSON cannot say.
    pub fn new(mut own: MapResponse, lists: &Lists) -> Result<Self, serde_json::Error> {
        let mine = [
            written(&std::mem::take(&mut own.peers))?,
            written(&std::mem::take(&mut own.peers_changed))?,
            written(&std::mem::take(&mut own.peers_changed_patch))?,
        ];
        let names = ["Peers", "PeersChanged", "PeersChangedPatch"];
        let given = [&lists.peers, &lists.peers_changed, &lists.patches];
        let mut text = serde_json::to_vec(&own)?;
        text.pop(); // the closing brace
        let members = given.into_iter().chain(&mine).flatten().filter(|member| !member.is_large);
        text.reserve_exact(members.map(|member| member.text.len() + 1).sum::<usize>() + 64);
        let mut building = Building { pieces: Vec::new(), text };
        for ((name, given), mine) in names.into_iter().zip(given).zip(mine) {
            building.list(name, given, &mine);
        }
        building.text.push(b'}');
        building.close();
        Ok(Self { pieces: building.pieces })
    }

    /// One that was written as a whole.
    pub fn shared(written: Arc<Written>) -> Self {
        Self { pieces: vec![Piece::Shared { written, after_comma: false }] }
    }

    /// In their order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes of JSON that nobody has compressed yet.
    pub fn unpacked_bytes(&self) -> usize {
        let bytes = |piece: &Piece| match piece {
            Piece::Own(text) => text.len(),
            Piece::Shared { written, after_comma } if !written.is_packed(*after_comma) => written.text.len(),
            Piece::Shared { .. } => 0,
        };
        self.pieces.iter().map(bytes).sum()
    }

    /// All its JSON.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Own(own) => text.extend_from_slice(own),
                Piece::Shared { written, after_comma } => {
                    text.extend_from_slice(if *after_comma { b"," } else { b"" });
                    text.extend_from_slice(&written.text);
                }
            }
        }
        text
    }

    /// As its reader reads it.
    ///
    /// # Errors
    /// It is not a map response, which would be a mistake of ours.
    pub fn response(&self) -> Result<MapResponse, serde_json::Error> {
        serde_json::from_slice(&self.text())
    }
}

fn written(values: &[impl Serialize]) -> Result<Vec<Arc<Written>>, serde_json::Error> {
    values.iter().map(|value| Written::member(value).map(Arc::new)).collect()
}

struct Building {
    pieces: Vec<Piece>,
    text: Vec<u8>,
}

impl Building {
    fn list(&mut self, name: &str, given: &[Arc<Written>], mine: &[Arc<Written>]) {
        if given.is_empty() && mine.is_empty() {
            return;
        }
        // Nothing was said before it.
        let is_first = self.pieces.is_empty() && self.text == b"{";
        self.text.extend_from_slice(if is_first { b"\"" } else { b",\"" });
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":[");
        for (at, member) in given.iter().chain(mine).enumerate() {
            let after_comma = at > 0;
            if member.is_large {
                self.close();
                self.pieces.push(Piece::Shared { written: Arc::clone(member), after_comma });
                continue;
            }
            self.text.extend_from_slice(if after_comma { b"," } else { b"" });
            self.text.extend_from_slice(&member.text);
        }
        self.text.push(b']');
    }

    fn close(&mut self) {
        if !self.text.is_empty() {
            self.pieces.push(Piece::Own(std::mem::take(&mut self.text)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Node, NodeId, PeerChange};

    fn node(id: i64) -> Node {
        Node { id: NodeId(id), name: format!("n{id}.mesh."), allowed_ips: Some(Vec::new()), ..Node::default() }
    }

    fn member(value: &impl Serialize) -> Arc<Written> {
        Arc::new(Written::member(value).expect("plain data"))
    }

    #[test]
    fn what_was_written_before_reads_as_what_was_meant() {
        let nodes: Vec<Arc<Written>> = (1..=6).map(|id| member(&node(id))).collect();
        let page = |of: &[Arc<Written>]| Arc::new(Written::page(of.iter().map(|one| &**one)).expect("some"));
        let patch = |id| PeerChange { node_id: NodeId(id), online: Some(true), ..PeerChange::default() };
        for own in [MapResponse::default(), MapResponse { domain: "mesh".to_owned(), ..MapResponse::default() }] {
            for peers in [
                vec![],
                vec![page(&nodes[..3]), page(&nodes[3..])],
                vec![Arc::clone(&nodes[0]), page(&nodes[1..3]), Arc::clone(&nodes[3]), page(&nodes[4..])],
            ] {
                let is_empty = peers.is_empty();
                let lists = Lists { peers, peers_changed: vec![member(&node(8))], patches: vec![member(&patch(1))] };
                let mine = MapResponse { peers_changed_patch: vec![patch(2)], ..own.clone() };
                let message = Message::new(mine, &lists).expect("plain data");
                let meant = MapResponse {
                    peers: if is_empty { vec![] } else { (1..=6).map(node).collect() },
                    peers_changed: vec![node(8)],
                    peers_changed_patch: vec![patch(1), patch(2)],
                    ..own.clone()
                };
                assert_eq!(message.response().expect("JSON"), meant);
                let shared = Message::shared(Arc::new(Written::message(&message)));
                assert_eq!(shared.response().expect("JSON"), meant);
                assert_eq!(shared.unpacked_bytes(), message.text().len());
            }
        }
        let nothing = Message::new(MapResponse::default(), &Lists::default()).expect("plain data");
        assert_eq!(nothing.text(), b"{}");
        assert!(Written::page([]).is_none());
    }

    #[test]
    fn a_piece_is_packed_once_alone_and_once_behind_a_comma() {
        let one = Written::member(&1).expect("plain data");
        let pack = |text: &[u8]| Ok::<_, std::convert::Infallible>([b"packed ", text].concat());
        assert_eq!(&*one.packed(true, pack).expect("packed"), b"packed ,1");
        assert_eq!(&*one.packed(false, pack).expect("packed"), b"packed 1");
        let again = one.packed(true, |_| Err("packed again"));
        assert_eq!(&*again.expect("kept"), b"packed ,1");
    }
}
