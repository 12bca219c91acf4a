//! The reasons why a selected pod, or one endpoint of it, is not scraped.

use std::fmt;

/// Declares [`SkipReason`] with its words, so that no variant can lack one.
macro_rules! skip_reasons {
    ($($(#[$doc:meta])* $variant:ident => $word:literal,)*) => {
        /// Why a selected pod, or one endpoint of it, is not scraped.
        ///
        /// The word is the label `reason` of `metrics_proxy_discovery_skipped`. Each word stands in
        /// `docs/reference/annotations.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum SkipReason {
            $($(#[$doc])* $variant,)*
        }

        impl SkipReason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable word of this reason, such as `no_ip`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

skip_reasons! {
    /// No annotation asks for a scrape.
    NotAnnotated => "not_annotated",
    /// The annotation `prometheus.io/scrape` is false.
    AnnotatedOff => "annotated_off",
    /// An annotation has a value that cannot be read.
    BadAnnotation => "bad_annotation",
    /// The scheme is neither http nor https.
    BadScheme => "bad_scheme",
    /// A port is not a number from 1 to 65535, or an entry of a list is empty.
    BadPort => "bad_port",
    /// No container declares the named port, or not as TCP.
    UnknownPort => "unknown_port",
    /// Containers declare the named port with different numbers.
    AmbiguousPort => "ambiguous_port",
    /// There is no port to scrape.
    NoPort => "no_port",
    /// A path is too long.
    BadPath => "bad_path",
    /// The pod names more endpoints than are scraped of one pod.
    TooMany => "too_many",
    /// No Service and no monitor names the pod, and annotations of pods are not read.
    NoMonitor => "no_monitor",
    /// Not all containers have started.
    Pending => "pending",
    /// All containers have ended.
    Finished => "finished",
    /// The pod has no address.
    NoIp => "no_ip",
    /// The address cannot be that of a pod.
    BadIp => "bad_ip",
    /// The pod is being deleted and refuses connections.
    Terminating => "terminating",
    /// The pod should have been deleted for more than a minute.
    Lost => "lost",
    /// The address belongs to a pod that started later.
    IpTaken => "ip_taken",
    /// A later pod on the same node has the same port and path.
    EndpointTaken => "endpoint_taken",
    /// The pod is this proxy's own.
    SelfPod => "self",
    /// Another shard scrapes the pod.
    OtherShard => "other_shard",
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason with the sentence that explains this case: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skip {
    pub(super) reason: SkipReason,
    pub(super) detail: String,
}

impl Skip {
    pub(super) fn new(reason: SkipReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_in_the_reference_page_and_no_other_word_is() {
        let page = include_str!("../../docs/reference/annotations.md");
        let (_, section) = page
            .split_once("\n## Reasons\n")
            .expect("the page lists the reasons");
        let section = section.split("\n## ").next().unwrap_or_default();
        let documented: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let reasons: Vec<&str> = SkipReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(documented, reasons);
    }
}
