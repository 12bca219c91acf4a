//! Several inputs merged into one response: planned, not yet written.
//!
//! ```text
//! inputs ─ plan ──────── which source family belongs to which family of the response
//!        ─ duplicates ── which samples are left out, because their series is there already
//!        ─ order ─────── which families have to be sorted for OpenMetrics
//!        → Merged ────── written by `write`
//! ```
//!
//! The rules, with sources and examples, are in docs/explanation/merge-rules.md.

mod classify;
mod collect;
mod conflicts;
mod created;
mod duplicates;
pub(crate) mod family;
mod in_order;
mod input;
mod limit;
mod names;
mod order;
mod plan;
mod series_key;
mod slots;
mod source;

use crate::Pool;
use crate::cancel::{Cancel, Cancelled};
use crate::negotiate::OutputFormat;
pub use conflicts::{Conflict, ConflictKind};
use duplicates::Domains;
pub use input::Input;
pub use limit::{RefusedInput, limit_samples};
pub(crate) use order::ExplicitOrder;
pub(crate) use plan::{Plan, help_text};

/// Several expositions merged: planned, not yet written.
#[derive(Debug)]
pub struct Merged {
    pub(crate) inputs: Vec<Input>,
    pub(crate) format: OutputFormat,
    pub(crate) plan: Plan,
    /// Sorted by family and first contribution.
    pub(crate) orders: Vec<ExplicitOrder>,
    n_samples: usize,
    n_dropped: usize,
    pub(crate) pool: Option<Pool>,
}

/// Merges the expositions of several targets into one, in the order given.
///
/// Equal inputs give equal bytes. Families come in the order of their first sample, after `up`. The samples of a family
/// stand target after target, each target's in its own order, with their timestamps and, in OpenMetrics, their exemplars.
///
/// Where targets disagree, no sample is lost or renamed; [`Merged::conflicts`] lists the disagreements.
pub fn merge(inputs: Vec<Input>, format: &OutputFormat) -> Merged {
    merge_unless(&|| false, inputs, format)
        .unwrap_or_else(|Cancelled| unreachable!("this merge is never cancelled"))
}

/// As [`merge`], but stops when `is_cancelled` returns true. It is asked in every step, after each thousand samples or
/// families, which is every few milliseconds. [`Merged::write`] stops when its sink returns false.
///
/// # Errors
/// If the merge was cancelled.
pub fn merge_unless(
    is_cancelled: &dyn Fn() -> bool,
    inputs: Vec<Input>,
    format: &OutputFormat,
) -> Result<Merged, Cancelled> {
    let mut inputs = inputs;
    let cancel = Cancel::new(is_cancelled);
    let mut plan = plan::plan(&inputs, format, cancel)?;
    let domains = Domains::new(&inputs);
    let mut n_dropped = duplicates::drop_duplicates(&mut inputs, &domains, &plan, format, cancel)?;
    let orders = if format.is_open_metrics() {
        order::order_metrics(&inputs, &domains, &mut plan, format, cancel)?
    } else {
        Vec::new()
    };
    let mut n_samples = inputs.iter().filter(|input| input.up.is_some()).count();
    for exposition in inputs.iter().filter_map(|input| input.exposition.as_ref()) {
        n_samples += exposition.index.samples.len();
        n_dropped += exposition.index.n_dropped;
    }
    Ok(Merged {
        inputs,
        format: format.clone(),
        plan,
        orders,
        n_samples: n_samples - n_dropped,
        n_dropped,
        pool: None,
    })
}

impl Merged {
    /// What the targets disagree on, sorted by family.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.plan.conflicts
    }

    /// Samples that [`Merged::write`] writes, `up` included.
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// Samples that are left out because their series is there already, or because the response format cannot hold their
    /// timestamp.
    pub fn n_dropped(&self) -> usize {
        self.n_dropped
    }

    /// Families of the response.
    pub fn n_families(&self) -> usize {
        self.plan.families.len()
    }

    /// Gives the inputs back, so that their buffers can be used again.
    pub fn into_inputs(self) -> Vec<Input> {
        self.inputs
    }
}

impl Pool {
    /// As [`merge`]. Chunks are written into buffers that were given back.
    pub fn merge(&self, inputs: Vec<Input>, format: &OutputFormat) -> Merged {
        let mut merged = merge(inputs, format);
        merged.pool = Some(self.clone());
        merged
    }

    /// As [`merge_unless`], with the buffers of the pool.
    ///
    /// # Errors
    /// If the merge was cancelled.
    pub fn merge_unless(
        &self,
        is_cancelled: &dyn Fn() -> bool,
        inputs: Vec<Input>,
        format: &OutputFormat,
    ) -> Result<Merged, Cancelled> {
        let mut merged = merge_unless(is_cancelled, inputs, format)?;
        merged.pool = Some(self.clone());
        Ok(merged)
    }
}
