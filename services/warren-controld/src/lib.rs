//! The control server: the Noise endpoint, map streams, the operators' API and the pages that people meet.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | file, environment, flags |
//! | [`service`] | [`Service`]: opened from a configuration; [`Service::routes`] for a shared port, [`Service::run`] for its life |
//! | `state_dir` | the Noise key on the disk |
//! | `writer`, [`registry`] | the one task that decides and commits, and everybody's way to it |
//! | `held` | requests that stay open until a person has decided |
//! | `noise_endpoint`, `register`, `map_stream`, `ask_node` | what clients speak |
//! | [`reload`] | files are read again when the operator says so |
//! | `extra_records` | names from a file that is followed |
//! | [`admission`] | what relays ask |
//! | [`relay_map`] | where relays are: files, URLs, our own |
//! | `admin_door`, `rest` | what operators ask, on a Unix socket |
//! | `oidc` | how people sign in, and what follows when they are gone |
//! | `pages`, `download` | what people see |
//!
//! What it is not: it computes neither who may see whom nor who may join (`warren-control`), knows no SQL
//! (`warren-store`), and opens no port of its own but in [`run`]: the roof merges the routes of several services.
//!
//! ```text
//! let service = Service::open(&config).await?;
//! let routes = service.routes().merge(relay.routes());
//! tokio::join!(listener::serve(port, routes, tls, caps, shutdown.clone()), service.run(shutdown));
//! ```

#![forbid(unsafe_code)]

mod admin_door;
pub mod admission;
mod api_door;
mod ask_node;
mod clock;
mod concerns;
pub mod config;
mod device_attributes;
mod download;
mod errands;
mod extra_records;
mod feature_query;
mod held;
mod id_token;
mod map_stream;
mod noise_endpoint;
mod oidc;
mod pages;
mod random;
mod register;
pub mod registry;
pub mod relay_map;
pub mod reload;
mod rest;
pub mod service;
mod set_dns;
mod small_requests;
mod ssh_checks;
pub mod state_dir;
mod writer;

pub use admission::Admission;
pub use config::{Config, ConfigError, Overrides, OwnRelay, SecretSource, SignInConfig, TlsFiles};
pub use registry::{CommandError, Registry};
pub use reload::Reload;
pub use service::{RunError, Service, StartError, run};
pub use writer::WriterError;
