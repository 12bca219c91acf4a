//! The engine as other crates use it: whole responses, laws that hold whatever targets send, and proportionate cost.

mod cancel;
mod common;
mod generate;
mod golden_cases;
mod goldens;
mod laws;
mod rules_page;
mod scale;
