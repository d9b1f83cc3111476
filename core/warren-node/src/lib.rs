//! A whole node as one value: identity, login, prefs, plan, engine

#![forbid(unsafe_code)]
