//! Our layer, checks and service as values, rendered to YAML in one place (core).
