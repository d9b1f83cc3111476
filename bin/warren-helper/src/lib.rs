//! The privileged requests: a tiny synchronous process
