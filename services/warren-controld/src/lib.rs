//! Control server: Noise endpoint, map streams, REST, login pages
