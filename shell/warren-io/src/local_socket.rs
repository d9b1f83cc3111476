//! Unix sockets with the peer credentials of the caller.
