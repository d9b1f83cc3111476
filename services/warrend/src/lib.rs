//! Node daemon: lifecycle and LocalAPI
