"""The charm in a real Juju on Kubernetes, in the order in which an operator works.

Each test continues from the state that the previous one left. `juju` is the fixture of pytest-jubilant: a temporary model.
"""

import base64
import json
import pathlib
import subprocess
import textwrap
import time
import urllib.error
import urllib.request

import jubilant

APP = "metrics-proxy-example"
SECRET = {"username": "prometheus", "password": "first-password"}
# A pod that the selector matches. Any image with a static web server works; this one serves one metric.
WORKLOAD = textwrap.dedent("""
    apiVersion: v1
    kind: Pod
    metadata:
      name: web-0
      labels: {app: web}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "9100"}
    spec:
      containers:
      - name: exporter
        image: quay.io/prometheus/node-exporter:v1.9.0
        args: ["--collector.disable-defaults", "--collector.loadavg"]
        ports: [{containerPort: 9100}]
""")


def wait_for(what: str, condition, limit: float = 180.0):
    """Waits until the condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        time.sleep(2)


def address(juju: jubilant.Juju, unit: str) -> str:
    return juju.status().apps[APP].units[unit].address


def get(url: str, credential: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url)
    if credential:
        pair = f"{credential['username']}:{credential['password']}".encode()
        request.add_header("Authorization", "Basic " + base64.b64encode(pair).decode())
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError as e:
        return 0, str(e)


def pebble_metrics(juju: jubilant.Juju, credential: dict[str, str]) -> int:
    return get(f"http://{address(juju, f'{APP}/0')}:38813/v1/metrics", credential)[0]


def test_deploy(juju: jubilant.Juju, charm: pathlib.Path, image: str):
    juju.deploy(charm, APP, resources={"metrics-proxy-image": image}, trust=True)
    juju.wait(lambda status: jubilant.all_blocked(status, APP), timeout=600)
    assert "pod-label-selector" in juju.status().apps[APP].units[f"{APP}/0"].workload_status.message
    juju.config(APP, {"pod-label-selector": "app=web", "namespaces": namespace(juju)})
    juju.wait(lambda status: jubilant.all_active(status, APP), timeout=300)
    assert juju.status().apps[APP].version


def test_pods_are_served(juju: jubilant.Juju, tmp_path: pathlib.Path):
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(WORKLOAD)
    kubectl(juju, "apply", "-f", str(manifest))
    metrics = f"http://{address(juju, f'{APP}/0')}:15090/metrics"
    wait_for("a sample of the pod", lambda: 'node_load1{k8s_pod_name="web-0"' in get(metrics)[1])
    shown = juju.run(f"{APP}/0", "targets", {"output": "json"}).results["targets"]
    assert "web-0" in json.dumps(json.loads(shown))


def test_the_secret_opens_pebbles_metrics(juju: jubilant.Juju):
    uri = juju.add_secret("pebble-metrics", SECRET)
    juju.config(APP, {"metrics-secret-id": str(uri)})
    juju.wait(lambda status: jubilant.all_blocked(status, APP), timeout=300)
    juju.grant_secret(uri, APP)
    # Granting causes no event.
    juju.config(APP, {"scrape-timeout": "9s"})
    juju.wait(lambda status: jubilant.all_active(status, APP), timeout=300)
    wait_for("the credential is in force", lambda: pebble_metrics(juju, SECRET) == 200)
    changed = {**SECRET, "password": "second-password"}
    juju.update_secret(uri, changed)
    wait_for("the new password is in force", lambda: pebble_metrics(juju, changed) == 200)
    assert pebble_metrics(juju, SECRET) == 401


def test_revoking_the_secret_ends_the_credential(juju: jubilant.Juju):
    current = {**SECRET, "password": "second-password"}
    juju.cli("revoke-secret", "pebble-metrics", APP)
    juju.config(APP, {"scrape-timeout": "8s"})
    wait_for("the credential ended", lambda: pebble_metrics(juju, current) == 401)
    juju.cli("grant-secret", "pebble-metrics", APP)
    juju.config(APP, {"scrape-timeout": "9s"})
    juju.wait(lambda status: jubilant.all_active(status, APP), timeout=300)


def test_units_share_the_pods(juju: jubilant.Juju):
    juju.add_unit(APP)
    juju.wait(lambda status: len(status.apps[APP].units) == 2 and jubilant.all_active(status, APP), timeout=600)

    def served() -> list[bool]:
        urls = [f"http://{address(juju, unit)}:15090/metrics" for unit in juju.status().apps[APP].units]
        return ['up{k8s_pod_name="web-0"' in get(url)[1] for url in urls]

    wait_for("exactly one unit serves the pod", lambda: sorted(served()) == [False, True])


def test_prometheus_stores_the_series_of_the_pod(juju: jubilant.Juju):
    juju.deploy("prometheus-k8s", "prometheus", channel="1/stable", trust=True)
    juju.integrate(f"{APP}:metrics-endpoint", "prometheus:metrics-endpoint")
    juju.wait(lambda status: jubilant.all_active(status, APP, "prometheus"), timeout=900)
    host = juju.status().apps["prometheus"].units["prometheus/0"].address
    query = f"http://{host}:9090/api/v1/query?query=node_load1%7Bk8s_pod_name%3D%22web-0%22%7D"

    def series() -> list[dict]:
        status, body = get(query)
        return json.loads(body)["data"]["result"] if status == 200 else []

    wait_for("the series of the pod is in Prometheus", lambda: bool(series()), limit=300)
    assert series()[0]["metric"]["juju_application"] == APP
    rules = json.loads(get(f"http://{host}:9090/api/v1/rules")[1])["data"]["groups"]
    ours = [rule for group in rules for rule in group["rules"] if rule["name"].startswith("MetricsProxy")]
    assert ours and all(f'juju_application="{APP}"' in rule["query"] for rule in ours)


def kubectl(juju: jubilant.Juju, *arguments: str):
    """Runs kubectl in the namespace of the model."""
    subprocess.run(["kubectl", "--namespace", namespace(juju), *arguments], check=True)


def namespace(juju: jubilant.Juju) -> str:
    """The namespace of the model, which has the model's name without that of the controller."""
    return str(juju.model).split(":")[-1]
