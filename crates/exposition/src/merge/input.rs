//! What goes into a merge.

use crate::Exposition;

/// What one target contributes to a response.
#[derive(Debug, Default)]
pub struct Input {
    /// Labels that are added to each sample and to `up`. A sample's own label of such a name becomes `exported_<name>`.
    pub labels: Vec<(String, String)>,
    /// The value of the target's `up`; `None` if the input is not a target and has no `up`.
    pub up: Option<bool>,
    /// The target's exposition, if it was fetched and parsed.
    pub exposition: Option<Exposition>,
    /// Whether these are metrics of the program itself. Only they may have names that begin with `metrics_proxy_`; in
    /// other inputs such names get the prefix `exported_`.
    pub own: bool,
}
