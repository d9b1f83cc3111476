//! LocalAPI: the contract that the stock command line and tools speak with a node daemon.
