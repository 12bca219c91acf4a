//! What can only be known at the end of a body.

use super::Parser;
use super::scan::to_u32;
use crate::index::{SourceFamily, TableRange};
use crate::types::{FamilyId, Id as _, MetricType, Suffix};

impl Parser<'_> {
    /// Completes the index: families of TYPE lines that came after their samples, metadata, duplicates, order of runs.
    pub(super) fn finish(&mut self) {
        self.close_run();
        self.find_uncertainty();
        self.apply_late_types();
        self.add_families_without_samples();
        self.copy_metadata();
        self.note_lacking_labels();
        self.scratch.duplicates.mark(self.body, self.index);
        self.sort_runs();
    }

    /// Finds out whether equal series may be spelled differently: with an empty label, or with labels in another order.
    fn find_uncertainty(&mut self) {
        let permuted = self.scratch.schemas.permuted;
        self.index.uncertain |= self
            .scratch
            .sample_names
            .iter()
            .any(|entry| entry.schemas_vary && (entry.has_empty_values || permuted));
    }

    /// Moves the samples of `a_sum` to the family `a` where `# TYPE a histogram` came after them.
    fn apply_late_types(&mut self) {
        let mut moved_to: Vec<Option<FamilyId>> = Vec::new();
        for id in self.scratch.sample_names.ids() {
            let entry = &self.scratch.sample_names[id];
            if entry.suffix != Suffix::Unsuffixed {
                continue;
            }
            let family = entry.family;
            let (name, suffix) = self.family_name_of(entry.name);
            if suffix == Suffix::Unsuffixed {
                continue;
            }
            let target = self.family_id(name);
            let bounds = self.index.families[family].notes & SourceFamily::BOUNDS;
            let target_family = &mut self.index.families[target];
            target_family.suffixes.add(suffix.bit());
            target_family.notes |= bounds;
            moved_to.resize(self.index.families.len(), None);
            moved_to[family.index()] = Some(target);
            let entry = &mut self.scratch.sample_names[id];
            entry.family = target;
            entry.suffix = suffix;
        }
        for run in self.index.runs.iter_mut() {
            if let Some(&Some(target)) = moved_to.get(run.family.index()) {
                run.family = target;
            }
        }
    }

    /// A family without samples lends its HELP text to other inputs.
    fn add_families_without_samples(&mut self) {
        for name in self.scratch.names.ids() {
            let entry = &self.scratch.names[name];
            if entry.family.is_none() && entry.help.is_some_and(|help| !help.is_empty()) {
                self.family_id(name);
            }
        }
    }

    fn copy_metadata(&mut self) {
        for (family, &name) in self.index.families.iter_mut().zip(&self.scratch.family_names) {
            let entry = &self.scratch.names[name];
            family.kind = entry.kind;
            family.help = entry.help;
            family.unit = entry.unit;
            family.texts_key = entry.texts_key;
        }
    }

    fn note_lacking_labels(&mut self) {
        for entry in &self.scratch.sample_names {
            let family = &mut self.index.families[entry.family];
            let lacks = match (entry.suffix, family.kind) {
                (Suffix::Bucket, _) => entry.lacks.le,
                (Suffix::Unsuffixed, Some(MetricType::Summary)) => entry.lacks.quantile,
                (Suffix::Unsuffixed, Some(MetricType::StateSet)) => entry.lacks.own_name,
                _ => false,
            };
            if lacks {
                family.notes |= SourceFamily::LACKS_LABEL;
            }
        }
    }

    fn sort_runs(&mut self) {
        let index = &mut *self.index;
        let (runs, run_order) = (&index.runs, &mut index.run_order);
        run_order.extend(runs.ids());
        run_order.sort_by_key(|&run| runs[run].family);
        let mut start = 0;
        while start < run_order.len() {
            let family = runs[run_order[start]].family;
            let n_runs = run_order[start..]
                .iter()
                .take_while(|&&run| runs[run].family == family)
                .count();
            index.families[family].runs = TableRange {
                start: to_u32(start),
                end: to_u32(start + n_runs),
            };
            start += n_runs;
        }
    }
}
