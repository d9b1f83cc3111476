//! Names of nodes: a strict DNS label, and how an unusual host name becomes one.
//!
//! The grammar is strict on purpose: such a name needs no escape in JSON (a strict client cannot read any), no quoting
//! in a shell or a zone file, and cannot be mistaken for markup.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest DNS label, RFC 1035 §2.3.4.
const LONGEST_LABEL: usize = 63;
/// Longest full name as text without the trailing dot (RFC 1035 counts 255 octets on the wire).
const LONGEST_FULL_NAME: usize = 253;
/// What a host without a usable name is called.
const NAMELESS: &str = "node";

/// A node's name: 1–63 of `a-z`, `0-9` and `-`, with neither end a `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// The text is no [`NodeName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node name is 1 to 63 of a-z, 0-9 and -, and neither begins nor ends with -")]
pub struct InvalidName;

impl NodeName {
    /// Takes a name that is already right.
    ///
    /// # Errors
    /// [`InvalidName`] with the grammar in its text.
    pub fn new(text: &str) -> Result<NodeName, InvalidName> {
        let bytes = text.as_bytes();
        let well_formed = (1..=LONGEST_LABEL).contains(&bytes.len())
            && bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-');
        if well_formed { Ok(NodeName(text.to_owned())) } else { Err(InvalidName) }
    }

    /// Makes a name of whatever a host calls itself; what leaves nothing is called `node`. control-protocol.md §11.2.
    pub fn sanitise(hostname: &str) -> NodeName {
        let lower = hostname.trim().to_lowercase();
        let stem =
            [".local", ".localdomain", ".lan"].iter().find_map(|suffix| lower.strip_suffix(suffix)).unwrap_or(&lower);
        let mut label: String = stem
            .chars()
            .filter_map(|letter| match letter {
                ' ' | '.' | '@' | '_' => Some('-'),
                'a'..='z' | '0'..='9' | '-' => Some(letter),
                _ => None,
            })
            .collect();
        label.truncate(LONGEST_LABEL);
        let label = label.trim_matches('-');
        NodeName(if label.is_empty() { NAMELESS } else { label }.to_owned())
    }

    /// The name with a number behind it, for when it is taken; shortened so that both fit.
    #[must_use]
    pub fn numbered(&self, number: u32) -> NodeName {
        let suffix = format!("-{number}");
        let stem = self.0.get(..LONGEST_LABEL - suffix.len()).unwrap_or(&self.0).trim_end_matches('-');
        NodeName(format!("{stem}{suffix}"))
    }

    /// The full name with trailing dot, or `None` when it would be too long for DNS.
    pub fn in_domain(&self, base_domain: &str) -> Option<String> {
        let base_domain = base_domain.trim_matches('.');
        let name = if base_domain.is_empty() { format!("{}.", self.0) } else { format!("{}.{base_domain}.", self.0) };
        (name.len() <= LONGEST_FULL_NAME + 1).then_some(name)
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character shows nothing, or turns the text around it: in a name it can only deceive. Controls, the
/// zero-width and direction characters of Unicode, line and paragraph separators, and tags.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for NodeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        NodeName::new(text)
    }
}

impl TryFrom<String> for NodeName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        NodeName::new(&text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_host_names_become_plain_labels() {
        for (hostname, name) in [
            ("web-1", "web-1"),
            ("Ann's MacBook Pro.local", "anns-macbook-pro"),
            ("DESKTOP_7.lan", "desktop-7"),
            ("build.localdomain", "build"),
            ("a.b@c", "a-b-c"),
            ("--x--", "x"),
            ("日本語", "node"),
            ("", "node"),
            ("...", "node"),
            ("<script>", "script"),
        ] {
            assert_eq!(NodeName::sanitise(hostname).as_str(), name, "{hostname:?}");
        }
    }

    #[test]
    fn whatever_is_sanitised_obeys_the_grammar() {
        for hostname in ["x".repeat(300), format!("{}-{}", "a".repeat(62), "b"), "\u{130}İ-\0-é".into()] {
            let name = NodeName::sanitise(&hostname);
            assert_eq!(NodeName::new(name.as_str()), Ok(name));
        }
    }

    #[test]
    fn a_taken_name_gets_a_number_and_stays_a_label() {
        assert_eq!(NodeName::sanitise("web").numbered(2).as_str(), "web-2");
        let long = NodeName::sanitise(&"a".repeat(63)).numbered(12);
        assert_eq!(long.as_str().len(), 63);
        assert!(NodeName::new(long.as_str()).is_ok() && long.as_str().ends_with("-12"));
    }

    #[test]
    fn names_that_are_no_labels_are_refused() {
        for text in ["", "-a", "a-", "A", "a_b", "a.b", "a\"b", &"a".repeat(64)] {
            assert_eq!(NodeName::new(text), Err(InvalidName), "{text:?}");
        }
    }

    #[test]
    fn a_full_name_too_long_for_dns_is_none() {
        let name = NodeName::sanitise("web");
        assert_eq!(name.in_domain("tail.example").as_deref(), Some("web.tail.example."));
        assert_eq!(name.in_domain(&["a".repeat(60).as_str(); 5].join(".")), None);
    }
}
