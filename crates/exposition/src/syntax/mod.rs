//! The grammar of both text formats: sample lines, names and numbers. Strict and without state.

pub(crate) mod name;
pub(crate) mod number;
pub(crate) mod sample_line;
