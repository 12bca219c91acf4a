//! Fan-out: one bounded, timed scrape of each target (shell).
