//! The mounted secret: read, understood, watched (shell).
