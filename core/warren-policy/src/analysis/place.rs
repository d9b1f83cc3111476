//! Where a rule stands in the text, and its words there.

use std::fmt;

use crate::diagnostics::Complaints;
use crate::document::Document;
use crate::raw::{Kind, Raw};
use crate::rule::{Origin, Section};

/// Longest excerpt of a rule, in characters.
const MAX_EXCERPT: usize = 240;

/// A rule in its document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RulePlace {
    /// `acls` or `grants`.
    pub section: &'static str,
    /// Which entry of the section, from 0.
    pub index: usize,
    /// For `acls`: which destination of the entry, from 0.
    pub destination: Option<usize>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The entry on one line.
    pub text: String,
}

impl RulePlace {
    pub(crate) fn find(text: &str, origin: &Origin) -> RulePlace {
        let section = match origin.section {
            Section::Acls => "acls",
            Section::Grants => "grants",
        };
        let entry = Document::parse(text, &mut Complaints::new(text))
            .and_then(|document| entry(&document, section, origin.entry));
        let at = entry.as_ref().map_or(0, |entry| entry.at);
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        RulePlace {
            section,
            index: origin.entry,
            destination: origin.destination,
            line: origin.line,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            text: entry.as_ref().and_then(Raw::to_json).map(|json| excerpt(&json.to_string())).unwrap_or_default(),
        }
    }
}

fn entry(document: &Document, section: &str, index: usize) -> Option<Raw> {
    match &document.section(section)?.kind {
        Kind::List(entries) => entries.get(index).cloned(),
        _ => None,
    }
}

fn excerpt(text: &str) -> String {
    if text.chars().count() <= MAX_EXCERPT {
        return text.to_owned();
    }
    text.chars().take(MAX_EXCERPT).chain(['…']).collect()
}

/// `acls[2] at 12:5: {…}`.
impl fmt::Display for RulePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.section, self.index)?;
        if let Some(destination) = self.destination {
            write!(f, ".dst[{destination}]")?;
        }
        write!(f, " at {}:{}: {}", self.line, self.column, self.text)
    }
}
