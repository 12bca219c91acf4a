//! The grammar of both text formats: lines, names and numbers. Strict and without state.

pub(crate) mod line;
pub(crate) mod name;
pub(crate) mod number;
