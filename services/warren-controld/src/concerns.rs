//! What is wrong without stopping anything: a certificate that was not renewed, a source that cannot be read.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Each is `None` while all is well, else one line for the operator.
#[derive(Debug, Default)]
pub(crate) struct Concerns(Mutex<Vec<Concern>>);

/// What it is about, and the line.
type Concern = (&'static str, watch::Receiver<Option<String>>);

impl Concerns {
    pub(crate) fn add(&self, what: &'static str, watched: watch::Receiver<Option<String>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((what, watched));
    }

    /// What is wrong now, for operators only: it may name files and addresses.
    pub(crate) fn list(&self) -> Vec<String> {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = watched
            .iter()
            .filter_map(|(what, concern)| concern.borrow().as_ref().map(|reason| format!("{what}: {reason}")));
        lines.collect()
    }
}
