//! Gauges of text targets that are the `_created` samples of another family (rule `created-samples`).

use std::collections::HashMap;

use crate::Exposition;
use crate::index::SourceFamily;
use crate::negotiate::{Format, OutputFormat};
use crate::types::{MetricType, Suffix};

/// The gauges of a text target whose name is that of one of its counters, histograms or summaries with `_created`
/// behind it, by their names; each with the type of that family. Empty for a response in text, where they stay gauges.
pub(super) fn created_gauges(exposition: &Exposition, format: &OutputFormat) -> HashMap<Vec<u8>, MetricType> {
    let body = &exposition.body;
    let is_candidate = |source_family: &&SourceFamily| {
        let name = source_family.name.span.of(body);
        source_family.kind == Some(MetricType::Gauge)
            && !source_family.name.quoted
            && name.ends_with(Suffix::Created.as_str().as_bytes())
    };
    let source_families = &exposition.index.families;
    if format.format == Format::Text
        || exposition.open_metrics
        || !source_families
            .iter()
            .any(|source_family| is_candidate(&source_family))
    {
        return HashMap::new();
    }
    let bases = families_with_created(exposition, format);
    let mut found = HashMap::new();
    for source_family in source_families.iter().filter(is_candidate) {
        let name = source_family.name.span.of(body);
        let base = &name[..name.len() - Suffix::Created.as_str().len()];
        if let Some(kind) = bases.get(base) {
            found.insert(name.to_vec(), *kind);
        }
    }
    found
}

/// The families of a text target that may have `_created` samples in OpenMetrics, by the name that they have there.
fn families_with_created(exposition: &Exposition, format: &OutputFormat) -> HashMap<Vec<u8>, MetricType> {
    let mut bases = HashMap::new();
    for source_family in &exposition.index.families {
        let name = source_family.name.decode(&exposition.body).into_owned();
        match source_family.kind {
            Some(kind @ (MetricType::Histogram | MetricType::Summary))
                if source_family.notes & SourceFamily::LACKS_LABEL == 0 =>
            {
                bases.insert(name, kind);
            }
            Some(MetricType::Counter) => {
                if let Some(base) = name.strip_suffix(b"_total") {
                    bases.insert(base.to_vec(), MetricType::Counter);
                } else if format.quirks.is_prometheus || source_family.suffixes.has(Suffix::Total) {
                    bases.insert(name, MetricType::Counter);
                }
            }
            _ => {}
        }
    }
    bases
}
