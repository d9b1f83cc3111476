//! The store's laws on real files: what is committed is what is loaded, at every point where a process may die; and
//! what is not ours is left alone.

mod batches;
mod crashes;
mod earlier;
mod laws;
mod random_lives;
mod refusals;
