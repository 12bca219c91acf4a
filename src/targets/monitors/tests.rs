//! Objects as JSON in, targets of pods as lines of text out.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::targets::{
    AddressPolicy, ContainerPort, DefaultPort, EvaluatedPod, Object, ObjectKind, Phase, PodRef, Protocol,
    SelfPod, TargetSettings, assemble,
};

const ALL: Discover = Discover {
    pods: true,
    services: true,
    pod_monitors: true,
    service_monitors: true,
};

fn name(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    (namespace.to_owned(), name.to_owned())
}

fn map(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
        .collect()
}

fn object(kind: ObjectKind, labels: &Value, annotations: &Value, rest: &Value) -> Object {
    Object::read(kind, &map(labels), &map(annotations), rest)
}

/// A pod `ns/name` at 10.0.0.1 with the port `m` 9102 and the label `app`.
fn pod(id: &str, annotations: &Value) -> Pod {
    let (namespace, name) = name(id);
    Pod {
        id: PodRef {
            uid: format!("u-{name}"),
            namespace,
            name,
        },
        labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
        annotations: map(annotations)
            .iter()
            .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
            .collect(),
        host_network: false,
        ports: Box::new([ContainerPort {
            name: Some("m".into()),
            number: 9102,
            protocol: Protocol::Tcp,
        }]),
        phase: Phase::Running,
        ips: Box::new([IpAddr::from([10, 0, 0, 1])]),
        started: None,
        created: None,
        deletion: None,
    }
}

#[track_caller]
fn check(
    discover: Discover,
    objects: &[(&str, ObjectKind, Object)],
    pod: &Pod,
    expect: &[&str],
) -> MonitorIndex {
    let mut all = ClusterObjects::default();
    for (id, kind, object) in objects {
        all.insert(*kind, name(id), object.clone());
    }
    let monitor_settings = MonitorSettings {
        discover,
        cross_namespace: BTreeSet::from(["trusted".to_owned()]),
    };
    let rules = MonitorIndex::new(monitor_settings, &all);
    let settings = TargetSettings {
        default_port: DefaultPort::Number(80),
        self_pod: SelfPod::default(),
        max_targets_per_pod: 16,
        max_label_value_length: 0,
        addresses: AddressPolicy::Pods(Vec::new()),
    };
    let prepared = EvaluatedPod::new(pod, &settings, &rules);
    let set = assemble(
        [&prepared],
        &settings.self_pod,
        None,
        "2026-01-01T00:00:00Z".parse().unwrap(),
    );
    let targets = set.targets.iter().map(|target| {
        let labels = target.labels[2..]
            .iter()
            .fold(String::new(), |text, (k, v)| text + " " + k + "=" + v);
        format!(
            "{}://{}{}{labels}",
            target.scheme.as_str(),
            target.address,
            target.path_and_query
        )
    });
    let skipped = set
        .skipped
        .iter()
        .map(|skipped| format!("{}: {}", skipped.reason, skipped.detail));
    assert_eq!(targets.chain(skipped).collect::<Vec<_>>(), expect);
    rules
}

fn service(annotations: &Value) -> Object {
    object(ObjectKind::Service, &json!({"app": "x"}), annotations, &json!({}))
}

fn slice(service: &str, pod: &str) -> Object {
    object(
        ObjectKind::EndpointSlice,
        &json!({"kubernetes.io/service-name": service}),
        &json!({}),
        &json!({
            "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"},
                      {"name": "metrics", "port": 9102}],
            "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "uid": format!("u-{pod}")}},
                          {"addresses": ["10.0.0.9"]}],
        }),
    )
}

fn monitor(kind: ObjectKind, spec: &Value) -> Object {
    object(kind, &json!({}), &json!({}), &json!({"spec": spec}))
}

#[test]
fn annotated_services_name_the_ports_of_the_pods_behind_them() {
    let annotated = |port: Value| {
        let mut annotations =
            json!({"prometheus.io/scrape": "true", "prometheus.io/path": "m", "prometheus.io/param_a": "b"});
        if !port.is_null() {
            annotations["prometheus.io/port"] = port;
        }
        vec![
            ("ns/svc", ObjectKind::Service, service(&annotations)),
            ("ns/svc-1", ObjectKind::EndpointSlice, slice("svc", "a")),
        ]
    };
    let pod = pod("ns/a", &json!({}));
    check(
        ALL,
        &annotated(json!("8080")),
        &pod,
        &["http://10.0.0.1:8080/m?a=b"],
    );
    check(
        ALL,
        &annotated(json!("metrics")),
        &pod,
        &["http://10.0.0.1:9102/m?a=b"],
    );
    check(
        ALL,
        &annotated(json!("8080,metrics")),
        &pod,
        &[
            "http://10.0.0.1:8080/m?a=b k8s_pod_port=8080",
            "http://10.0.0.1:9102/m?a=b k8s_pod_port=9102",
        ],
    );
    check(
        ALL,
        &annotated(json!(null)),
        &pod,
        &[
            "http://10.0.0.1:8080/m?a=b k8s_pod_port=8080",
            "http://10.0.0.1:9102/m?a=b k8s_pod_port=9102",
        ],
    );
    check(
        ALL,
        &annotated(json!("dns")),
        &pod,
        &[
            "unknown_port: the annotation prometheus.io/port of Service ns/svc names port \"dns\", which it does not have",
        ],
    );
    // Another namespace's Service of that name, and a Service that nobody asked for.
    let elsewhere = [
        (
            "other/svc",
            ObjectKind::Service,
            service(&json!({"prometheus.io/scrape": "true"})),
        ),
        ("ns/svc-1", ObjectKind::EndpointSlice, slice("svc", "a")),
        ("ns/svc", ObjectKind::Service, service(&json!({}))),
    ];
    check(
        ALL,
        &elsewhere,
        &pod,
        &["not_annotated: it has no annotation prometheus.io/scrape; set it to \"true\""],
    );
}

#[test]
fn pod_monitors_select_pods_and_name_ports() {
    let spec = json!({
        "selector": {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]},
        "podMetricsEndpoints": [
            {"port": "m", "path": "/p", "params": {"b": ["1", "2"], "a": ["x y"]}},
            {"portNumber": 8443, "scheme": "HTTPS"},
            {"port": "none"},
        ],
    });
    let pod = pod("ns/a", &json!({}));
    let monitors = [(
        "ns/mon",
        ObjectKind::PodMonitor,
        monitor(ObjectKind::PodMonitor, &spec),
    )];
    let expect = [
        "https://10.0.0.1:8443/metrics k8s_pod_port=8443 k8s_pod_path=/metrics",
        "http://10.0.0.1:9102/p?a=x%20y&b=1&b=2 k8s_pod_port=9102 k8s_pod_path=/p",
        "unknown_port: PodMonitor ns/mon names port \"none\", which no container declares",
    ];
    check(ALL, &monitors, &pod, &expect);
    // Without `namespaceSelector` a monitor looks into its own namespace.
    let elsewhere = [(
        "other/mon",
        ObjectKind::PodMonitor,
        monitor(ObjectKind::PodMonitor, &spec),
    )];
    let none = ["not_annotated: it has no annotation prometheus.io/scrape; set it to \"true\""];
    check(ALL, &elsewhere, &pod, &none);
    for selector in [json!({"any": true}), json!({"matchNames": ["ns", "more"]})] {
        let mut spec = spec.clone();
        spec["namespaceSelector"] = selector;
        let elsewhere = [(
            "trusted/mon",
            ObjectKind::PodMonitor,
            monitor(ObjectKind::PodMonitor, &spec),
        )];
        check(
            ALL,
            &elsewhere,
            &pod,
            &[expect[0], expect[1], &expect[2].replace("ns/mon", "trusted/mon")],
        );
    }
    let only_monitors = Discover { pods: false, ..ALL };
    let other = json!({"selector": {"matchLabels": {"app": "y"}}, "podMetricsEndpoints": [{"port": "m"}]});
    check(
        only_monitors,
        &[(
            "ns/mon",
            ObjectKind::PodMonitor,
            monitor(ObjectKind::PodMonitor, &other),
        )],
        &pod,
        &["no_monitor: no Service or monitor that is read names it"],
    );
}

#[test]
fn service_monitors_go_through_services_to_pods() {
    let spec = json!({
        "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]},
        "endpoints": [{"port": "metrics"}, {"targetPort": 7000, "path": "/t"}, {"targetPort": "m", "path": "/named"}],
    });
    let objects = [
        ("ns/svc", ObjectKind::Service, service(&json!({}))),
        ("ns/svc-1", ObjectKind::EndpointSlice, slice("svc", "a")),
        (
            "ns/mon",
            ObjectKind::ServiceMonitor,
            monitor(ObjectKind::ServiceMonitor, &spec),
        ),
    ];
    check(
        ALL,
        &objects,
        &pod("ns/a", &json!({})),
        &[
            "http://10.0.0.1:7000/t k8s_pod_port=7000 k8s_pod_path=/t",
            "http://10.0.0.1:9102/metrics k8s_pod_port=9102 k8s_pod_path=/metrics",
            "http://10.0.0.1:9102/named k8s_pod_port=9102 k8s_pod_path=/named",
        ],
    );
    // A pod that is behind no Service.
    check(
        ALL,
        &objects,
        &pod("ns/b", &json!({})),
        &["not_annotated: it has no annotation prometheus.io/scrape; set it to \"true\""],
    );
}

#[test]
fn a_target_found_twice_is_scraped_once_annotation_first() {
    let spec = json!({"selector": {}, "podMetricsEndpoints": [{"port": "m"}, {"portNumber": 7}]});
    let monitors = [(
        "ns/mon",
        ObjectKind::PodMonitor,
        monitor(ObjectKind::PodMonitor, &spec),
    )];
    let annotated = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "9102"});
    check(
        ALL,
        &monitors,
        &pod("ns/a", &annotated),
        &[
            "http://10.0.0.1:7/metrics k8s_pod_port=7 k8s_pod_path=/metrics",
            "http://10.0.0.1:9102/metrics",
        ],
    );
    // An annotation that cannot be used does not hide what a monitor says.
    let broken = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "none"});
    check(
        ALL,
        &monitors,
        &pod("ns/a", &broken),
        &[
            "http://10.0.0.1:7/metrics k8s_pod_port=7 k8s_pod_path=/metrics",
            "http://10.0.0.1:9102/metrics k8s_pod_port=9102 k8s_pod_path=/metrics",
            "unknown_port: the annotation prometheus.io/port names port \"none\", which no container declares",
        ],
    );
}

#[test]
fn unsupported_fields_are_listed() {
    let spec = json!({
        "jobLabel": "app", "sampleLimit": 10, "podTargetLabels": ["app"], "attachMetadata": null,
        "selector": {},
        "podMetricsEndpoints": [
            {"port": "m", "interval": "30s", "honorLabels": false, "filterRunning": true,
             "relabelings": [{"action": "drop"}], "basicAuth": {"username": {"name": "s", "key": "u"}}},
            {"path": "/x"},
        ],
    });
    let wrong = json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}, "podMetricsEndpoints": []});
    let rules = check(
        ALL,
        &[
            (
                "ns/mon",
                ObjectKind::PodMonitor,
                monitor(ObjectKind::PodMonitor, &spec),
            ),
            (
                "ns/wrong",
                ObjectKind::PodMonitor,
                monitor(ObjectKind::PodMonitor, &wrong),
            ),
        ],
        &pod("ns/a", &json!({})),
        &["http://10.0.0.1:9102/metrics k8s_pod_port=9102 k8s_pod_path=/metrics"],
    );
    assert_eq!(
        rules.unsupported(),
        [
            "PodMonitor ns/mon: spec.jobLabel is not supported",
            "PodMonitor ns/mon: spec.podTargetLabels is not supported",
            "PodMonitor ns/mon: spec.sampleLimit is not supported",
            "PodMonitor ns/mon: spec.podMetricsEndpoints[0].basicAuth is not supported",
            "PodMonitor ns/mon: spec.podMetricsEndpoints[0].interval is not supported",
            "PodMonitor ns/mon: spec.podMetricsEndpoints[0].relabelings is not supported",
            "PodMonitor ns/mon: spec.podMetricsEndpoints[1] (it names no port) is not supported",
            "PodMonitor ns/wrong is not used: its selector cannot be read: no such operator: \"Near\"",
        ]
    );
}

/// A selector is never printed and parsed again: a comma in a value must not become a second requirement.
#[test]
fn a_label_selector_is_read_as_requirements() {
    let unsupported = |selector: Value| {
        let spec = json!({"selector": selector, "podMetricsEndpoints": [{"port": "m"}]});
        let mut objects = ClusterObjects::default();
        let object = monitor(ObjectKind::PodMonitor, &spec);
        objects.insert(ObjectKind::PodMonitor, name("ns/mon"), object);
        let settings = MonitorSettings {
            discover: ALL,
            ..MonitorSettings::default()
        };
        let index = MonitorIndex::new(settings, &objects);
        let pod = pod("ns/a", &json!({}));
        let n_endpoints = index.endpoints_of(&pod).endpoints.len();
        assert_eq!(
            index.unsupported().is_empty(),
            n_endpoints == 1,
            "used, or listed"
        );
        index.unsupported().join("\n")
    };
    let problem = "PodMonitor ns/mon is not used: its selector cannot be read";
    let value_rule =
        "a value is empty, or 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends";
    assert_eq!(unsupported(json!({"matchLabels": {"app": "x"}})), "");
    assert_eq!(
        unsupported(json!({"matchLabels": {"app": "x,tier=db"}})),
        format!("{problem}: \"x,tier=db\" is not a label value: {value_rule}")
    );
    let expression = |operator: &str, values: Value| {
        unsupported(json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}))
    };
    assert_eq!(expression("In", json!(["x", "y"])), "");
    assert_eq!(
        expression("In", json!(["x),!old,tier in (db"])),
        format!("{problem}: \"x),!old,tier in (db\" is not a label value: {value_rule}")
    );
    for operator in ["In", "NotIn"] {
        assert_eq!(
            expression(operator, json!([])),
            format!("{problem}: the list of values for the label \"app\" is empty")
        );
    }
    assert_eq!(
        expression("In", json!([1])),
        format!("{problem}: a value for the label \"app\" is not text")
    );
    assert_eq!(
        unsupported(json!({"matchLabels": {"app=y": "x"}}))
            .split(": ")
            .nth(2),
        Some("\"app=y\" is not a label key")
    );
}

/// A user who may only create monitors in one namespace must not choose what is requested from the pods of others.
#[test]
fn a_monitor_selects_in_its_own_namespace_unless_it_is_trusted() {
    let none = ["not_annotated: it has no annotation prometheus.io/scrape; set it to \"true\""];
    for namespaces in [json!({"any": true}), json!({"matchNames": ["ns", "tenant"]})] {
        let spec = |endpoints: &str| json!({"selector": {}, "namespaceSelector": namespaces, endpoints: [{"targetPort": 7}]});
        let objects = |namespace: &str| {
            let id: &str = Box::leak(format!("{namespace}/mon").into_boxed_str());
            let (pods, services) = (spec("podMetricsEndpoints"), spec("endpoints"));
            [
                (id, ObjectKind::PodMonitor, monitor(ObjectKind::PodMonitor, &pods)),
                (
                    id,
                    ObjectKind::ServiceMonitor,
                    monitor(ObjectKind::ServiceMonitor, &services),
                ),
                ("ns/svc", ObjectKind::Service, service(&json!({}))),
                ("ns/svc-1", ObjectKind::EndpointSlice, slice("svc", "a")),
            ]
        };
        let scraped = ["http://10.0.0.1:7/metrics k8s_pod_port=7 k8s_pod_path=/metrics"];
        let index = check(ALL, &objects("tenant"), &pod("ns/a", &json!({})), &none);
        let limited = "spec.namespaceSelector is limited to its own namespace; name tenant in --monitor-namespaces to \
                       let it select others";
        assert_eq!(
            index.unsupported(),
            [
                format!("PodMonitor tenant/mon: {limited}"),
                format!("ServiceMonitor tenant/mon: {limited}")
            ]
        );
        let index = check(ALL, &objects("trusted"), &pod("ns/a", &json!({})), &scraped);
        assert!(index.unsupported().is_empty());
        // It always selects in its own namespace.
        check(ALL, &objects("tenant"), &pod("tenant/b", &json!({})), &scraped);
    }
}

/// An EndpointSlice can name any pod of the cluster by its UID.
#[test]
fn endpoint_slices_count_for_pods_of_their_own_namespace() {
    let annotations = json!({"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/quitquitquit"});
    let any = json!({"selector": {}, "namespaceSelector": {"any": true}, "endpoints": [{"port": "metrics"}]});
    let foreign = [
        ("tenant/svc", ObjectKind::Service, service(&annotations)),
        ("tenant/svc-1", ObjectKind::EndpointSlice, slice("svc", "a")),
        (
            "trusted/mon",
            ObjectKind::ServiceMonitor,
            monitor(ObjectKind::ServiceMonitor, &any),
        ),
    ];
    let none = ["not_annotated: it has no annotation prometheus.io/scrape; set it to \"true\""];
    check(ALL, &foreign, &pod("victim/a", &json!({})), &none);
    check(
        ALL,
        &foreign,
        &pod("tenant/a", &json!({})),
        &[
            "http://10.0.0.1:8080/quitquitquit",
            "http://10.0.0.1:9102/metrics k8s_pod_port=9102 k8s_pod_path=/metrics",
        ],
    );
}

/// All slices were searched for each Service of each monitor: 6.8 s in a release build for 5,000 Services.
#[test]
fn the_index_takes_thousands_of_services_for_many_monitors() {
    let mut objects = ClusterObjects::default();
    for n in 0..3_000 {
        objects.insert(
            ObjectKind::Service,
            name(&format!("ns/svc{n}")),
            service(&json!({})),
        );
        let slice = slice(&format!("svc{n}"), &format!("pod{n}"));
        objects.insert(ObjectKind::EndpointSlice, name(&format!("ns/svc{n}-1")), slice);
    }
    let spec = json!({"selector": {}, "endpoints": [{"port": "metrics"}]});
    for n in 0..20 {
        let monitor = monitor(ObjectKind::ServiceMonitor, &spec);
        objects.insert(ObjectKind::ServiceMonitor, name(&format!("ns/mon{n}")), monitor);
    }
    let settings = MonitorSettings {
        discover: ALL,
        ..MonitorSettings::default()
    };
    // A search through all slices for each Service of each monitor takes minutes in this build, which nobody overlooks.
    let index = MonitorIndex::new(settings, &objects);
    assert_eq!(index.by_pod.len(), 3_000);
}

#[test]
fn nonsense_is_no_obstacle() {
    for kind in [
        ObjectKind::Service,
        ObjectKind::EndpointSlice,
        ObjectKind::PodMonitor,
        ObjectKind::ServiceMonitor,
    ] {
        for rest in [
            json!(null),
            json!({"spec": 1, "ports": {}, "endpoints": [1, {"targetRef": []}]}),
            json!([]),
        ] {
            let _ = object(kind, &json!({}), &json!({}), &rest);
        }
    }
}
