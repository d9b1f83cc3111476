//! The contracts people script against, and their clients. This crate alone knows the JSON of ours.

pub mod admin;
pub mod local;
