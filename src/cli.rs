//! Arguments as typed, and what to do with them (shell).
