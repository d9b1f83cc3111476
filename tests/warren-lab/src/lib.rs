//! Whole nodes, relays and control servers on simnet, against a reference model
