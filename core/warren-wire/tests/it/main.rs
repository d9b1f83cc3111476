//! The wire as others read it: presence of keys, tolerance on the way in, and the law of fold and diff.

mod json;
mod law;
mod meaning;
mod stock_client;
