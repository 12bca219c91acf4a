//! Keeps Pebble's plan and identities as they should be (shell).
