//! What limits a body: fixed numbers, and a meter that is asked while a body is parsed.

/// What one target may send; 0 means that there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Samples of one body, duplicates included.
    pub max_samples: u64,
    /// Metric families of one body.
    pub max_families: u64,
    /// Labels of one sample, without its name, before any are added.
    pub max_labels: u64,
    /// Bytes of a label name.
    pub max_label_name_length: u64,
    /// Bytes of a label value without escapes. It holds for metric names too, which are the values of `__name__`.
    pub max_label_value_length: u64,
}

/// Is asked about every 64 KiB of a body whether parsing may go on. So a body can neither allocate more than its share nor
/// keep a thread busy after the scrape has ended.
///
/// ```
/// use exposition::{Limits, Meter, RejectionKind, parse_metered};
///
/// struct Allowance(usize);
///
/// impl Meter for Allowance {
///     fn charge(&mut self, n_bytes: usize) -> bool {
///         let rest = self.0.checked_sub(n_bytes);
///         self.0 = rest.unwrap_or(0);
///         rest.is_some()
///     }
///
///     fn is_cancelled(&self) -> bool {
///         false
///     }
/// }
///
/// let body: String = (0..10_000).map(|i| format!("metric_{i} 1\n")).collect();
/// let parsed = parse_metered(body.into_bytes(), None, &Limits::default(), &mut Allowance(1 << 20));
/// assert_eq!(parsed.expect_err("too many families").kind, RejectionKind::MemoryBudget);
/// ```
pub trait Meter {
    /// Accounts for `n_bytes` more of memory: for the index, which remains with the [`Exposition`](crate::Exposition), and for
    /// the parser's tables, which are free again when parsing ends. The body itself is not included. Returns `false` if there
    /// is not enough memory; the body is then rejected.
    fn charge(&mut self, n_bytes: usize) -> bool;

    /// Whether parsing is to stop.
    fn is_cancelled(&self) -> bool;
}

/// A meter that allows everything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unmetered;

impl Meter for Unmetered {
    fn charge(&mut self, _n_bytes: usize) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}
