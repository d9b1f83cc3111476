//! Whole tailnets in one thread under one clock: real nodes, a real relay and a real control server as values on a
//! simulated internet, held against a model in plain data.
//!
//! ```text
//! bytes ──▶ Choices ──▶ Model: what may happen next? ──▶ Step ──▶ Model (the truth, a few lists)
//!                                                          └────▶ Lab   (the cores, the clock)
//!                                                                  │ settle, then compare:
//!                                                                  │ who sees whom, who reaches whom, by which way
//! ```
//!
//! The same bytes give the same run, so a fuzzer may drive it ([`run`]), and a failure is repeated by its seed.
//!
//! | idea | file |
//! |---|---|
//! | bytes as decisions | [`Choices`] |
//! | what can happen | [`Step`] |
//! | what must then be true | [`Model`], [`Expect`] |
//! | the cores on their hosts | [`Lab`], `node_host`, `control_host`, `relay_host` |
//! | what they share: clock, routers, who listens where | `world` |
//! | what node and control server say, and what is kept | `talk`, `store` |
//! | comparing the two | `check` |
//! | what must stand in no log | `secrets` |
//!
//! Stand-ins: a stream of the simulated internet for TCP, TLS and HTTP (so Noise is not in play: a request names its
//! machine), a list of rows for the database, and for programs on the hosts an echo of UDP datagrams.

#![forbid(unsafe_code)]

mod check;
mod choices;
mod control_host;
mod lab;
mod model;
mod node_host;
mod relay_host;
mod rules;
mod secrets;
mod step;
mod store;
mod talk;
mod world;

pub use check::{Failure, Outcome, run, run_steps};
pub use choices::Choices;
pub use control_host::Crash;
pub use lab::Lab;
pub use model::{Expect, Model, NodeNo};
pub use rules::{Port, Rule, Rules, Who};
pub use step::{Place, Step};
