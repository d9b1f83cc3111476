//! The control server as a whole value: batches, restarts, sessions, and laws over random histories.

mod history;
mod registering;
mod sessions;
mod world;
