//! What is wrong with a policy, and where.

use std::fmt;
use std::sync::Arc;

/// One remark about one place of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The way to the place, as in `acls[2].dst[0]`. Empty for the document itself.
    pub path: String,
    pub message: String,
    /// The line, or what of a long one surrounds the place, with nothing in it that would move a terminal's cursor.
    pub excerpt: String,
    /// How many characters of the excerpt stand before the place.
    pub indent: usize,
}

/// Everything that is wrong, in the order of the text. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl std::error::Error for Diagnostics {}

/// One line, without the excerpt.
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

impl Diagnostic {
    /// Three lines: what is wrong, the line of the text, a caret under the place.
    pub fn pointed(&self) -> String {
        format!("{self}\n    {}\n    {}^", self.excerpt, " ".repeat(self.indent))
    }
}

/// Collects remarks with positions while a document is read.
pub(crate) struct Complaints {
    text: Arc<Text>,
    /// How every complaint begins that does not already.
    heading: &'static str,
    found: Vec<(usize, Diagnostic)>,
    notes: Vec<(usize, Diagnostic)>,
}

/// A text in which places can be shown.
#[derive(PartialEq, Eq)]
pub(crate) struct Text {
    text: String,
    /// Where lines end, so that finding one is quick.
    newlines: Vec<usize>,
}

/// A policy is long, and whoever prints a place does not mean all of it.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.text.len())
    }
}

/// A file with more mistakes than this is not one that somebody means to fix line by line.
pub(crate) const MAX_COMPLAINTS: usize = 100;

/// Longest excerpt, in characters.
const MAX_EXCERPT: usize = 100;

/// In bytes: of a line longer than this only what surrounds the place is looked at.
const LONG_LINE: usize = 16 * MAX_EXCERPT;

impl Complaints {
    pub(crate) fn new(text: &str) -> Complaints {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        let text = Arc::new(Text { text: text.to_owned(), newlines });
        Complaints { text, heading: "", found: Vec::new(), notes: Vec::new() }
    }

    /// Whatever is wrong from here on is said under this heading. Empty: under none.
    pub(crate) fn set_heading(&mut self, heading: &'static str) {
        self.heading = heading;
    }

    /// The text, for places that may have to be shown later.
    pub(crate) fn text(&self) -> Arc<Text> {
        Arc::clone(&self.text)
    }

    /// Something is wrong. `at`: byte offset into the text.
    pub(crate) fn add(&mut self, at: usize, path: impl fmt::Display, message: impl fmt::Display) {
        if self.found.len() < MAX_COMPLAINTS {
            let mut diagnostic = self.text.diagnostic(at, path, message);
            if !self.heading.is_empty() && !diagnostic.message.starts_with(self.heading) {
                diagnostic.message = format!("{}: {}", self.heading, diagnostic.message);
            }
            self.found.push((at, diagnostic));
        }
    }

    /// Something is accepted that the field writes differently.
    pub(crate) fn note(&mut self, at: usize, path: impl fmt::Display, message: impl fmt::Display) {
        if self.notes.len() < MAX_COMPLAINTS {
            let diagnostic = self.text.diagnostic(at, path, message);
            self.notes.push((at, diagnostic));
        }
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line_of(&self, at: usize) -> usize {
        self.text.line_of(at)
    }

    /// The notes, in the order of the text.
    ///
    /// # Errors
    /// What is wrong, if anything is.
    pub(crate) fn finish(mut self) -> Result<Vec<Diagnostic>, Diagnostics> {
        let in_order = |mut list: Vec<(usize, Diagnostic)>| {
            list.sort_by_key(|(at, _)| *at);
            list.into_iter().map(|(_, diagnostic)| diagnostic).collect()
        };
        if self.found.is_empty() {
            return Ok(in_order(std::mem::take(&mut self.notes)));
        }
        Err(Diagnostics(in_order(self.found)))
    }
}

impl Text {
    fn line_of(&self, at: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < at) + 1
    }

    /// A remark about the place `at`, a byte offset.
    pub(crate) fn diagnostic(&self, at: usize, path: impl fmt::Display, message: impl fmt::Display) -> Diagnostic {
        let line = self.line_of(at);
        let start = line.checked_sub(2).and_then(|before| self.newlines.get(before)).map_or(0, |newline| newline + 1);
        let end = self.newlines.get(line - 1).copied().unwrap_or(self.text.len());
        let column = self.text.get(start..at).unwrap_or_default().chars().count() + 1;
        let is_long = end - start > LONG_LINE;
        // A policy that a program wrote may be one line of megabytes.
        let first = if is_long { self.boundary(start.max(at.saturating_sub(LONG_LINE / 2))) } else { start };
        let last = if is_long { self.boundary(end.min(at.saturating_add(LONG_LINE / 2))) } else { end };
        let whole = self.text.get(first..last).unwrap_or_default();
        let before = self.text.get(first..at).unwrap_or_default().chars().count();
        // What a tab or a control character would do to the caret under it is not worth knowing.
        let shown: Vec<char> = whole.chars().map(|c| if is_plain(c) { c } else { ' ' }).collect();
        let margin = shown.iter().take(before).take_while(|c| **c == ' ').count();
        let is_short = shown.len() - margin <= MAX_EXCERPT;
        let first = if is_short { margin } else { margin.max(before.saturating_sub(MAX_EXCERPT / 2)) };
        let excerpt: String = shown.iter().skip(first).take(MAX_EXCERPT).collect();
        Diagnostic {
            line,
            column,
            path: path.to_string(),
            message: message.to_string(),
            excerpt: excerpt.trim_end().to_owned(),
            indent: before - first.min(before),
        }
    }

    /// The next byte offset, from `at` down, at which a character begins.
    fn boundary(&self, at: usize) -> usize {
        (0..=at).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or_default()
    }
}

/// Neither moves the cursor nor turns the direction of writing.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
