//! Which permissions there are, how they are asked for, and what is said where one is missing.
//!
//! A denial counts when it lasts, since an API server that has just started denies everybody for a moment. A grant is
//! found by a SelfSubjectAccessReview, which is what the server itself would decide by and costs it no list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::time::timeout;

use super::error::ApiError;
use crate::backoff::jittered;
use crate::telemetry::Telemetry;

/// A review must be answered by then.
const REVIEW_LIMIT: Duration = Duration::from_secs(10);
/// How long a denial must last where the permission never worked in this process: longer than the moment in which a
/// server that has just started denies everybody.
const FIRST_GRACE: Duration = Duration::from_millis(500);
/// How many responses in a row must deny a permission that worked before.
const N_DENIALS: u32 = 3;

/// What is read, as RBAC names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    /// The API group; empty for the core group.
    pub(super) group: &'static str,
    /// The plural, such as `pods`.
    pub(super) plural: &'static str,
    /// What to do instead of granting the permission, where there is such a way.
    pub(super) alternative: Option<&'static str>,
}

impl Access {
    /// `podmonitors.monitoring.coreos.com`, as `kubectl auth can-i` takes it.
    fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// What grants the permission. `kind` is Role or ClusterRole.
    fn remedy(&self, kind: &str) -> String {
        format!(
            "run juju trust APP --scope=cluster, or bind a {kind} with get, list and watch on {}",
            self.resource()
        )
    }

    /// Reading all namespaces is denied, and only one is read.
    pub(super) fn scope_reduction(&self, own_namespace: &str) -> String {
        format!(
            "may not list or watch {} in all namespaces, only those of namespace {own_namespace} are used; {}",
            self.plural,
            self.remedy("ClusterRole")
        )
    }

    /// Reading is denied everywhere; `why` are the server's words.
    pub(super) fn denied(&self, namespace: &str, is_named: bool, why: &str) -> String {
        let (plural, remedy) = (self.plural, self.remedy("Role"));
        let alternative = self
            .alternative
            .map(|text| format!(", or {text}"))
            .unwrap_or_default();
        let place = if is_named {
            format!("in namespace {namespace}")
        } else {
            format!("in all namespaces or in {namespace}")
        };
        format!("may not list or watch {plural} {place}; {remedy}{alternative} ({why})")
    }
}

/// Which permission is missing: to watch (with the interval of the lists instead), to read all namespaces, or both.
pub(super) fn reduction(
    access: &Access,
    namespace: Option<&str>,
    list_interval: Option<Duration>,
    scope_reduction: Option<&str>,
) -> Option<String> {
    let listing = list_interval.map(|interval| {
        let place = match namespace {
            None => "all namespaces".to_owned(),
            Some(namespace) => format!("namespace {namespace}"),
        };
        let text = format!(
            "may not watch {} in {place}, they are listed every {interval:?}",
            access.plural
        );
        match scope_reduction {
            // Its remedy, which follows, grants watching too.
            Some(_) => text,
            None => format!("{text}; {}", access.remedy("Role")),
        }
    });
    let notes: Vec<&str> = listing.as_deref().into_iter().chain(scope_reduction).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// Whether a permission is denied, and since when.
#[derive(Debug, Default)]
pub(super) struct Denial {
    since: Option<Instant>,
    n_denials: u32,
    /// The permission has worked in this process.
    has_worked: bool,
}

impl Denial {
    /// Counts one more 403, received at `now`. Returns whether the denial has lasted: for `grace` and for
    /// [`N_DENIALS`] responses where the permission has worked before, else for a moment.
    pub(super) fn lasts(&mut self, now: Instant, grace: Duration) -> bool {
        let n_needed = if self.has_worked { N_DENIALS } else { N_DENIALS - 1 };
        self.n_denials += 1;
        let since = *self.since.get_or_insert(now);
        let lasted = now.saturating_duration_since(since);
        grace.is_zero() || (self.n_denials >= n_needed && lasted >= self.grace(grace))
    }

    /// How long to wait before asking again.
    pub(super) fn delay(&self, grace: Duration) -> Duration {
        let delay = self.grace(grace) / 4;
        jittered(delay.clamp(Duration::from_millis(50), Duration::from_secs(2)))
    }

    /// The permission works.
    pub(super) fn granted(&mut self) {
        *self = Self {
            has_worked: true,
            ..Self::default()
        };
    }

    fn grace(&self, grace: Duration) -> Duration {
        if self.has_worked {
            grace
        } else {
            grace.min(FIRST_GRACE)
        }
    }
}

/// Asks what is permitted.
#[derive(Clone)]
pub(super) struct Reviewer {
    pub(super) client: kube::Client,
    /// None means all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) access: Access,
    pub(super) interval: Duration,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Reviewer {
    /// Asks every interval whether one of `verbs` is permitted, and returns when it is. Also returns where reviews
    /// themselves are forbidden, since then trying is the only way to know.
    pub(super) async fn until_permitted(&self, verbs: &[&str]) {
        loop {
            tokio::time::sleep(jittered(self.interval)).await;
            for verb in verbs {
                self.telemetry.discovery.request("review");
                if self.is_permitted(verb).await {
                    return;
                }
            }
        }
    }

    async fn is_permitted(&self, verb: &str) -> bool {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(self.access.group.to_owned()),
                    resource: Some(self.access.plural.to_owned()),
                    // All namespaces are written as the empty one.
                    namespace: Some(self.namespace.clone().unwrap_or_default()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        match timeout(REVIEW_LIMIT, reviews.create(&parameters, &review)).await {
            Ok(Ok(review)) => review.status.is_some_and(|status| status.allowed),
            Ok(Err(error)) => matches!(ApiError::from(&error), ApiError::Forbidden(_)),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Access = Access {
        group: "",
        plural: "pods",
        alternative: None,
    };

    #[test]
    fn a_permission_that_worked_is_lost_only_by_a_denial_that_lasts() {
        let start = Instant::now();
        let grace = Duration::from_millis(30);
        let mut denial = Denial::default();
        denial.granted();
        assert!(!denial.lasts(start, grace));
        assert!(
            !denial.lasts(start + grace, grace),
            "two responses are not enough"
        );
        assert!(denial.lasts(start + grace, grace));
        denial.granted();
        assert!(!denial.lasts(start + grace, grace), "a grant starts over");
    }

    #[test]
    fn three_responses_within_the_grace_are_not_enough() {
        let start = Instant::now();
        let grace = Duration::from_secs(10);
        let mut denial = Denial::default();
        denial.granted();
        for millisecond in 0..100 {
            assert!(!denial.lasts(start + Duration::from_millis(millisecond), grace));
        }
        assert!(denial.lasts(start + grace, grace));
    }

    #[test]
    fn a_permission_that_never_worked_needs_a_moment_only() {
        let start = Instant::now();
        let grace = Duration::from_secs(10);
        let mut denial = Denial::default();
        assert!(!denial.lasts(start, grace));
        assert!(denial.lasts(start + FIRST_GRACE, grace));
    }

    #[test]
    fn without_grace_the_first_denial_counts() {
        assert!(Denial::default().lasts(Instant::now(), Duration::ZERO));
    }

    #[track_caller]
    fn check_reduction(
        namespace: Option<&str>,
        list_interval: Option<Duration>,
        scope: Option<&str>,
        expect: Option<&str>,
    ) {
        let note = reduction(&PODS, namespace, list_interval, scope);
        assert_eq!(note.as_deref(), expect);
    }

    #[test]
    fn a_reduction_names_what_is_missing_and_one_remedy() {
        let interval = Some(Duration::from_secs(90));
        check_reduction(None, None, None, None);
        check_reduction(
            None,
            interval,
            None,
            Some(
                "may not watch pods in all namespaces, they are listed every 90s; run juju trust APP --scope=cluster, \
                 or bind a Role with get, list and watch on pods",
            ),
        );
        check_reduction(
            Some("shop"),
            interval,
            Some("only shop; grant it"),
            Some("may not watch pods in namespace shop, they are listed every 90s; only shop; grant it"),
        );
        check_reduction(Some("shop"), None, Some("only shop"), Some("only shop"));
    }
}
