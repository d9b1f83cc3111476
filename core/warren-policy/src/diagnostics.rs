//! What is wrong with a policy, and where.

use std::fmt;

/// One complaint about one place of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The way to the place, as in `acls[2].dst[0]`. Empty for the document itself.
    pub path: String,
    pub message: String,
}

/// Everything that is wrong, in the order of the text. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

/// Collects complaints with positions while a document is read.
pub(crate) struct Complaints<'a> {
    text: &'a str,
    /// Where lines end, so that finding one is quick.
    newlines: Vec<usize>,
    found: Vec<(usize, Diagnostic)>,
}

/// A file with more mistakes than this is not one that somebody means to fix line by line.
const MAX_COMPLAINTS: usize = 100;

impl<'a> Complaints<'a> {
    pub(crate) fn new(text: &'a str) -> Complaints<'a> {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Complaints { text, newlines, found: Vec::new() }
    }

    /// `at`: byte offset into the text.
    pub(crate) fn add(&mut self, at: usize, path: impl fmt::Display, message: impl fmt::Display) {
        if self.found.len() >= MAX_COMPLAINTS {
            return;
        }
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let diagnostic = Diagnostic {
            line: self.line_of(at),
            column: before[line_start..].chars().count() + 1,
            path: path.to_string(),
            message: message.to_string(),
        };
        self.found.push((at, diagnostic));
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < at) + 1
    }

    pub(crate) fn finish(mut self) -> Result<(), Diagnostics> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(at, _)| *at);
        Err(Diagnostics(self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect()))
    }
}
