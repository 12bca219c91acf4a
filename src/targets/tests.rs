//! Pods as lines of text in, targets and reasons as lines of text out.
//!
//! Many cases are inputs that the predecessor of this program, written in Go, handled wrongly.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;

const NOW: &str = "2026-01-01T12:00:00Z";

/// Reads a pod from words: `name=a ip=10.0.0.1 @port=8080`. `@x` is the annotation `prometheus.io/x`. Unless told
/// otherwise it runs, is annotated and has the UID `u-<name>`.
fn pod(text: &str) -> Pod {
    let mut pod = Pod {
        id: PodRef {
            namespace: "ns".to_owned(),
            name: String::new(),
            uid: String::new(),
        },
        labels: BTreeMap::new(),
        annotations: BTreeMap::from([("prometheus.io/scrape".into(), "true".into())]),
        host_network: false,
        ports: Box::default(),
        phase: Phase::Running,
        ips: Box::default(),
        started: None,
        created: None,
        deletion: None,
    };
    let mut ports = Vec::new();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').expect("key=value");
        let value = value.replace('_', " ");
        let time = |value: &str| -> Timestamp { format!("2026-01-01T{value}Z").parse().expect("a time") };
        match key {
            "ns" => pod.id.namespace = value,
            "name" => pod.id.name = value,
            "uid" => pod.id.uid = value,
            "ip" => {
                pod.ips = value
                    .split(',')
                    .filter(|ip| !ip.is_empty())
                    .map(|ip| ip.parse().expect("an address"))
                    .collect();
            }
            "phase" => pod.phase = Phase::from(value.as_str()),
            "host" => pod.host_network = true,
            "started" => pod.started = Some(time(&value)),
            "created" => pod.created = Some(time(&value)),
            "deleted" => pod.deletion = Some(time(&value)),
            "port" => {
                let (name, rest) = value.split_once(':').expect("name:number");
                let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
                ports.push(ContainerPort {
                    name: (!name.is_empty()).then(|| name.into()),
                    number: number.parse().expect("a port"),
                    protocol: if protocol == "TCP" {
                        Protocol::Tcp
                    } else {
                        Protocol::Other
                    },
                });
            }
            "istio" => {
                pod.annotations
                    .insert("prometheus.istio.io/scrape-targets".into(), value.into());
            }
            key => {
                let name = format!("prometheus.io/{}", key.strip_prefix('@').expect("a known word"));
                if value == "-" {
                    pod.annotations.remove(name.as_str());
                } else {
                    pod.annotations.insert(name.into(), value.into());
                }
            }
        }
    }
    if pod.id.uid.is_empty() {
        pod.id.uid = format!("u-{}", pod.id.name);
    }
    pod.ports = ports.into();
    pod
}

fn settings() -> TargetSettings {
    TargetSettings {
        default_port: DefaultPort::Number(80),
        self_pod: SelfPod {
            uid: Some("u-me".to_owned()),
            name: Some(("ns".to_owned(), "proxy-0".to_owned())),
            addresses: Vec::new(),
        },
        max_targets_per_pod: 16,
        max_label_value_length: 0,
        addresses: AddressPolicy::Pods(Vec::new()),
    }
}

fn build_lines(pods: &str, settings: &TargetSettings) -> TargetSet {
    let pods: Vec<Pod> = pods
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(pod)
        .collect();
    build(&pods, settings, NOW.parse().expect("a time"))
}

/// One line a target (name, URL, labels besides the two), one line a reason (name, kind).
fn show(set: &TargetSet) -> Vec<String> {
    let targets = set.targets.iter().map(|target| {
        assert_eq!(
            target.labels[0],
            ("k8s_pod_name".to_owned(), target.pod.name.clone())
        );
        assert_eq!(
            target.labels[1],
            ("k8s_namespace".to_owned(), target.pod.namespace.clone())
        );
        let labels = target.labels[2..]
            .iter()
            .fold(String::new(), |text, (key, value)| text + " " + key + "=" + value);
        format!(
            "{} {}://{}{}{labels}",
            target.pod.name,
            target.scheme.as_str(),
            target.address,
            target.path_and_query
        )
    });
    let skipped = set
        .skipped
        .iter()
        .map(|skipped| format!("{} - {}", skipped.pod.name, skipped.reason));
    targets.chain(skipped).collect()
}

#[track_caller]
fn check(pods: &str, expect: &[&str]) {
    assert_eq!(show(&build_lines(pods, &settings())), expect);
}

#[track_caller]
fn check_reason(pods: &str, expect: &str) {
    let set = build_lines(pods, &settings());
    assert_eq!(set.targets, [], "not scraped");
    let reasons: Vec<_> = set
        .skipped
        .iter()
        .map(|skipped| skipped.detail.as_str())
        .collect();
    assert_eq!(reasons, [expect]);
}

#[test]
fn plain_annotations_give_one_target_without_further_labels() {
    check("name=a ip=10.0.0.1", &["a http://10.0.0.1:80/metrics"]);
    check(
        "name=a ip=10.0.0.1 @port=8080 @path=/m",
        &["a http://10.0.0.1:8080/m"],
    );
    check(
        "name=a ip=10.0.0.1 @port= @path=",
        &["a http://10.0.0.1:80/metrics"],
    );
}

#[test]
fn scrape_takes_every_word_for_true() {
    for word in ["true", "True", "TRUE", "1", "t", "T"] {
        check(
            &format!("name=a ip=10.0.0.1 @scrape={word}"),
            &["a http://10.0.0.1:80/metrics"],
        );
    }
    check("name=a ip=10.0.0.1 @scrape=-", &["a - not_annotated"]);
    check("name=a ip=10.0.0.1 @scrape=", &["a - not_annotated"]);
    check("name=a ip=10.0.0.1 @scrape=false", &["a - annotated_off"]);
    check("name=a ip=10.0.0.1 @scrape=yes", &["a - bad_annotation"]);
    check_reason(
        "name=a ip=10.0.0.1 @scrape=yes",
        "the annotation prometheus.io/scrape is \"yes\"; use \"true\" or \"false\"",
    );
}

/// Schemes, params, a path without a slash, and ports that are no number.
#[test]
fn scheme_params_and_paths_are_honoured() {
    check(
        "name=a ip=10.0.0.1 @scheme=https @port=8443",
        &["a https://10.0.0.1:8443/metrics"],
    );
    check(
        "name=a ip=10.0.0.1 @scheme=HTTP",
        &["a http://10.0.0.1:80/metrics"],
    );
    check("name=a ip=10.0.0.1 @scheme=ftp", &["a - bad_scheme"]);
    check("name=a ip=10.0.0.1 @path=m", &["a http://10.0.0.1:80/m"]);
    check(
        "name=a ip=10.0.0.1 @path=probe?module=x",
        &["a http://10.0.0.1:80/probe?module=x"],
    );
    check(
        "name=a ip=10.0.0.1 @path=/p?x=1 @param_format=prometheus @param_a=b&c",
        &["a http://10.0.0.1:80/p?x=1&a=b%26c&format=prometheus"],
    );
    check("name=a ip=10.0.0.1 @param_=x", &["a - bad_annotation"]);
    check(
        "name=a ip=10.0.0.1 @path=http://other/x#y_z",
        &["a http://10.0.0.1:80/http://other/x%23y%20z"],
    );
}

#[test]
fn a_named_port_is_looked_up_among_the_declared() {
    check(
        "name=a ip=10.0.0.1 @port=m port=m:9102 port=x:1",
        &["a http://10.0.0.1:9102/metrics"],
    );
    check("name=a ip=10.0.0.1 @port=m port=x:1", &["a - unknown_port"]);
    check("name=a ip=10.0.0.1 @port=m port=m:1/UDP", &["a - unknown_port"]);
    check(
        "name=a ip=10.0.0.1 @port=m port=m:1 port=m:2",
        &["a - ambiguous_port"],
    );
    check(
        "name=a ip=10.0.0.1 @port=m port=m:1 port=m:1",
        &["a http://10.0.0.1:1/metrics"],
    );
    check_reason(
        "name=a ip=10.0.0.1 @port=metrics port=x:1",
        "the annotation prometheus.io/port names port \"metrics\", which no container declares",
    );
    for bad in ["0", "65536", "99999999999999999999"] {
        check(&format!("name=a ip=10.0.0.1 @port={bad}"), &["a - bad_port"]);
    }
}

/// A label must not come and go with the second target, so the list alone decides.
#[test]
fn a_list_of_ports_always_carries_the_port() {
    check(
        "name=a ip=10.0.0.1 @port=9090,8080 @path=/m",
        &[
            "a http://10.0.0.1:8080/m k8s_pod_port=8080",
            "a http://10.0.0.1:9090/m k8s_pod_port=9090",
        ],
    );
    check(
        "name=a ip=10.0.0.1 @port=8080,8080",
        &["a http://10.0.0.1:8080/metrics k8s_pod_port=8080"],
    );
    check(
        "name=a ip=10.0.0.1 @port=m,_x port=m:8080",
        &[
            "a http://10.0.0.1:8080/metrics k8s_pod_port=8080",
            "a - unknown_port",
        ],
    );
    check(
        "name=a ip=10.0.0.1 @port=8080,",
        &["a http://10.0.0.1:8080/metrics k8s_pod_port=8080", "a - bad_port"],
    );
    check(
        "name=a ip=10.0.0.1 @port=x,y",
        &["a - unknown_port", "a - unknown_port"],
    );
}

#[test]
fn istios_list_names_ports_and_paths() {
    check(
        "name=a ip=10.0.0.1 istio=8080:/metrics,9100:x,_7 @param_a=b",
        &[
            "a http://10.0.0.1:7/metrics?a=b k8s_pod_port=7 k8s_pod_path=/metrics",
            "a http://10.0.0.1:8080/metrics?a=b k8s_pod_port=8080 k8s_pod_path=/metrics",
            "a http://10.0.0.1:9100/x?a=b k8s_pod_port=9100 k8s_pod_path=/x",
        ],
    );
    check(
        "name=a ip=10.0.0.1 @scrape=- istio=8080:/metrics",
        &["a http://10.0.0.1:8080/metrics k8s_pod_port=8080 k8s_pod_path=/metrics"],
    );
    check(
        "name=a ip=10.0.0.1 @scrape=false istio=8080:/metrics",
        &["a - annotated_off"],
    );
    check("name=a ip=10.0.0.1 istio=,", &["a - no_port"]);
    check("name=a ip=10.0.0.1 istio=http:/m", &["a - unknown_port"]);
    // The list stands in for the plain annotations, unless these point at the agent that answers for the whole list.
    check(
        "name=a ip=10.0.0.1 istio=8080:/metrics @port=9 @path=/z",
        &["a http://10.0.0.1:8080/metrics k8s_pod_port=8080 k8s_pod_path=/metrics"],
    );
    check(
        "name=a ip=10.0.0.1 istio=8080:/metrics @port=15020 @path=/stats/prometheus",
        &["a http://10.0.0.1:15020/stats/prometheus"],
    );
}

#[test]
fn declared_ports_stand_in_for_the_annotation_where_configured() {
    let settings = TargetSettings {
        default_port: DefaultPort::Declared,
        ..settings()
    };
    let check = |pods: &str, expect: &[&str]| assert_eq!(show(&build_lines(pods, &settings)), expect);
    check(
        "name=a ip=10.0.0.1 port=web:8080 port=:9090 port=dns:53/UDP",
        &[
            "a http://10.0.0.1:8080/metrics k8s_pod_port=8080",
            "a http://10.0.0.1:9090/metrics k8s_pod_port=9090",
        ],
    );
    check("name=a ip=10.0.0.1", &["a - no_port"]);
    check(
        "name=a ip=10.0.0.1 @port=7 port=web:8080",
        &["a http://10.0.0.1:7/metrics"],
    );
}

/// IPv6, and dual stack with either family first.
#[test]
fn addresses_of_both_families() {
    check("name=a ip=fd00::1", &["a http://[fd00::1]:80/metrics"]);
    check("name=a ip=fd00::1,10.0.0.1", &["a http://[fd00::1]:80/metrics"]);
    check("name=a ip=0.0.0.0", &["a - bad_ip"]);
}

/// A pod that has ended, has not begun or has no address.
#[test]
fn only_running_pods_with_an_address_are_scraped() {
    check(
        "name=a ip=10.0.0.1 phase=Unknown",
        &["a http://10.0.0.1:80/metrics"],
    );
    check(
        "name=a ip=10.0.0.1 phase=Rebooting",
        &["a http://10.0.0.1:80/metrics"],
    );
    check("name=a ip=10.0.0.1 phase=Pending", &["a - pending"]);
    check("name=a ip=10.0.0.1 phase=Succeeded", &["a - finished"]);
    check("name=a ip=10.0.0.1 phase=Failed", &["a - finished"]);
    check("name=a", &["a - no_ip"]);
}

#[test]
fn a_pod_on_its_way_out_is_scraped_for_a_minute_after_its_time() {
    check(
        "name=a ip=10.0.0.1 deleted=12:00:30",
        &["a http://10.0.0.1:80/metrics"],
    );
    check(
        "name=a ip=10.0.0.1 deleted=11:59:01",
        &["a http://10.0.0.1:80/metrics"],
    );
    check("name=a ip=10.0.0.1 deleted=11:59:00", &["a - lost"]);
    let set = build_lines(
        "name=a ip=10.0.0.1 deleted=11:59:30\nname=b deleted=11:59:20",
        &settings(),
    );
    assert_eq!(set.next_change, Some("2026-01-01T12:00:20Z".parse().unwrap()));
}

/// Source: prometheus/prometheus#11507, rabbitmq/cluster-operator#17.
#[test]
fn a_port_that_a_deleted_pod_has_closed_leaves_the_set() {
    let evaluate = |text: &str| EvaluatedPod::new(&pod(text), &settings(), &MonitorIndex::default());
    let assembled = |pod: &EvaluatedPod| {
        show(&assemble(
            [pod],
            &settings().self_pod,
            None,
            NOW.parse().expect("a time"),
        ))
    };
    let mut ending = evaluate("name=a ip=10.0.0.1 @port=1,2 deleted=12:00:30");
    assert!(ending.end_port(2));
    let expect = ["a http://10.0.0.1:1/metrics k8s_pod_port=1", "a - terminating"];
    assert_eq!(assembled(&ending), expect);
    let mut updated = evaluate("name=a ip=10.0.0.1 @port=1,2 deleted=12:00:20");
    updated.keep_ended_ports(&ending);
    assert_eq!(assembled(&updated), expect);
    // A pod that nobody deletes and that refuses the connection is down.
    let mut running = evaluate("name=a ip=10.0.0.1 @port=1,2");
    assert!(!running.end_port(2));
    running.keep_ended_ports(&ending);
    assert_eq!(assembled(&running).len(), 2);
    assert!(!assembled(&running).contains(&"a - terminating".to_owned()));
}

#[test]
fn our_own_pod_is_never_scraped() {
    check("name=proxy-0 ip=10.0.0.1", &["proxy-0 - self"]);
    check("name=other uid=u-me ip=10.0.0.1", &["other - self"]);
    check(
        "ns=elsewhere name=proxy-0 ip=10.0.0.1",
        &["proxy-0 http://10.0.0.1:80/metrics"],
    );
}

/// Pods on the host network share an address, and each is scraped.
#[test]
fn host_network_pods_share_an_address() {
    check(
        "name=a host=y ip=10.0.0.1 @port=1\nname=b host=y ip=10.0.0.1 @port=2\nname=c host=y ip=10.0.0.1 @port=2 @path=/c",
        &[
            "a http://10.0.0.1:1/metrics",
            "b http://10.0.0.1:2/metrics",
            "c http://10.0.0.1:2/c",
        ],
    );
    check(
        "name=a host=y ip=10.0.0.1 started=11:00:01\nname=b host=y ip=10.0.0.1 started=11:00:00",
        &["a http://10.0.0.1:80/metrics", "b - endpoint_taken"],
    );
    let set = build_lines(
        "name=a host=y ip=10.0.0.1 started=11:00:01\nname=b host=y ip=10.0.0.1 started=11:00:00",
        &settings(),
    );
    assert_eq!(
        set.skipped[0].detail,
        "port 80 and path /metrics at 10.0.0.1 belong to the later pod ns/a on the same address"
    );
}

/// An address moves on to a later pod, and the earlier one's name must never be put on its samples.
#[test]
fn an_address_belongs_to_the_latest_pod() {
    check(
        "name=a ip=10.0.0.1 @port=1 started=11:00:00\nname=b ip=10.0.0.1 @port=2 started=11:00:01",
        &["b http://10.0.0.1:2/metrics", "a - ip_taken"],
    );
    // A start time that is not there yet is earlier than any.
    check(
        "name=a ip=10.0.0.1 created=11:00:05\nname=b ip=10.0.0.1 started=11:00:01 created=11:00:01",
        &["b http://10.0.0.1:80/metrics", "a - ip_taken"],
    );
    check(
        "name=a ip=10.0.0.1 created=11:00:05\nname=b ip=10.0.0.1 created=11:00:06",
        &["b http://10.0.0.1:80/metrics", "a - ip_taken"],
    );
    check(
        "name=a uid=2 ip=10.0.0.1\nname=b uid=1 ip=10.0.0.1",
        &["a http://10.0.0.1:80/metrics", "b - ip_taken"],
    );
    let set = build_lines(
        "name=a ip=10.0.0.1 started=11:00:00\nname=b ip=10.0.0.1 started=11:00:01 phase=Pending",
        &settings(),
    );
    assert_eq!(
        set.skipped[0].detail,
        "its IP address 10.0.0.1 now belongs to the later pod ns/b"
    );
    assert_eq!(set.targets, []);
}

#[test]
fn an_owner_needs_not_be_scraped_itself_but_must_be_there() {
    check(
        "name=a ip=10.0.0.1 started=11:00:00\nname=b ip=10.0.0.1 started=11:00:01 @scrape=-",
        &["a - ip_taken", "b - not_annotated"],
    );
    check(
        "name=a ip=10.0.0.1 started=11:00:00\nname=b ip=10.0.0.1 started=11:00:01 phase=Succeeded",
        &["a http://10.0.0.1:80/metrics", "b - finished"],
    );
    check(
        "name=a ip=10.0.0.1 started=11:00:00\nname=b ip=10.0.0.1 started=11:00:01 deleted=11:50:00",
        &["a http://10.0.0.1:80/metrics", "b - lost"],
    );
    // A second address counts as well.
    check(
        "name=a ip=10.0.0.1 started=11:00:00\nname=b ip=fd00::2,10.0.0.1 started=11:00:01",
        &["b http://[fd00::2]:80/metrics", "a - ip_taken"],
    );
}

#[test]
fn the_set_is_sorted_and_does_not_depend_on_the_order_of_pods() {
    let lines =
        "ns=b name=a ip=10.0.0.1\nns=a name=b ip=10.0.0.2 @port=9,10\nns=a name=a ip=10.0.0.3\nname=x";
    let backwards: Vec<&str> = lines.lines().rev().collect();
    let set = build_lines(lines, &settings());
    assert_eq!(set, build_lines(&backwards.join("\n"), &settings()));
    assert_eq!(set.n_pods, 4);
    let names: Vec<_> = set
        .targets
        .iter()
        .map(|target| format!("{}:{}", target.pod, target.address.port()))
        .collect();
    assert_eq!(names, ["a/a:80", "a/b:9", "a/b:10", "b/a:80"]);
}

#[test]
fn a_set_confirms_only_the_same_pod_at_the_same_address() {
    let before = build_lines("name=a ip=10.0.0.1 @port=1,2\nname=b ip=10.0.0.2", &settings());
    let targets: Vec<&Target> = before.targets.iter().map(AsRef::as_ref).collect();
    assert!(targets.iter().all(|target| before.confirms(target)));
    let confirmed = |pods: &str| -> Vec<bool> {
        let set = build_lines(pods, &settings());
        targets.iter().map(|target| set.confirms(target)).collect()
    };
    assert_eq!(
        confirmed("name=a ip=10.0.0.3 @port=1,2\nname=b ip=10.0.0.2"),
        [false, false, true]
    );
    assert_eq!(
        confirmed("name=a uid=new ip=10.0.0.1 @port=1,2\nname=b ip=10.0.0.2"),
        [false, false, true]
    );
    assert_eq!(
        confirmed("name=a ip=10.0.0.1 @port=1,2 started=11:00:00\nname=c ip=10.0.0.1 started=11:00:01"),
        [false, false, false]
    );
    assert_eq!(
        confirmed("name=a ip=10.0.0.1 @port=2 phase=Running\nname=b ip=10.0.0.2 phase=Failed"),
        [false, true, false]
    );
}

/// A pod whose name has more than 63 characters has a host name that the kubelet cut.
///
/// Source: kubernetes/kubernetes#36965, kubeflow/kale#688.
#[test]
fn the_own_pod_is_recognized_by_a_host_name_that_was_cut() {
    let host_name = "observability-metrics-proxy-aggregator-for-the-whole-mesh-7c9d8";
    assert_eq!(host_name.len(), 63);
    let own = |host_name: &str| TargetSettings {
        self_pod: SelfPod {
            uid: None,
            name: Some(("ns".to_owned(), host_name.to_owned())),
            addresses: Vec::new(),
        },
        ..settings()
    };
    let pods =
        format!("name={host_name}f5b6c-x2x4z ip=10.0.0.1\nns=other name={host_name}f5b6c-x2x4z ip=10.0.0.2");
    let show_all = |settings: &TargetSettings| show(&build_lines(&pods, settings));
    let target = |ip: &str| format!("{host_name}f5b6c-x2x4z http://{ip}:80/metrics");
    let skipped = format!("{host_name}f5b6c-x2x4z - self");
    assert_eq!(show_all(&own(host_name)), [target("10.0.0.2"), skipped.clone()]);
    assert_eq!(show_all(&own(&host_name[..60])), [target("10.0.0.2"), skipped]);
    // A shorter host name was not cut, so that it is the name of another pod.
    assert_eq!(
        show_all(&own(&host_name[..59])),
        [target("10.0.0.1"), target("10.0.0.2")]
    );
    // The UID leaves nothing to guess.
    let mut settings = own(host_name);
    settings.self_pod.uid = Some("u-other".to_owned());
    assert_eq!(show_all(&settings), [target("10.0.0.1"), target("10.0.0.2")]);
}

#[test]
fn the_own_pod_is_recognized_by_its_address_where_no_name_says_so() {
    let settings = |uid: Option<&str>| TargetSettings {
        self_pod: SelfPod {
            uid: uid.map(str::to_owned),
            name: Some(("ns".to_owned(), "node-7".to_owned())),
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        },
        ..settings()
    };
    let check = |pods: &str, uid, expect: &[&str]| {
        assert_eq!(show(&build_lines(pods, &settings(uid))), expect);
    };
    check(
        "name=a ip=10.0.0.1\nname=b ip=10.0.0.3,fd00::2",
        None,
        &["a http://10.0.0.1:80/metrics", "b - self"],
    );
    // On the host network several pods have the address of one node.
    check(
        "name=a ip=10.0.0.1 host=y\nname=b ip=10.0.0.2",
        None,
        &["a http://10.0.0.1:80/metrics", "b http://10.0.0.2:80/metrics"],
    );
    // The host name has found it already; the other pod only shows an address that was ours.
    check(
        "name=b ip=10.0.0.2\nname=node-7 ip=10.0.0.9",
        None,
        &["b http://10.0.0.2:80/metrics", "node-7 - self"],
    );
    check(
        "name=b ip=10.0.0.2",
        Some("u-x"),
        &["b http://10.0.0.2:80/metrics"],
    );
}

/// Annotations of 256 KiB hold 44,000 ports or 29,000 paths. All targets are scraped at the same time.
#[test]
fn a_pod_has_a_limited_number_of_targets() {
    let ports =
        |range: std::ops::Range<u16>| range.map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    let sixteen = build_lines(
        &format!("name=a ip=10.0.0.1 @port={}", ports(100..116)),
        &settings(),
    );
    assert_eq!((sixteen.targets.len(), sixteen.skipped.len()), (16, 0));
    let many = build_lines(
        &format!("name=a ip=10.0.0.1 @port={}", ports(100..20_100)),
        &settings(),
    );
    assert_eq!(many.targets[..], sixteen.targets[..], "the first ones");
    assert_eq!(
        many.skipped
            .iter()
            .map(|skipped| skipped.detail.as_str())
            .collect::<Vec<_>>(),
        [
            "it names 20000 endpoints, of which the first 16 are scraped; name fewer or raise --max-targets-per-pod"
        ]
    );
    assert_eq!(many.skipped[0].reason, SkipReason::TooMany);
    // Neither do bad entries fill the page.
    let bad = build_lines(
        &format!("name=a ip=10.0.0.1 @port={}", "x,".repeat(20_000)),
        &settings(),
    );
    assert_eq!((bad.targets.len(), bad.skipped.len()), (0, 17));
    // Of lists and duplicates only what differs counts.
    let same = "7,".repeat(500) + "8";
    check(
        &format!("name=a ip=10.0.0.1 @port={same}"),
        &[
            "a http://10.0.0.1:7/metrics k8s_pod_port=7",
            "a http://10.0.0.1:8/metrics k8s_pod_port=8",
        ],
    );
}

#[test]
fn a_long_path_is_not_scraped() {
    let path = |length: usize| format!("name=a ip=10.0.0.1 @path=/{}", "p".repeat(length - 1));
    assert_eq!(build_lines(&path(1024), &settings()).targets.len(), 1);
    check_reason(&path(1025), "a path at port 80 has 1025 bytes; use at most 1024");
    check(&path(1025), &["a - bad_path"]);
    // The limit for label values of a scraper counts too, or the scraper refuses the whole response.
    let settings = TargetSettings {
        max_label_value_length: 200,
        ..settings()
    };
    let fits = 200 - "http://10.0.0.1:80".len();
    assert_eq!(build_lines(&path(fits), &settings).targets.len(), 1);
    let set = build_lines(&path(fits + 1), &settings);
    assert_eq!(
        set.skipped[0].detail,
        "the URL of a path at port 80 has 201 bytes as a label; --max-label-value-length allows 200"
    );
    // The query is in no label.
    let set = build_lines(&format!("{} @param_x={}", path(fits), "v".repeat(500)), &settings);
    assert_eq!(set.targets.len(), 1);
}

/// Source: newrelic/nri-prometheus#47, VictoriaMetrics/VictoriaMetrics#5825.
#[test]
fn the_public_url_has_no_query() {
    let pods = "name=a ip=10.0.0.1 @param_token=hush\nname=b ip=fd00::1 @path=/m?token=hush @scheme=https";
    let set = build_lines(pods, &settings());
    let urls: Vec<String> = set.targets.iter().map(|target| target.public_url()).collect();
    assert_eq!(urls, ["http://10.0.0.1:80/metrics", "https://[fd00::1]:80/m"]);
    assert!(
        set.targets
            .iter()
            .all(|target| target.path_and_query.ends_with("token=hush"))
    );
}

#[test]
fn addresses_that_no_pod_has_are_no_targets() {
    for ip in [
        "127.0.0.1",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "::1",
        "255.255.255.255",
    ] {
        check(&format!("name=a ip={ip}"), &["a - bad_ip"]);
    }
    check("name=a ip=::ffff:10.0.0.1", &["a http://10.0.0.1:80/metrics"]);
    // A mapped address is the same address.
    check(
        "name=a ip=::ffff:10.0.0.1 started=11:00:00\nname=b ip=10.0.0.1 started=11:00:01",
        &["b http://10.0.0.1:80/metrics", "a - ip_taken"],
    );
    let files = TargetSettings {
        addresses: AddressPolicy::Any,
        ..settings()
    };
    let set = build_lines("name=a ip=127.0.0.1\nname=b ip=0.0.0.0", &files);
    assert_eq!(show(&set), ["a http://127.0.0.1:80/metrics", "b - bad_ip"]);
}

/// Each complete body asks whether its target is still there, on a thread that serves requests.
#[test]
fn all_targets_of_a_pod_with_very_many_are_confirmed() {
    let settings = TargetSettings {
        max_targets_per_pod: 65_536,
        ..settings()
    };
    let list: Vec<String> = (1..=50_000).map(|port: u16| port.to_string()).collect();
    let set = build_lines(&format!("name=a ip=10.0.0.1 @port={}", list.join(",")), &settings);
    assert_eq!(set.targets.len(), 50_000);
    // A walk over all targets for each of them takes minutes in this build, which nobody overlooks.
    assert!(set.targets.iter().all(|target| set.confirms(target)));
}

#[test]
fn long_values_are_cut_in_reasons() {
    let set = build_lines(
        &format!("name=a ip=10.0.0.1 @port={}", "x".repeat(500)),
        &settings(),
    );
    assert!(set.skipped[0].detail.len() < 200, "{}", set.skipped[0].detail);
}
