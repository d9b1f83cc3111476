//! TLS: server certificates from files or self-made, and clients that verify or pin them.
