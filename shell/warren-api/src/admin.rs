//! The operators' API: the matching part of headscale's REST v1, over an admin socket.
