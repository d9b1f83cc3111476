//! The node daemon: its configuration, its life, and LocalAPI.
//!
//! | question | module |
//! |---|---|
//! | what may be configured, and from where | [`config`] |
//! | starting, serving, leaving nothing behind | [`run`] |
//! | who may ask what on the Unix socket | [`local_api`] |
//! | LocalAPI's questions put to the node | [`backend`] |
//! | the node's facts in the stock JSON shapes | `shapes` |
//! | numbers for those who collect metrics | `metrics` |
//!
//! What it is not: nothing here decides about networks; that is `warren-node`, driven by `warren-driver`.

#![forbid(unsafe_code)]

pub mod backend;
pub mod config;
pub mod local_api;
mod metrics;
mod run;
mod shapes;

pub use config::{AutoLogin, Config, ConfigError, Settings};
pub use run::{RunError, run};
