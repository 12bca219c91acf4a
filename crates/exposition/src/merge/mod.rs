//! Several expositions to one: families, conflicts, duplicates and order.

pub(crate) mod dedup;
pub(crate) mod order;
pub(crate) mod plan;
