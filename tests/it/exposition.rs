//! What real parsers and real Prometheus servers say of the engine's output. Its other tests are in `crates/exposition`.

#[path = "../../crates/exposition/tests/engine/common.rs"]
mod common;
#[path = "../../crates/exposition/tests/engine/generate.rs"]
mod generate;
#[path = "../../crates/exposition/tests/engine/golden_cases.rs"]
mod golden_cases;
mod judges;
mod pages;
mod requests;
mod servers;
