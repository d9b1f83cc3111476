//! Randomness from the operating system, once; everything else follows from it.

use std::sync::{Arc, Mutex, PoisonError};

use warren_crypto::Random;

/// Gives independent generators to whoever needs one.
#[derive(Clone, Debug)]
pub(crate) struct Seeds(Arc<Mutex<Random>>);

impl Seeds {
    /// # Errors
    /// The operating system has no randomness to give.
    pub(crate) fn from_system() -> std::io::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
        Ok(Self(Arc::new(Mutex::new(Random::from_seed(seed)))))
    }

    pub(crate) fn fork(&self) -> Random {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}
