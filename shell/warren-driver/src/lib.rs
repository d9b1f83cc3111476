//! The node's event loop on real sockets
