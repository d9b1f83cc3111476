//! The commands, one file each.

pub mod bugreport;
pub mod control;
pub mod doctor;
pub mod down;
pub mod get;
pub mod ip;
pub mod join;
pub mod login;
pub mod metrics;
pub mod nc;
pub mod netcheck;
pub mod ping;
pub mod policy;
pub mod quickstart;
pub mod relay;
pub mod serve;
pub mod set;
pub mod status;
pub mod switch;
pub mod up;
pub mod version;
pub mod whois;
