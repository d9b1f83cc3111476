//! The TS2021 Noise record channel as a byte stream, client and server.
