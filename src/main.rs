//! The `metrics-proxy` program.

fn main() {}
