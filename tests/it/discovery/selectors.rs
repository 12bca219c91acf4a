//! Our reading of label selectors against the API server's own.

use std::collections::BTreeMap;

use metrics_proxy::targets::Selector;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::support::kube::{ADMIN, Cluster, NewPod};

/// Pieces that selectors are made of, and some that they are not.
const PIECES: &[&str] = &[
    "app",
    "tier",
    "gen",
    "example.com/app",
    "x",
    "y",
    "5",
    "07",
    "in",
    "notin",
    "exists",
    "a_b",
    "-",
    "/",
    "é",
    "=",
    "==",
    "!=",
    "!",
    ">",
    "<",
    "(",
    ")",
    ",",
    " ",
    " in (",
    " notin (",
    "x,y)",
    ", ",
    "app=x",
    "tier!=y",
    "gen>5",
    "!app",
    "",
];

/// Texts that people write, and their mistakes.
const TEXTS: &[&str] = &[
    "app=x",
    "app==x",
    "app!=x",
    "app in (x)",
    "app in (x,y)",
    "app notin (x, y)",
    "app",
    "!app",
    "! app",
    "gen>5",
    "gen<6",
    "gen > 5",
    "app=",
    "app!=",
    "app=,tier",
    "app=x,",
    ",app=x",
    "app in x",
    "app in ()",
    "app in (,)",
    "app in (x,)",
    "app in (,x)",
    "app in (x,,y)",
    "app in (x y)",
    "in in (in)",
    "notin",
    "app=in",
    "example.com/app=x",
    "Example.com/app=x",
    "a/b/c=x",
    "-app=x",
    "app=x_",
    "app=-x",
    "gen>x",
    "gen>",
    "gen>-1",
    "gen>=5",
    "gen>5.5",
    "app===x",
    "!app=x",
    "app=x y",
    "app x",
    "app\t=\nx",
    "app;tier",
    "app=é",
    "app=x&tier",
    "exists",
    "app=\"x\"",
    "gen>99999999999999999999",
];

async fn asked(client: &kube::Client, namespace: &str, text: &str) -> Option<Vec<String>> {
    let selector = utf8_percent_encode(text, NON_ALPHANUMERIC);
    let request = http::Request::get(format!(
        "/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"
    ));
    let request = request.body(Vec::new()).expect("an encoded path is valid");
    match client.request::<serde_json::Value>(request).await {
        Ok(list) => {
            let items = list["items"].as_array().expect("a list");
            let names = items
                .iter()
                .map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned());
            Some(names.collect())
        }
        Err(kube::Error::Api(status)) if status.code == 400 => None,
        Err(error) => panic!("{text:?}: {error}"),
    }
}

#[tokio::test]
async fn what_is_a_selector_and_what_it_takes_is_the_api_servers() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let mut pods: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let labels = [
        ("none", vec![]),
        ("app-x", vec![("app", "x")]),
        ("app-y", vec![("app", "y"), ("tier", "y")]),
        ("app-empty", vec![("app", ""), ("gen", "5")]),
        ("gen-6", vec![("gen", "6"), ("tier", "x"), ("in", "in")]),
        ("gen-07", vec![("gen", "07"), ("example.com/app", "x")]),
        ("gen-word", vec![("gen", "x"), ("notin", "y"), ("exists", "")]),
    ];
    for (name, labels) in labels {
        let pod = labels
            .iter()
            .fold(NewPod::pending(name), |pod, (key, value)| pod.label(key, value));
        cluster.create_pod(&namespace, &pod).await;
        let labels = labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        pods.insert(name.to_owned(), labels.collect());
    }
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut random = || {
        let pieces = (0..rng.random_range(1..7)).map(|_| PIECES[rng.random_range(0..PIECES.len())]);
        pieces.collect::<String>()
    };
    let random: Vec<String> = (0..400).map(|_| random()).collect();
    let client = cluster.client(ADMIN);
    let mut n_valid = 0;
    for text in TEXTS.iter().copied().chain(random.iter().map(String::as_str)) {
        // An empty selector takes everything there, and is refused here.
        if text.trim().is_empty() {
            continue;
        }
        let ours = Selector::parse(text);
        let theirs = asked(&client, &namespace, text).await;
        assert_eq!(
            ours.is_ok(),
            theirs.is_some(),
            "{text:?} (seed {seed}): {ours:?}, {theirs:?}"
        );
        let (Ok(selector), Some(theirs)) = (ours, theirs) else {
            continue;
        };
        n_valid += 1;
        let taken: Vec<_> = pods
            .iter()
            .filter(|(_, labels)| selector.matches(labels))
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(taken, theirs, "{text:?} (seed {seed})");
        let canonical = selector.to_string();
        assert_eq!(
            asked(&client, &namespace, &canonical).await,
            Some(theirs),
            "{text:?} as {canonical:?}"
        );
    }
    println!("{n_valid} of {} texts are selectors", TEXTS.len() + random.len());
    assert!(n_valid > 60);
}
