//! Real binaries in namespaces; other people's clients
