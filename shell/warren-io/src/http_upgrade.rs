//! HTTP/1.1 upgrades, client and server side: what is left in the buffer after the headers is kept.
