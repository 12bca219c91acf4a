"""What the charm tells Prometheus and Grafana.

The formats of `prometheus_scrape` and `grafana_dashboard`, in the few fields that this charm needs, so that the example
stands on `ops` alone. A charm that has the libraries of prometheus-k8s and grafana-k8s uses those instead:

    MetricsEndpointProvider(self, jobs=[{"static_configs": [{"targets": ["*:15090"]}]}])
    GrafanaDashboardProvider(self)
"""

import base64
import json
import lzma
import pathlib
import re
import uuid

import ops
import yaml

METRICS = "metrics-endpoint"
DASHBOARDS = "grafana-dashboard"
HERE = pathlib.Path(__file__).parent
# A selector of our own metrics, with its matchers where it has some.
SELECTOR = re.compile(r"\b(metrics_proxy_[a-z0-9_]+|up)\b(?!\s*[(:])(\{[^}]*\})?")


class Observability:
    """Keeps the two relations as they should be."""

    def __init__(self, charm: ops.CharmBase, port: int):
        self._charm = charm
        self._port = port
        # The address may change with the pod, and the dashboards with the charm: whatever happens, write both again.
        on = charm.on
        self.events = [
            event for name in (METRICS, DASHBOARDS) for event in (on[name].relation_joined, on[name].relation_changed)
        ]

    def update(self):
        """Writes what each relation lacks; Juju sends on only what differs."""
        model = self._charm.model
        for relation in model.relations[METRICS]:
            self._write_unit(relation)
            if self._charm.unit.is_leader():
                relation.data[self._charm.app].update(self._scrape())
        for relation in model.relations[DASHBOARDS]:
            if self._charm.unit.is_leader():
                relation.data[self._charm.app]["dashboards"] = self._dashboards()

    def _topology(self) -> dict[str, str]:
        model = self._charm.model
        return {"model": model.name, "model_uuid": model.uuid, "application": self._charm.app.name}

    def _write_unit(self, relation: ops.Relation):
        binding = self._charm.model.get_binding(relation)
        if binding is None or binding.network.bind_address is None:
            return
        data = relation.data[self._charm.unit]
        # Each unit is a target of its own.
        data["prometheus_scrape_unit_address"] = str(binding.network.bind_address)
        data["prometheus_scrape_unit_name"] = self._charm.unit.name

    def _scrape(self) -> dict[str, str]:
        metadata = {**self._topology(), "unit": self._charm.unit.name, "charm_name": self._charm.meta.name}
        jobs = [{"metrics_path": "/metrics", "static_configs": [{"targets": [f"*:{self._port}"]}]}]
        return {
            "scrape_jobs": json.dumps(jobs),
            "scrape_metadata": json.dumps(metadata),
            "alert_rules": json.dumps({"groups": self.alert_groups()}),
        }

    def alert_groups(self) -> list[dict]:
        """The alert rules, for this application only."""
        labels = {f"juju_{key}": value for key, value in self._topology().items()}
        labels["juju_charm"] = self._charm.meta.name
        matchers = ",".join(f'{name}="{value}"' for name, value in labels.items())
        groups = []
        for path in sorted((HERE / "prometheus_alert_rules").glob("*.yaml")):
            for group in yaml.safe_load(path.read_text())["groups"]:
                group["name"] = f"{labels['juju_model']}_{labels['juju_application']}_{group['name']}"
                for rule in group["rules"]:
                    rule["expr"] = with_matchers(rule["expr"], matchers)
                    rule["labels"] = {**rule.get("labels", {}), **labels}
                groups.append(group)
        return groups

    def _dashboards(self) -> str:
        templates = {}
        for path in sorted((HERE / "grafana_dashboards").glob("*.json")):
            content = path.read_bytes()
            templates[f"file:{path.stem}"] = {
                "charm": self._charm.meta.name,
                "content": base64.b64encode(lzma.compress(content)).decode(),
                "juju_topology": {**self._topology(), "unit": self._charm.unit.name},
            }
        # By content: a random one would be a change at every event.
        mark = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(templates, sort_keys=True))
        return json.dumps({"templates": templates, "uuid": str(mark)})


def with_matchers(expression: str, matchers: str) -> str:
    """Adds label matchers to every selector of our metrics in a PromQL expression."""

    def added(match: re.Match) -> str:
        inside = (match[2] or "{}")[1:-1].strip().rstrip(",")
        return f"{match[1]}{{{matchers}{',' if inside else ''}{inside}}}"

    return SELECTOR.sub(added, expression)
