//! Parses, merges and writes metrics in the Prometheus text format and in OpenMetrics.
//!
//! A program that scrapes several targets can merge what they send into one valid response: [`parse()`] each body, [`merge()`]
//! them, and [`Merged::write`] the result. Values, timestamps, exemplars and escapes keep their own spelling wherever the
//! format of the response can express it. The rules of merging are in `docs/explanation/merge-rules.md`.
//!
//! Bytes in, bytes out: nothing here does I/O, asks for the time or starts a thread. Equal input gives equal output.
//!
//! # Parse one body
//!
//! ```
//! use exposition::{Format, Limits, parse};
//!
//! let body = b"# TYPE jobs gauge\njobs{queue=\"mail\"} 3\njobs{queue=\"print\"} 0\n";
//! let exposition = parse(body.to_vec(), Some("text/plain"), &Limits::default())?;
//! assert_eq!(exposition.n_samples(), 2);
//! assert_eq!(exposition.format(), Format::Text);
//!
//! let rejection = parse(b"jobs 3\njobs{queue=mail} 3\n".to_vec(), None, &Limits::default()).expect_err("no quotes");
//! assert_eq!(rejection.to_string(), "line 2: a label value is not quoted: jobs{queue=mail} 3");
//! # Ok::<(), exposition::Rejection>(())
//! ```
//!
//! # Merge two bodies
//!
//! ```
//! use exposition::{Input, Limits, merge, negotiate, parse};
//!
//! let mut inputs = Vec::new();
//! for (pod, body) in [("a", "# TYPE jobs gauge\njobs 3\n"), ("b", "# TYPE jobs gauge\njobs 0\n")] {
//!     inputs.push(Input {
//!         labels: vec![("pod".to_owned(), pod.to_owned())],
//!         up: Some(true),
//!         exposition: Some(parse(body.into(), None, &Limits::default())?),
//!         own: false,
//!     });
//! }
//! // The headers Accept, Accept-Encoding and User-Agent of the scraper choose the format.
//! let format = negotiate(Some("text/plain"), None, Some("Prometheus/3.1.0"));
//! let merged = merge(inputs, &format);
//! let mut response = Vec::new();
//! merged.write(64 << 10, &mut |chunk| {
//!     response.extend_from_slice(&chunk);
//!     true
//! });
//! let response = String::from_utf8(response).expect("responses are UTF-8");
//! assert!(response.ends_with("# TYPE jobs gauge\njobs{pod=\"a\"} 3\njobs{pod=\"b\"} 0\n"));
//! # Ok::<(), exposition::Rejection>(())
//! ```
//!
//! # How it works
//!
//! ```text
//! body ──→ parse ──→ Exposition (body + index) ─┐
//! body ──→ parse ──→ Exposition (body + index) ─┼→ merge ──→ Merged ──→ write ──→ chunks of the response
//! body ──→ parse ──→ Exposition (body + index) ─┘    ↑
//! headers of the request ──→ negotiate ──→ OutputFormat
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `syntax` | the grammar: lines, names, numbers; strict, without state |
//! | `parse` | from a body to its index, with a fast path for lines that are like the one before |
//! | `index`, `types` | the index, and the types that all parts share |
//! | `merge` | which source families form a family of the response, which samples are duplicates, what has to be sorted |
//! | `write` | copies the samples out of the bodies, with labels added |
//! | `relabel` | what adding labels means for one label set |
//! | `negotiate` | which format a scraper gets |
//! | `pool`, `gzip` | memory that is reused between responses; compression by blocks |
//! | `simd` | questions about sixteen bytes at a time |
//!
//! # One line through all tables
//!
//! A target sends this body, and the line of interest is the third:
//!
//! ```text
//! # TYPE http_requests counter
//! http_requests_total{method="GET",code="200"} 12
//! http_requests_total{method="GET",code="404"} 3
//! ```
//!
//! 1. *Parse.* The line begins like the previous line of its name, which is remembered per sample name. The comparison ends
//!    at byte 39, inside the value of `code`, so that only `404`, the closing brace and the number are looked at. The index
//!    gets a `Sample` with offsets (start, the place for more labels, end of the value) and the id of its label schema,
//!    `(method, code)`. It belongs to the `Run` that the line before began, and that to the `SourceFamily` `http_requests`,
//!    a counter with samples of the suffix `_total`. The hash of the series goes into the filter that finds duplicates.
//! 2. *Merge.* For a response in the text format, the samples of suffix `_total` of a counter form a family of the sample's
//!    name, `http_requests_total`. Other targets with the same name and type contribute to it. A target that says `gauge`
//!    is in conflict, and the family is written without a type.
//! 3. *Write.* With the label `pod="a"` to add, the bytes up to the place for more labels are copied, then `,pod="a"`, and
//!    the rest of the line together with the beginning of the next one:
//!
//! ```text
//! http_requests_total{method="GET",code="404",pod="a"} 3
//! ```
//!
//! # Glossary
//!
//! | term | meaning |
//! | --- | --- |
//! | source family | the samples of one body whose names belong together, with their TYPE, HELP and UNIT |
//! | output family | a family of the response, to which source families contribute |
//! | label schema | the label names of a line, in their order |
//! | type context | the type of the last TYPE line before a sample, whatever its name; Prometheus 3 normalizes bounds by it |
//! | bound | the value of `le` of a bucket or of `quantile` of a summary |
//! | canonical line | `name{label="value",...} value timestamp` without other blanks or commas |
//! | run | consecutive samples of one source family in one type context |
//! | suffix | what the name of a sample has beyond its family's: `_total`, `_bucket`, ...; unsuffixed without |
//! | unlabelled, unquoted | a line without labels; a name without quotes |
//! | duplicate | a sample whose series occurs earlier, in the same body or in another input |
//! | rejection | why a body is not accepted, as a whole |

#![warn(missing_docs)]

mod cancel;
mod content_type;
mod exposition;
mod gzip;
mod index;
mod limits;
mod merge;
mod negotiate;
mod parse;
mod pool;
mod rejection;
mod relabel;
mod simd;
mod syntax;
mod types;
mod write;

use std::sync::LazyLock;

pub use cancel::Cancelled;
pub use exposition::{Exposition, parse, parse_metered};
pub use gzip::{DeflatedBlock, GzipStream, deflate_block};
pub use limits::{Limits, Meter};
pub use merge::{Conflict, ConflictKind, Input, Merged, RefusedInput, limit_samples, merge, merge_unless};
pub use negotiate::{Format, OutputFormat, negotiate};
pub use pool::Pool;
pub use rejection::{Rejection, RejectionKind};
pub use syntax::name::Escaping;

/// The hasher of this process. Its seed is random, so that a harmful body cannot contain names chosen to collide. It never
/// influences the output.
fn hasher() -> &'static foldhash::quality::RandomState {
    static STATE: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);
    &STATE
}

#[cfg(test)]
mod tests;
