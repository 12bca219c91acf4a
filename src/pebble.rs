//! Pebble's API over its unix socket, one file per resource (shell).
