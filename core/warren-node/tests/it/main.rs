//! A node against a scripted control server: values in, actions out, no socket anywhere.

mod expiry;
mod hostile;
mod login;
mod profiles;
mod rig;
mod running;
