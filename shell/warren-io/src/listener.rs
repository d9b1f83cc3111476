//! One listener, plain and TLS on the same port: a first byte of 0x16 begins TLS.
