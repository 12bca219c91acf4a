"""The charm's relations with the Canonical Observability Stack: metrics, dashboard, logs; and the ingress.

The libraries of prometheus-k8s, grafana-k8s, loki-k8s and traefik-k8s are used where `charmcraft fetch-libs` has put them
into lib/. Without a library this module writes the few fields that its interface needs, with cosl for topology, rules and
encoding. Both ways send the same jobs, rules and dashboard; the libraries also validate and report errors.
"""

import json
import pathlib
import socket
import uuid

import ops
from cosl import JujuTopology, LZMABase64
from cosl.rules import Rules, generic_alert_groups

try:
    from charms.prometheus_k8s.v0.prometheus_scrape import MetricsEndpointProvider
except ImportError:
    MetricsEndpointProvider = None
try:
    from charms.grafana_k8s.v0.grafana_dashboard import GrafanaDashboardProvider
except ImportError:
    GrafanaDashboardProvider = None
try:
    from charms.loki_k8s.v1.loki_push_api import LogForwarder
except ImportError:
    LogForwarder = None
try:
    from charms.traefik_k8s.v2.ingress import IngressPerAppRequirer
except ImportError:
    IngressPerAppRequirer = None

METRICS = "metrics-endpoint"
DASHBOARDS = "grafana-dashboard"
LOGGING = "logging"
INGRESS = "ingress"
HERE = pathlib.Path(__file__).parent
ALERT_RULES = HERE / "prometheus_alert_rules"
DASHBOARD_FILES = HERE / "grafana_dashboards"
# The label of the layer with log targets, as the library names it.
LOG_LAYER_SUFFIX = "-log-forwarding"


def scrape_job(port: int, interval: str, timeout: str, labels: dict[str, str]) -> dict:
    """The one job of this application. `*` stands for the address of each unit."""
    static = {"targets": [f"*:{port}"], **({"labels": labels} if labels else {})}
    job: dict = {"metrics_path": "/metrics", "static_configs": [static]}
    if interval:
        job["scrape_interval"] = interval
    if timeout:
        job["scrape_timeout"] = timeout
    return job


class Cos:
    """Keeps the relations up to date. Construct it once per dispatch, after the configuration is known."""

    def __init__(self, charm: ops.CharmBase, container: ops.Container, port: int, job: dict):
        self._charm = charm
        self._container = container
        self._port = port
        self._jobs = [job]
        self._topology = JujuTopology.from_charm(charm)
        if MetricsEndpointProvider:
            refresh = [charm.on.config_changed, charm.on.update_status]
            self.metrics = MetricsEndpointProvider(
                charm, METRICS, jobs=self._jobs, alert_rules_path=str(ALERT_RULES), refresh_event=refresh
            )
        if GrafanaDashboardProvider:
            self.dashboards = GrafanaDashboardProvider(charm, DASHBOARDS, str(DASHBOARD_FILES))
        if LogForwarder:
            self.logging = LogForwarder(charm, relation_name=LOGGING)
        if IngressPerAppRequirer:
            self.ingress = IngressPerAppRequirer(charm, INGRESS, port=port, strip_prefix=True)

    def update(self):
        """Writes what a relation without its library lacks. Juju sends on only what differs."""
        if not MetricsEndpointProvider:
            self._update_metrics()
        if not GrafanaDashboardProvider:
            self._update_dashboards()
        if not IngressPerAppRequirer:
            self._update_ingress()

    def log_layer(self) -> tuple[str, ops.pebble.LayerDict] | None:
        """The label and content of the layer that sends the log to Loki, or None where the library does it."""
        if LogForwarder:
            return None
        label = f"{self._container.name}{LOG_LAYER_SUFFIX}"
        wanted = self._loki_endpoints()
        # A layer cannot take a target out of the plan: one that Pebble has and that is not wanted is switched off.
        known = self._container.get_plan().log_targets
        targets: dict = {name: self._log_target(url) for name, url in wanted.items()}
        targets.update({name: {"override": "replace", "services": ["-all"]} for name in known if name not in wanted})
        return (label, {"log-targets": targets}) if targets else None

    def alert_rules(self) -> dict:
        """Our alert rules and the generic ones of COS, for this application only."""
        rules = Rules("promql", self._topology)
        rules.add_path(ALERT_RULES)
        rules.add(generic_alert_groups.application_rules, group_name_prefix=self._topology.identifier)
        return rules.as_dict()

    def _is_leader(self) -> bool:
        return self._charm.unit.is_leader()

    def _update_metrics(self):
        for relation in self._charm.model.relations[METRICS]:
            binding = self._charm.model.get_binding(relation)
            if binding is not None and binding.network.bind_address is not None:
                # Each unit is a target of its own. The ingress is not used: it would spread scrapes over the shards.
                relation.data[self._charm.unit].update(
                    {
                        "prometheus_scrape_unit_address": str(binding.network.bind_address),
                        "prometheus_scrape_unit_name": self._charm.unit.name,
                        "prometheus_scrape_unit_fqdn": socket.getfqdn(),
                        "prometheus_scrape_unit_path": "",
                    }
                )
            if self._is_leader():
                relation.data[self._charm.app].update(
                    {
                        "scrape_jobs": json.dumps(self._jobs),
                        "scrape_metadata": json.dumps(self._topology.as_dict()),
                        "alert_rules": json.dumps(self.alert_rules()),
                    }
                )

    def _update_dashboards(self):
        if not self._is_leader():
            return
        templates = {
            f"file:{path.stem}": {
                "charm": self._charm.meta.name,
                "content": LZMABase64.compress(path.read_text()),
                "juju_topology": self._topology.as_dict(excluded_keys=["charm_name"]),
            }
            for path in sorted(DASHBOARD_FILES.glob("*.json"))
        }
        # A mark that follows the content: a random one would be a change at every event.
        mark = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(templates, sort_keys=True))
        for relation in self._charm.model.relations[DASHBOARDS]:
            relation.data[self._charm.app]["dashboards"] = json.dumps({"templates": templates, "uuid": str(mark)})

    def _update_ingress(self):
        """The second version of the interface `ingress`: each field is a JSON value."""
        for relation in self._charm.model.relations[INGRESS]:
            host = socket.getfqdn()
            unit = {"host": host}
            binding = self._charm.model.get_binding(relation)
            if binding is not None and binding.network.bind_address is not None:
                unit["ip"] = str(binding.network.bind_address)
            relation.data[self._charm.unit].update({key: json.dumps(value) for key, value in unit.items()})
            if self._is_leader():
                app = {
                    "model": self._charm.model.name,
                    "name": self._charm.app.name,
                    "port": self._port,
                    "strip-prefix": True,
                    "redirect-https": True,
                    "scheme": "http",
                }
                relation.data[self._charm.app].update({key: json.dumps(value) for key, value in app.items()})

    def _loki_endpoints(self) -> dict[str, str]:
        """The push address of each Loki unit by its name. A relation that is being removed counts no more."""
        found = {}
        for relation in self._charm.model.relations[LOGGING]:
            for unit in relation.units if relation.active else ():
                try:
                    found[unit.name] = json.loads(relation.data[unit].get("endpoint", "{}"))["url"]
                except (ValueError, KeyError, TypeError):
                    # Loki has not written its address yet; relation-changed follows.
                    continue
        return found

    def _log_target(self, url: str) -> dict:
        labels = {"product": "Juju", **self._topology.label_matcher_dict, "juju_unit": self._topology.unit}
        return {"override": "replace", "services": ["all"], "type": "loki", "location": url, "labels": labels}
