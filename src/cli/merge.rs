//! `metrics-proxy merge`: what `/metrics` would serve for bodies that are stored in files.
//!
//! Everything but reading and printing is in [`merge_bodies`], which is pure.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use exposition::{Escaping, Format, Input, Limits, OutputFormat, Rejection};

/// The most that a compressed file may hold.
const MOST_PLAIN_BYTES: u64 = 1 << 30;

/// The names of formats on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum FormatName {
    /// Prometheus text 0.0.4
    #[default]
    Text,
    /// OpenMetrics 1.0
    #[value(alias = "om")]
    Openmetrics,
}

/// How names with characters outside the classic set are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum EscapingName {
    /// Quoted, as Prometheus 3 reads them
    AllowUtf8,
    /// `_` for each other character
    #[default]
    Underscores,
    /// `_dot_` for a dot
    Dots,
    /// `U__` and code points
    Values,
}

impl From<EscapingName> for Escaping {
    fn from(name: EscapingName) -> Self {
        match name {
            EscapingName::AllowUtf8 => Self::AllowUtf8,
            EscapingName::Underscores => Self::Underscores,
            EscapingName::Dots => Self::Dots,
            EscapingName::Values => Self::Values,
        }
    }
}

/// A target and the file with its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The name of the pod.
    pub(crate) name: String,
    /// The namespace, if one is given.
    pub(crate) namespace: Option<String>,
    /// The path, or `-` for standard input.
    pub(crate) file: String,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed =
            || format!("cannot read {text:?} as a target; write NAME=FILE or NAME@NAMESPACE=FILE");
        let (target, file) = text.split_once('=').ok_or_else(malformed)?;
        let (name, namespace) = match target.split_once('@') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (target, None),
        };
        if name.is_empty() || file.is_empty() || namespace == Some("") {
            return Err(malformed());
        }
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            file: file.to_owned(),
        })
    }
}

/// Reads `--label name=value`.
fn parse_label(text: &str) -> Result<(String, String), String> {
    let malformed = || format!("cannot read {text:?} as a label; write NAME=VALUE");
    let (name, value) = text.split_once('=').ok_or_else(malformed)?;
    let mut bytes = name.bytes();
    let legal = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name != "__name__";
    if !legal {
        return Err(format!("cannot use {name:?} as a label name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Arguments of `merge`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MergeArgs {
    /// Format of the response
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: FormatName,
    /// How names with characters outside the classic set are written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) escaping: EscapingName,
    /// A label to add to every sample, besides `k8s_pod_name` and `k8s_namespace`; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Content type of the files: text, openmetrics, or a media type; without it, each file is detected by its content
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    pub(crate) content_type: Option<String>,
    /// The targets, each with the file of its body; `-` means standard input. Files may be gzip
    #[arg(required = true, value_name = "NAME[@NAMESPACE]=FILE")]
    pub(crate) sources: Vec<Source>,
}

/// A Content-Type that the files may have.
const MEDIA_TYPES: [(&str, &str); 2] = [
    ("text", "text/plain"),
    ("openmetrics", "application/openmetrics-text"),
];

/// Reads `--type`: a word, or a media type with parameters.
fn parse_type(text: &str) -> Result<String, String> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let known = MEDIA_TYPES
        .iter()
        .find(|(word, media_type)| *word == text || media_type.eq_ignore_ascii_case(essence));
    match known {
        Some((word, media_type)) if *word == text => Ok((*media_type).to_owned()),
        Some(_) => Ok(text.to_owned()),
        None => Err("use text, openmetrics, text/plain or application/openmetrics-text".to_owned()),
    }
}

impl MergeArgs {
    /// Checks that no two targets are the same.
    ///
    /// # Errors
    /// A sentence that names the target. Both would have the same `up`, which no scraper accepts.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut known = HashSet::new();
        for source in &self.sources {
            if !known.insert((&source.name, &source.namespace)) {
                let namespace = source.namespace.iter().map(|namespace| format!("@{namespace}"));
                return Err(format!(
                    "the target {}{} is given twice; give each file a target of its own",
                    source.name,
                    namespace.collect::<String>()
                ));
            }
        }
        Ok(())
    }
}

/// A merged response and the problems found.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exposition.
    pub(crate) text: Vec<u8>,
    /// The names of targets that were rejected, and why.
    pub(crate) refused: Vec<(String, Rejection)>,
    /// All problems, rejected targets first, a line each.
    pub(crate) problems: Vec<String>,
}

/// Merges bodies as `/metrics` would. `bodies` and `args.sources` correspond by position.
pub(crate) fn merge_bodies(args: &MergeArgs, bodies: Vec<Vec<u8>>) -> Outcome {
    let content_type = args.content_type.as_deref();
    let format = match args.format {
        FormatName::Text => Format::Text,
        FormatName::Openmetrics => Format::OpenMetrics,
    };
    let output = OutputFormat::new(format, args.escaping.into());
    let mut refused = Vec::new();
    let mut sources: Vec<(&Source, Vec<u8>)> = args.sources.iter().zip(bodies).collect();
    // The server sorts its targets in the same way.
    sources.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let parts = sources
        .into_iter()
        .map(|(source, body)| {
            let parsed = exposition::parse(body, content_type, &Limits::default());
            let exposition = parsed
                .map_err(|refusal| refused.push((source.name.clone(), refusal)))
                .ok();
            let mut labels = vec![("k8s_pod_name".to_owned(), source.name.clone())];
            labels.extend(
                source
                    .namespace
                    .clone()
                    .map(|namespace| ("k8s_namespace".to_owned(), namespace)),
            );
            for (name, value) in &args.labels {
                labels.retain(|(other, _)| other != name);
                labels.push((name.clone(), value.clone()));
            }
            Input {
                labels,
                up: Some(exposition.is_some()),
                exposition,
                own: false,
            }
        })
        .collect();
    let merged = exposition::merge(parts, &output);
    let mut text = Vec::new();
    merged.write(1 << 18, &mut |chunk| {
        text.extend_from_slice(&chunk);
        true
    });
    let mut problems: Vec<String> = refused
        .iter()
        .map(|(name, refusal)| format!("cannot use the body of {name}: {refusal}"))
        .collect();
    problems.extend(merged.conflicts().iter().map(ToString::to_string));
    if merged.n_dropped() > 0 {
        problems.push(format!(
            "{} samples left out: their series exist already",
            merged.n_dropped()
        ));
    }
    Outcome {
        text,
        refused,
        problems,
    }
}

/// Prints the merged exposition, and problems on standard error. The exit code is 1 if a target was rejected.
///
/// # Errors
/// If a file cannot be read or the response cannot be written.
pub(crate) fn run(args: &MergeArgs) -> anyhow::Result<u8> {
    let bodies = args
        .sources
        .iter()
        .map(read_source)
        .collect::<anyhow::Result<_>>()?;
    let outcome = merge_bodies(args, bodies);
    let mut stderr = std::io::stderr().lock();
    for problem in &outcome.problems {
        // If standard error is closed, nobody reads it.
        let _ = writeln!(stderr, "{problem}");
    }
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(&outcome.text).and_then(|()| stdout.flush()) {
        // The reader has seen enough, as with `| head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("cannot write the exposition")?,
    }
    Ok(u8::from(!outcome.refused.is_empty()))
}

/// Reads a body, and decompresses it if it is gzip.
fn read_source(source: &Source) -> anyhow::Result<Vec<u8>> {
    let body = read_bytes(source)?;
    if !body.starts_with(&[0x1f, 0x8b]) {
        return Ok(body);
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(body.as_slice())
        .take(MOST_PLAIN_BYTES)
        .read_to_end(&mut plain)
        .with_context(|| format!("cannot decompress {}", source.file))?;
    if plain.len() as u64 == MOST_PLAIN_BYTES {
        bail!(
            "{} has more than {MOST_PLAIN_BYTES} bytes when it is decompressed",
            source.file
        );
    }
    Ok(plain)
}

fn read_bytes(source: &Source) -> anyhow::Result<Vec<u8>> {
    if source.file == "-" {
        let mut body = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut body)
            .context("cannot read standard input")?;
        return Ok(body);
    }
    std::fs::read(&source.file).with_context(|| format!("cannot read {}", source.file))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        merge: MergeArgs,
    }

    fn args(line: &str) -> MergeArgs {
        let words = std::iter::once("merge").chain(line.split_whitespace());
        Cli::try_parse_from(words)
            .unwrap_or_else(|error| panic!("{error}"))
            .merge
    }

    #[track_caller]
    fn refuses(line: &str, reason: &str) {
        let words = std::iter::once("merge").chain(line.split_whitespace());
        let Err(error) = Cli::try_parse_from(words) else {
            panic!("accepted {line}");
        };
        assert!(error.to_string().contains(reason), "{error}");
    }

    #[test]
    fn it_prints_what_metrics_would() {
        let args = args("--label zone=z b@n=x a@n=-");
        let outcome = merge_bodies(&args, vec![b"m 1\n".to_vec(), b"m{zone=\"q\"} 2\nm 3\n".to_vec()]);
        let text = String::from_utf8_lossy(&outcome.text);
        assert!(
            text.ends_with(
                "# TYPE m untyped\nm{exported_zone=\"q\",k8s_pod_name=\"a\",k8s_namespace=\"n\",zone=\"z\"} 2\n\
                 m{k8s_pod_name=\"a\",k8s_namespace=\"n\",zone=\"z\"} 3\n\
                 m{k8s_pod_name=\"b\",k8s_namespace=\"n\",zone=\"z\"} 1\n"
            ),
            "{text}"
        );
        assert!(outcome.problems.is_empty());
    }

    #[test]
    fn a_refused_target_is_named_and_down() {
        let args = args("--format openmetrics a=x b=y");
        let outcome = merge_bodies(&args, vec![b"m 1\nm x\n".to_vec(), b"m 1\n".to_vec()]);
        let text = String::from_utf8_lossy(&outcome.text);
        assert!(
            text.contains("up{k8s_pod_name=\"a\"} 0\nup{k8s_pod_name=\"b\"} 1\n"),
            "{text}"
        );
        assert!(text.ends_with("m{k8s_pod_name=\"b\"} 1\n# EOF\n"), "{text}");
        assert_eq!(
            outcome.problems,
            ["cannot use the body of a: line 2: the value is not a number: m x"]
        );
    }

    #[test]
    fn disagreements_are_told() {
        let outcome = merge_bodies(
            &args("a=x b=y"),
            vec![
                b"# TYPE m gauge\nm 1\n".to_vec(),
                b"# TYPE m counter\nm 1\nm 2\n".to_vec(),
            ],
        );
        assert_eq!(
            outcome.problems,
            [
                "type conflict over m: gauge m, counter m",
                "1 samples left out: their series exist already"
            ]
        );
    }

    #[test]
    fn the_type_of_the_files_can_be_said() {
        let outcome = merge_bodies(&args("--type openmetrics a=x"), vec![b"m 1\n".to_vec()]);
        assert_eq!(outcome.refused.len(), 1);
        let outcome = merge_bodies(&args("--type text a=x"), vec![b"m 1\n".to_vec()]);
        assert!(outcome.refused.is_empty());
    }

    #[test]
    fn an_unknown_type_is_refused_with_the_known_ones() {
        let known = "use text, openmetrics, text/plain or application/openmetrics-text";
        for unknown in ["html", "text/html", "OpenMetric"] {
            refuses(&format!("--type {unknown} a=x"), known);
        }
        for (given, media_type) in [
            ("text", "text/plain"),
            ("openmetrics", "application/openmetrics-text"),
            ("text/plain;version=0.0.4", "text/plain;version=0.0.4"),
        ] {
            assert_eq!(
                args(&format!("--type {given} a=x")).content_type.as_deref(),
                Some(media_type)
            );
        }
    }

    #[test]
    fn a_target_is_given_once() {
        assert_eq!(args("a=f b=f a@n=f").check(), Ok(()));
        assert_eq!(
            args("a@n=f a@n=g").check(),
            Err("the target a@n is given twice; give each file a target of its own".to_owned())
        );
        assert!(args("a=f a=f").check().is_err());
    }

    #[test]
    fn gzip_is_decompressed() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("body.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"m 1\n").expect("a vector can be written");
        std::fs::write(&file, encoder.finish().expect("a vector can be written")).expect("a file");
        let source: Source = format!("a={}", file.display()).parse().expect("a source");
        assert_eq!(read_source(&source).expect("gzip"), b"m 1\n");
        std::fs::write(&file, [0x1f, 0x8b, 0, 0]).expect("a file");
        let error = read_source(&source).expect_err("not gzip after all");
        assert!(
            format!("{error:#}").starts_with("cannot decompress "),
            "{error:#}"
        );
    }

    #[test]
    fn malformed_arguments_are_refused() {
        refuses("", "required");
        refuses("a", "write NAME=FILE");
        refuses("=x", "write NAME=FILE");
        refuses("a@=x", "write NAME=FILE");
        refuses("--label 1=x a=x", "cannot use \"1\" as a label name");
        refuses("--label x a=x", "write NAME=VALUE");
    }
}
