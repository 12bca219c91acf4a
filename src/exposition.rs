//! The exposition engine (core): parse, relabel, merge, encode, negotiate.
