//! Tags that nodes ask for and do not get.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use warren_crypto::UnixTime;
use warren_wire::NodeId;

use crate::register::cut;

/// How long it is remembered whose wish was refused. Clients ask again within a minute.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Nodes that were told that they may not have the tags that they asked for.
///
/// An error is the only thing that a client shows to the person who asked; but the same client then repeats its wish by
/// itself, and another error would lock a node out that was in. So it is said once. Soft, like all that nodes say.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedTags {
    told: Arc<BTreeMap<NodeId, (BTreeSet<String>, UnixTime)>>,
}

impl RefusedTags {
    /// Whether the node was told of these tags a short time ago. If not, it counts as told from now on.
    pub(crate) fn was_told(&mut self, node: NodeId, tags: &BTreeSet<String>, now: UnixTime) -> bool {
        let is_fresh = |since: &UnixTime| now.as_secs().saturating_sub(since.as_secs()) < REMEMBERED.as_secs();
        if self.told.get(&node).is_some_and(|(told, since)| told == tags && is_fresh(since)) {
            return true;
        }
        let told = Arc::make_mut(&mut self.told);
        told.retain(|_, (_, since)| is_fresh(since));
        told.insert(node, (tags.clone(), now));
        false
    }
}

/// Tags as a person reads them: a few, and nothing but what can be in a tag, for machines ask for anything.
pub(crate) fn shown(tags: &BTreeSet<String>) -> String {
    const MOST: usize = 10;
    let plain = |tag: &String| cut(tag, 68).replace(|c: char| !c.is_ascii_graphic(), "?");
    let mut list: Vec<String> = tags.iter().take(MOST).map(plain).collect();
    if tags.len() > MOST {
        list.push("…".to_owned());
    }
    list.join(" ")
}
