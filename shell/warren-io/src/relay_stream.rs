//! Relay connections: dialling a relay, and serving one accepted connection.
