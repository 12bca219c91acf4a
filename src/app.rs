//! Builds and owns everything (shell).
