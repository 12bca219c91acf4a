//! Listener and routes; a handler always answers (shell).
