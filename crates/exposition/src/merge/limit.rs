//! A limit on the samples of a whole response.
//!
//! Prometheus applies `sample_limit` to the response, so that one target with very many samples would cost all of them.

use super::Input;
use crate::Exposition;

/// A target whose exposition was taken out of a response.
#[derive(Debug)]
pub struct RefusedInput {
    /// Its position among the inputs.
    pub position: usize,
    /// What was taken out. Its buffer can be used again.
    pub exposition: Exposition,
}

/// Takes out the expositions of the largest targets until the response has at most `max_samples` samples, and sets the `up`
/// of these targets to 0. Inputs that are not targets stay.
///
/// The largest go first, whatever came first, and of two equal ones the later in the order of the merge, so that
/// the same targets are refused at each scrape. Samples that the merge leaves out as duplicates count as well.
pub fn limit_samples(inputs: &mut [Input], max_samples: usize) -> Vec<RefusedInput> {
    let n_samples = |input: &Input| input.exposition.as_ref().map_or(0, Exposition::n_samples);
    let n_up = inputs.iter().filter(|input| input.up.is_some()).count();
    let mut total: usize = n_up + inputs.iter().map(n_samples).sum::<usize>();
    let mut refused = Vec::new();
    if total <= max_samples {
        return refused;
    }
    let mut by_size: Vec<(usize, usize)> = inputs
        .iter()
        .enumerate()
        .filter(|(_, input)| input.up.is_some() && n_samples(input) > 0)
        .map(|(position, input)| (n_samples(input), position))
        .collect();
    by_size.sort_unstable();
    while total > max_samples
        && let Some((n_samples, position)) = by_size.pop()
    {
        let input = &mut inputs[position];
        if let Some(exposition) = input.exposition.take() {
            input.up = Some(false);
            total -= n_samples;
            refused.push(RefusedInput { position, exposition });
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{parsed, targets, text, written};

    fn body(n: usize) -> String {
        (0..n)
            .map(|i| format!("a{{i=\"{i}\"}} 1\n"))
            .collect::<Vec<_>>()
            .concat()
    }

    #[track_caller]
    fn check(sizes: &[usize], max_samples: usize, expect: &[usize]) {
        let bodies: Vec<String> = sizes.iter().map(|&n| body(n)).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        let mut inputs = targets(&bodies);
        let refused: Vec<usize> = limit_samples(&mut inputs, max_samples)
            .iter()
            .map(|refused| refused.position)
            .collect();
        assert_eq!(refused, expect, "{sizes:?} within {max_samples}");
        for (position, input) in inputs.iter().enumerate() {
            assert_eq!(input.up, Some(!expect.contains(&position)));
        }
        let merged = crate::merge(inputs, &text());
        let n_written = written(&merged)
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count();
        assert_eq!(n_written, merged.n_samples());
        assert!(n_written <= max_samples || expect.len() == sizes.len());
    }

    #[test]
    fn the_largest_targets_are_refused_first() {
        check(&[3, 5, 4], 15, &[]);
        check(&[3, 5, 4], 14, &[1]);
        check(&[3, 5, 4], 9, &[1, 2]);
        // Of equal ones the later.
        check(&[4, 4, 1], 8, &[1]);
        // The `up` of each target stays, whatever the limit is.
        check(&[2, 2], 0, &[1, 0]);
    }

    #[test]
    fn inputs_that_are_no_targets_stay() {
        let mut inputs = targets(&["a 1\n"]);
        inputs.push(Input {
            exposition: Some(parsed(&body(10))),
            own: true,
            ..Input::default()
        });
        let refused = limit_samples(&mut inputs, 5);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].exposition.n_samples(), 1);
        assert!(inputs[1].exposition.is_some());
    }
}
