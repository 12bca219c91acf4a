//! Sources and their changes in; sync state, conditions and targets out.

use super::*;
use crate::discovery::SyncState;
use crate::health::{Condition, State};
use crate::targets::{AddressPolicy, ContainerPort, DefaultPort, Discover, Phase, SelfPod};

/// A state, and the values that are given to it.
struct World {
    state: DiscoveryState,
    settings: TargetSettings,
    monitors: Arc<MonitorIndex>,
    monitor_settings: MonitorSettings,
    at: Instant,
}

impl World {
    fn with(selector: Option<&str>, discover: Discover) -> Self {
        let monitor_settings = MonitorSettings {
            discover,
            cross_namespace: BTreeSet::new(),
        };
        Self {
            state: DiscoveryState::new(Subject {
                selector: selector.map(str::to_owned),
                list_max_age: Duration::from_secs(5),
            }),
            settings: TargetSettings {
                default_port: DefaultPort::Number(80),
                self_pod: SelfPod::default(),
                max_targets_per_pod: 16,
                max_label_value_length: 0,
                addresses: AddressPolicy::Any,
            },
            monitors: Arc::new(MonitorIndex::new(
                monitor_settings.clone(),
                &ClusterObjects::default(),
            )),
            monitor_settings,
            at: Instant::now(),
        }
    }

    fn new() -> Self {
        Self::with(Some("app=x"), Discover::PODS)
    }

    fn pod(&self, name: &str) -> Arc<PodEntry> {
        let pod = Pod {
            id: PodRef {
                namespace: "ns".to_owned(),
                name: name.to_owned(),
                uid: format!("u-{name}"),
            },
            labels: BTreeMap::new(),
            annotations: BTreeMap::from([("prometheus.io/scrape".into(), "true".into())]),
            host_network: false,
            ports: Box::<[ContainerPort]>::default(),
            phase: Phase::Running,
            ips: ["10.0.0.1".parse().expect("an address")].into(),
            started: None,
            created: None,
            deletion: None,
        };
        Arc::new(PodEntry::new(pod, &self.settings, &self.monitors))
    }

    fn pods(&self, names: &[&str]) -> Pods {
        let entries = names.iter().map(|name| self.pod(name));
        entries.map(|entry| (Arc::clone(entry.id()), entry)).collect()
    }

    /// Reads these pods from the whole cluster, by watching.
    fn watch(&mut self, source: usize, names: &[&str]) -> Replaced {
        let pods = self.pods(names);
        self.state.replace_pods(source, pods, Mode::ClusterWatch, self.at)
    }

    fn build(&mut self) -> Option<Built> {
        let input = self.state.take_build(false)?;
        let built = input.build(
            &self.monitors,
            &self.monitor_settings,
            &self.settings,
            Timestamp::UNIX_EPOCH,
        );
        self.state.keep_renewed(&built);
        self.monitors = Arc::clone(&built.monitors);
        Some(built)
    }

    fn condition(&self, wanted: Condition) -> Option<State> {
        let conditions = self.state.status().conditions;
        let found = conditions.into_iter().find(|(condition, _)| *condition == wanted);
        found.map(|(_, state)| state)
    }

    #[track_caller]
    fn check_pending(&self, expect: &str) {
        let SyncState::Pending(problem) = self.state.status().sync else {
            panic!("not pending: {:?}", self.state.status());
        };
        assert_eq!(problem.to_string(), expect);
        assert_eq!(
            self.condition(Condition::Discovery),
            Some(State::unready(problem.text))
        );
    }
}

#[test]
fn nothing_is_synced_before_every_source_has_its_first_list() {
    let mut world = World::new();
    world.check_pending("discovery: waiting for the first list of pods");
    let first = world.state.add_pod_source("namespace a".to_owned());
    let second = world.state.add_pod_source("namespace b".to_owned());
    assert!(world.watch(first, &["p"]).is_new_mode);
    world.check_pending("discovery: waiting for the first list of pods");
    assert!(world.state.fail_pods(second, "the API server cannot be reached"));
    world.check_pending("discovery: the API server cannot be reached");
    world.watch(second, &[]);
    assert_eq!(world.state.status().sync, SyncState::Synced);
    assert_eq!(world.condition(Condition::Discovery), Some(State::OK));
    assert_eq!(world.condition(Condition::Permissions), Some(State::OK));
}

#[test]
fn an_outage_keeps_the_set_and_is_a_note() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world.watch(source, &["p"]);
    assert_eq!(world.build().expect("a set").set.targets.len(), 1);
    assert!(world.state.fail_pods(source, "no route"));
    assert!(!world.state.fail_pods(source, "no route"), "the text is the same");
    let status = world.state.status();
    assert_eq!(status.sync, SyncState::Synced);
    assert_eq!(status.outage.as_deref(), Some("no route"));
    assert_eq!(
        world.condition(Condition::Discovery),
        Some(State::note("the last known set is in use: no route"))
    );
    assert!(world.build().is_none(), "no pod has changed");
    assert!(world.state.confirm_pods(source, world.at), "the outage ends");
    assert_eq!(world.state.status().outage, None);
}

#[test]
fn the_age_of_the_set_is_that_of_its_oldest_source() {
    let mut world = World::new();
    let first = world.state.add_pod_source("namespace a".to_owned());
    let second = world.state.add_pod_source("namespace b".to_owned());
    let earlier = world.at;
    world.watch(first, &[]);
    world.at += Duration::from_secs(1);
    world.watch(second, &[]);
    assert_eq!(world.state.status().confirmed_at, Some(earlier));
}

#[test]
fn one_forbidden_namespace_costs_its_own_pods() {
    let mut world = World::new();
    let first = world.state.add_pod_source("namespace a".to_owned());
    let second = world.state.add_pod_source("namespace b".to_owned());
    world.watch(first, &["p"]);
    world.watch(second, &["q"]);
    assert!(world.state.forbid_pods(second, "may not read b".to_owned()));
    assert!(!world.state.forbid_pods(second, "may not read b".to_owned()));
    assert_eq!(world.state.status().sync, SyncState::Synced);
    assert_eq!(
        world.condition(Condition::Permissions),
        Some(State::note("may not read b"))
    );
    assert_eq!(world.build().expect("a set").set.n_pods, 1);
    world.state.forbid_pods(first, "may not read a".to_owned());
    let SyncState::Refused(problem) = world.state.status().sync else {
        panic!("all of them are forbidden");
    };
    assert_eq!(problem.to_string(), "permissions: may not read a; may not read b");
    assert_eq!(
        world.condition(Condition::Permissions),
        Some(State::unready("may not read a; may not read b"))
    );
    assert_eq!(world.state.status().modes, ["refused", "refused"]);
}

#[test]
fn a_missing_permission_is_a_note_until_it_is_granted() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world.watch(source, &["p"]);
    let note = Some("may not watch pods".to_owned());
    assert!(world.state.set_pod_reduction(source, note.clone()));
    assert!(!world.state.set_pod_reduction(source, note));
    assert_eq!(
        world.condition(Condition::Permissions),
        Some(State::note("may not watch pods"))
    );
    assert!(world.state.set_pod_reduction(source, None));
    assert_eq!(world.condition(Condition::Permissions), Some(State::OK));
}

#[track_caller]
fn check_no_match(modes: &[(&str, Mode)], selector: Option<&str>, expect: Option<&str>) {
    let mut world = World::with(selector, Discover::PODS);
    for (name, mode) in modes {
        let source = world.state.add_pod_source((*name).to_owned());
        world.state.replace_pods(source, Pods::new(), *mode, world.at);
    }
    let status = world.state.status();
    assert_eq!(status.no_match.as_deref(), expect);
    if let Some(expect) = expect {
        assert_eq!(world.condition(Condition::Selector), Some(State::note(expect)));
    }
    assert_eq!(status.sync, SyncState::Synced, "that is no reason to be unready");
}

#[test]
fn a_selector_that_matches_nothing_is_a_note_with_a_command() {
    check_no_match(
        &[("cluster", Mode::ClusterWatch)],
        Some("app=wbe"),
        Some("no pod matches app=wbe in any namespace; compare: kubectl get pods -A -l 'app=wbe'"),
    );
    check_no_match(
        &[
            ("namespace a", Mode::NamespaceWatch),
            ("namespace b", Mode::NamespaceList),
        ],
        Some("app in (x, y)"),
        Some(
            "no pod matches app in (x, y) in namespace a, namespace b; compare: kubectl get pods -A -l 'app in (x, y)'",
        ),
    );
    check_no_match(
        &[("--pods-file", Mode::Files)],
        Some("app=x"),
        Some("no pod in --pods-file matches app=x"),
    );
    check_no_match(&[("--pods-file", Mode::Files)], None, None);
}

#[test]
fn a_selector_that_matches_is_shown_as_it_is() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world.check_pending("discovery: waiting for the first list of pods");
    assert_eq!(world.state.status().no_match, None, "nothing is known yet");
    world.watch(source, &["p"]);
    assert_eq!(world.state.status().no_match, None);
    assert_eq!(world.condition(Condition::Selector), Some(State::ok("app=x")));
}

#[test]
fn a_change_that_no_target_depends_on_makes_no_new_set() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world.watch(source, &["p"]);
    assert!(world.build().is_some());
    let same = PodChange::Put(world.pod("p"));
    world.state.change_pod(source, same, world.at);
    assert!(world.build().is_none());
    let new = PodChange::Put(world.pod("q"));
    world.state.change_pod(source, new, world.at);
    assert_eq!(world.build().expect("a set").set.n_pods, 2);
}

#[test]
fn a_late_deletion_does_not_remove_a_new_pod_of_that_name() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world.watch(source, &["p"]);
    world.build();
    let earlier = PodRef {
        uid: "u-earlier".to_owned(),
        ..PodRef::clone(world.pod("p").id())
    };
    let remove = PodChange::Remove(Arc::new(earlier));
    world.state.change_pod(source, remove, world.at);
    assert!(world.build().is_none());
    let remove = PodChange::Remove(Arc::clone(world.pod("p").id()));
    world.state.change_pod(source, remove, world.at);
    assert_eq!(world.build().expect("a set").set.n_pods, 0);
}

#[test]
fn a_scrape_asks_for_a_list_only_where_listing_is_all_that_is_permitted() {
    let mut world = World::new();
    let watched = world.state.add_pod_source("namespace a".to_owned());
    let listed = world.state.add_pod_source("namespace b".to_owned());
    world.watch(watched, &[]);
    let list = |world: &mut World| {
        world
            .state
            .replace_pods(listed, Pods::new(), Mode::NamespaceList, world.at);
    };
    list(&mut world);
    let before = world.state.list_attempts();
    let later = world.at + Duration::from_secs(6);
    assert_eq!(
        world.state.sources_to_list(&before, world.at),
        [0; 0],
        "it is fresh"
    );
    assert_eq!(world.state.sources_to_list(&before, later), [listed]);
    world.state.fail_pods(listed, "no route");
    assert_eq!(
        world.state.sources_to_list(&before, later),
        [0; 0],
        "one attempt is enough"
    );
}

#[test]
fn nothing_is_served_before_the_share_is_known() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world
        .state
        .set_share_pending("waiting for the number of replicas".to_owned());
    world.watch(source, &["p"]);
    world.check_pending("discovery: waiting for the number of replicas");
    world
        .state
        .set_share(ShardAssignment::new(0, 2, jiff::SignedDuration::ZERO));
    assert_eq!(world.state.status().sync, SyncState::Synced);
    // The last known share stays in force.
    world
        .state
        .set_share_pending("cannot read StatefulSet app".to_owned());
    assert_eq!(world.state.status().sync, SyncState::Synced);
    let update = |world: &mut World, total| {
        world
            .state
            .update_share(total, BTreeSet::new(), Timestamp::UNIX_EPOCH)
    };
    world.build();
    assert_eq!(update(&mut world, 2), None);
    assert!(world.build().is_none(), "nothing is new");
    assert_eq!(update(&mut world, 3), Some(2));
    assert!(world.build().is_some());
}

fn service(annotations: &[(&str, &str)]) -> Object {
    let annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    Object::read(
        ObjectKind::Service,
        &BTreeMap::new(),
        &annotations,
        &serde_json::Value::Null,
    )
}

fn services() -> Discover {
    Discover {
        services: true,
        ..Discover::PODS
    }
}

#[test]
fn objects_are_waited_for_and_dispensable() {
    let mut world = World::with(Some("app=x"), services());
    let pods = world.state.add_pod_source("cluster".to_owned());
    let source = world
        .state
        .add_object_source(ObjectKind::Service, "services".to_owned());
    world.watch(pods, &["p"]);
    world.check_pending("discovery: waiting for the first list of services");
    world.state.fail_objects(source, "cannot list services");
    world.check_pending("discovery: cannot list services");
    assert!(
        world
            .state
            .forbid_objects(source, "may not list services".to_owned())
    );
    assert!(
        !world
            .state
            .forbid_objects(source, "may not list services".to_owned())
    );
    assert_eq!(world.state.status().sync, SyncState::Synced);
    assert_eq!(
        world.condition(Condition::Permissions),
        Some(State::note("may not list services"))
    );
    assert!(world.state.replace_objects(source, BTreeMap::new()));
    assert_eq!(world.condition(Condition::Permissions), Some(State::OK));
}

#[test]
fn pods_are_evaluated_again_when_objects_change() {
    let mut world = World::with(Some("app=x"), services());
    let pods = world.state.add_pod_source("cluster".to_owned());
    let source = world
        .state
        .add_object_source(ObjectKind::Service, "services".to_owned());
    world.watch(pods, &["p", "q"]);
    world.state.replace_objects(source, BTreeMap::new());
    assert_eq!(world.build().expect("a set").renewed.len(), 2);
    assert!(world.build().is_none());
    let key = ("ns".to_owned(), "web".to_owned());
    let object = service(&[("prometheus.io/scrape", "true")]);
    world
        .state
        .change_object(source, key.clone(), Some(object.clone()));
    assert_eq!(world.build().expect("a set").renewed.len(), 2);
    world.state.change_object(source, key.clone(), Some(object));
    assert!(world.build().is_none(), "it is the same object");
    world.state.change_object(source, key.clone(), None);
    assert!(world.build().is_some());
    world.state.change_object(source, key, None);
    assert!(world.build().is_none(), "it was not there");
}

#[test]
fn a_pod_that_changes_during_a_build_keeps_its_change() {
    let mut world = World::with(Some("app=x"), services());
    let pods = world.state.add_pod_source("cluster".to_owned());
    let source = world
        .state
        .add_object_source(ObjectKind::Service, "services".to_owned());
    world.watch(pods, &["p"]);
    world.state.replace_objects(source, BTreeMap::new());
    let input = world.state.take_build(false).expect("a set is due");
    world
        .state
        .change_pod(pods, PodChange::Remove(Arc::clone(world.pod("p").id())), world.at);
    let built = input.build(
        &world.monitors,
        &world.monitor_settings,
        &world.settings,
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(built.set.n_pods, 1);
    world.state.keep_renewed(&built);
    assert_eq!(world.build().expect("the change is due").set.n_pods, 0);
}

#[test]
fn a_deadline_makes_a_new_set_though_nothing_has_changed() {
    let mut world = World::new();
    let source = world.state.add_pod_source("cluster".to_owned());
    world.watch(source, &["p"]);
    world.build();
    assert!(world.state.take_build(false).is_none());
    assert!(world.state.take_build(true).is_some());
}

#[test]
fn files_need_no_permission_and_no_cluster() {
    let mut world = World::new();
    let source = world.state.add_pod_source("--pods-file".to_owned());
    let pods = world.pods(&["p"]);
    world.state.replace_pods(source, pods, Mode::Files, world.at);
    assert_eq!(world.condition(Condition::Permissions), None);
}

#[test]
fn what_was_switched_off_says_nothing_else() {
    let mut world = World::new();
    world.state.disable(SyncProblem {
        condition: Condition::Selector,
        text: "set one".to_owned(),
    });
    let status = world.state.status();
    assert!(
        matches!(&status.sync, SyncState::Refused(problem) if problem.to_string() == "selector: set one")
    );
    assert_eq!(status.conditions, []);
}
