//! Where in a text something stands, kept for what can only be judged later.

use std::sync::Arc;

use crate::diagnostics::{Complaints, Diagnostic, Text};

/// A place of a policy's text: a remark about it that says nothing yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    at: usize,
    path: String,
    text: Arc<Text>,
}

impl Place {
    /// `at`: byte offset; `path`: as in `tests[0].accept[1]`.
    pub(crate) fn new(at: usize, path: &str, complaints: &Complaints) -> Place {
        Place { at, path: path.to_owned(), text: complaints.text() }
    }

    pub(crate) fn complain(&self, message: impl Into<String>) -> Diagnostic {
        self.text.diagnostic(self.at, &self.path, message.into())
    }
}
