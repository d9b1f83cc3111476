//! What the server tells a node about itself that a person should know (control-protocol.md §7.8).

use std::collections::{BTreeMap, BTreeSet};

use warren_wire::DisplayMessage;

use crate::presence::Present;
use crate::rows::Node;
use crate::tags;

/// Messages by id. Empty is well.
pub(crate) type Messages = BTreeMap<String, DisplayMessage>;

/// About a node whose map can be made.
pub(crate) fn messages(node: Option<&Node>, present: Option<&Present>) -> Messages {
    let mut messages = Messages::new();
    if present.is_some_and(|present| present.doubled) {
        let text = "Another machine is connected with this machine's keys: its disk or state folder was copied. \
                    Packets reach only one of the two. Log out on one of them and log in again.";
        messages.insert("keys-used-twice".to_owned(), high("Two machines use one identity", text));
    }
    let has = |tag: &String| node.and_then(|node| node.owner.tags()).is_some_and(|tags| tags.contains(tag));
    let refused: BTreeSet<String> =
        present.into_iter().flat_map(|present| &present.refused_tags).filter(|tag| !has(tag)).cloned().collect();
    if !refused.is_empty() {
        let text = format!(
            "This device asks for tags that are invalid or not permitted, and does not have them: {}. It stays what it \
             was. Ask an operator for them, or advertise others.",
            tags::shown(&refused)
        );
        let message = DisplayMessage {
            title: "Tags were refused".to_owned(),
            text,
            severity: "medium".to_owned(),
            ..DisplayMessage::default()
        };
        messages.insert("tags-refused".to_owned(), message);
    }
    messages
}

/// What a node is told whose map cannot be made any more, beside what it was told before.
pub(crate) fn map_lost(mut before: Messages) -> Messages {
    let text = "The control server cannot compute this node's network map. The last one stays in use; changes do not \
                arrive. The server's operator finds the reason in its log.";
    before.insert("map-not-computed".to_owned(), high("Network map is out of date", text));
    before
}

fn high(title: &str, text: &str) -> DisplayMessage {
    DisplayMessage {
        title: title.to_owned(),
        text: text.to_owned(),
        severity: "high".to_owned(),
        impacts_connectivity: true,
        ..DisplayMessage::default()
    }
}
