//! Where in a text something stands, kept for what can only be judged later.

use crate::diagnostics::{Complaints, Diagnostic};

/// A place of a policy's text: a remark about it that says nothing yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place(Diagnostic);

impl Place {
    /// `at`: byte offset; `path`: as in `tests[0].accept[1]`.
    pub(crate) fn new(at: usize, path: &str, complaints: &Complaints<'_>) -> Place {
        Place(complaints.diagnostic(at, path, ""))
    }

    pub(crate) fn complain(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic { message: message.into(), ..self.0.clone() }
    }
}
