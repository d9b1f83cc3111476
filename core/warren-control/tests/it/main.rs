//! The control server as a whole value: batches, restarts, sessions, and laws over random histories.

mod api_keys;
mod attributes;
mod facts;
mod history;
mod people;
mod registering;
mod roles;
mod routes;
mod services;
mod sessions;
mod shell_checks;
mod world;
