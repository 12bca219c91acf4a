"""The relations: what the charm writes, with and without the libraries of lib/."""

import base64
import importlib
import json
import lzma
import pathlib
import sys
import types
import unittest
import unittest.mock

from helpers import HERE, SELECTOR, container, context, meta, service, state
from ops import testing

import cos


class Relations(unittest.TestCase):
    def test_each_unit_is_a_target_and_the_leader_describes_the_job(self):
        ctx = context()
        relation = testing.Relation("metrics-endpoint")
        out = ctx.run(ctx.on.relation_joined(relation, remote_unit=0), state(leader=True, relations={relation}))
        got = out.get_relation(relation.id)
        self.assertEqual(got.local_unit_data["prometheus_scrape_unit_name"], "metrics-proxy-example/0")
        self.assertTrue(got.local_unit_data["prometheus_scrape_unit_address"])
        jobs = json.loads(got.local_app_data["scrape_jobs"])
        self.assertEqual(jobs, [{"metrics_path": "/metrics", "static_configs": [{"targets": ["*:15090"]}]}])
        self.assertEqual(json.loads(got.local_app_data["scrape_metadata"])["charm_name"], "metrics-proxy-example")
        rules = [rule for group in json.loads(got.local_app_data["alert_rules"])["groups"] for rule in group["rules"]]
        names = {rule["alert"] for rule in rules}
        # Our own, and the generic ones of COS.
        self.assertLessEqual({"MetricsProxyAbsent", "HostDown", "HostMetricsMissing"}, names)
        for rule in rules:
            self.assertEqual(rule["labels"]["juju_application"], "metrics-proxy-example")

    def test_interval_timeout_and_labels_reach_the_job(self):
        ctx = context()
        relation = testing.Relation("metrics-endpoint")
        options = {"scrape-interval": "2m", "scrape-timeout": "30s", "external-labels": '{"site": "lisbon"}'}
        out = ctx.run(ctx.on.config_changed(), state(leader=True, config={**SELECTOR, **options}, relations={relation}))
        jobs = json.loads(out.get_relation(relation.id).local_app_data["scrape_jobs"])
        self.assertEqual(
            jobs,
            [
                {
                    "metrics_path": "/metrics",
                    "static_configs": [{"targets": ["*:15090"], "labels": {"site": "lisbon"}}],
                    "scrape_interval": "2m",
                    "scrape_timeout": "30s",
                }
            ],
        )
        self.assertEqual(service(out).environment["SCRAPE_TIMEOUT"], "30s")

    def test_a_mistake_in_the_configuration_leaves_the_relation_as_it_is(self):
        ctx = context()
        data = {"scrape_jobs": "as before"}
        relation = testing.Relation("metrics-endpoint", local_app_data=data)
        options = {**SELECTOR, "scrape-interval": "soon"}
        out = ctx.run(ctx.on.config_changed(), state(leader=True, config=options, relations={relation}))
        self.assertEqual(out.get_relation(relation.id).local_app_data, data)
        self.assertIn("scrape-interval", out.unit_status.message)

    def test_a_follower_writes_its_address_only(self):
        ctx = context()
        relation, dashboards = testing.Relation("metrics-endpoint"), testing.Relation("grafana-dashboard")
        out = ctx.run(ctx.on.config_changed(), state(leader=False, relations={relation, dashboards}))
        self.assertEqual(out.get_relation(relation.id).local_app_data, {})
        self.assertEqual(out.get_relation(dashboards.id).local_app_data, {})
        self.assertTrue(out.get_relation(relation.id).local_unit_data["prometheus_scrape_unit_address"])

    def test_the_dashboard_arrives_whole_and_changes_nothing_the_second_time(self):
        ctx = context()
        relation = testing.Relation("grafana-dashboard")
        out = ctx.run(ctx.on.relation_changed(relation, remote_unit=0), state(leader=True, relations={relation}))
        data = out.get_relation(relation.id).local_app_data["dashboards"]
        template = json.loads(data)["templates"]["file:metrics-proxy"]
        content = lzma.decompress(base64.b64decode(template["content"]))
        self.assertEqual(content, (HERE / "src/grafana_dashboards/metrics-proxy.json").read_bytes())
        again = ctx.run(ctx.on.update_status(), out)
        self.assertEqual(again.get_relation(relation.id).local_app_data["dashboards"], data)

    def test_logs_go_to_loki_until_the_relation_ends(self):
        ctx = context()
        url = "http://loki:3100/loki/api/v1/push"
        relation = testing.Relation(
            "logging", remote_app_name="loki", remote_units_data={0: {"endpoint": json.dumps({"url": url})}}
        )
        out = ctx.run(ctx.on.relation_changed(relation, remote_unit=0), state(relations={relation}))
        target = out.get_container("metrics-proxy").plan.log_targets["loki/0"]
        self.assertEqual((target.location, target.services, target.type), (url, ["all"], "loki"))
        self.assertEqual(target.labels["juju_application"], "metrics-proxy-example")
        self.assertEqual(target.labels["juju_unit"], "metrics-proxy-example/0")
        out = ctx.run(ctx.on.relation_broken(out.get_relation(relation.id)), out)
        self.assertEqual(out.get_container("metrics-proxy").plan.log_targets["loki/0"].services, ["-all"])

    def test_authorities_become_a_file_whose_name_follows_the_content(self):
        ctx, box = context(), container()
        paths = []
        for certificate in ("first", "second"):
            data = {"certificates": json.dumps([certificate]), "version": "1"}
            relation = testing.Relation("receive-ca-cert", remote_app_data=data)
            out = ctx.run(
                ctx.on.relation_changed(relation, remote_unit=0), state(containers={box}, relations={relation})
            )
            paths.append(service(out).environment["METRICS_PROXY_TARGET_CA"])
            root = out.get_container("metrics-proxy").get_filesystem(ctx)
            self.assertEqual((root / paths[-1].lstrip("/")).read_text(), f"{certificate}\n")
        self.assertNotEqual(*paths)
        out = ctx.run(ctx.on.config_changed(), state(containers={box}))
        self.assertNotIn("METRICS_PROXY_TARGET_CA", service(out).environment)

    def test_an_ingress_gets_the_metrics_port(self):
        ctx = context()
        relation = testing.Relation("ingress")
        out = ctx.run(ctx.on.relation_joined(relation, remote_unit=0), state(leader=True, relations={relation}))
        got = out.get_relation(relation.id)
        app = {key: json.loads(value) for key, value in got.local_app_data.items()}
        self.assertEqual((app["name"], app["port"], app["strip-prefix"]), ("metrics-proxy-example", 15090, True))
        self.assertTrue(json.loads(got.local_unit_data["host"]))

    def test_traces_of_the_charm_are_requested(self):
        ctx = context()
        relation = testing.Relation("charm-tracing")
        out = ctx.run(ctx.on.relation_joined(relation, remote_unit=0), state(leader=True, relations={relation}))
        self.assertIn("otlp_http", out.get_relation(relation.id).local_app_data["receivers"])


class WithLibraries(unittest.TestCase):
    """What the charm hands to the libraries of lib/. They are not in the repository, so these record their arguments."""

    def test_each_library_that_is_there_takes_over_its_relation(self):
        modules, calls = libraries()
        with unittest.mock.patch.dict(sys.modules, modules):
            importlib.reload(cos)
            try:
                ctx = context()
                relations = {testing.Relation(name) for name in ("metrics-endpoint", "grafana-dashboard", "ingress")}
                out = ctx.run(ctx.on.config_changed(), state(leader=True, relations=relations))
            finally:
                with unittest.mock.patch.dict(sys.modules, dict.fromkeys(modules)):
                    importlib.reload(cos)
        self.assertEqual(set(calls), {name for _, name in LIBRARIES})
        self.assertEqual(calls["MetricsEndpointProvider"][0], ("metrics-endpoint",))
        jobs = calls["MetricsEndpointProvider"][1]["jobs"]
        self.assertEqual(jobs[0]["static_configs"], [{"targets": ["*:15090"]}])
        self.assertTrue(pathlib.Path(calls["MetricsEndpointProvider"][1]["alert_rules_path"]).is_dir())
        self.assertEqual(calls["IngressPerAppRequirer"][1]["port"], 15090)
        for relation in relations:
            self.assertEqual(out.get_relation(relation.id).local_app_data, {}, relation.endpoint)

    def test_charmcraft_fetches_each_library_that_the_charm_imports(self):
        declared = {(entry["lib"], entry["version"]) for entry in meta()["charm-libs"]}
        imported = set()
        for module, _ in LIBRARIES:
            _, charm, version, name = module.split(".")
            imported.add((f"{charm}.{name}", version.removeprefix("v")))
        self.assertEqual(declared, imported)


LIBRARIES = (
    ("charms.prometheus_k8s.v0.prometheus_scrape", "MetricsEndpointProvider"),
    ("charms.grafana_k8s.v0.grafana_dashboard", "GrafanaDashboardProvider"),
    ("charms.loki_k8s.v1.loki_push_api", "LogForwarder"),
    ("charms.traefik_k8s.v2.ingress", "IngressPerAppRequirer"),
)


def libraries() -> tuple[dict[str, types.ModuleType], dict[str, tuple]]:
    """Modules with the names of the libraries, and the arguments that each class was made with."""
    modules, calls = {}, {}
    for path, name in LIBRARIES:
        parts = path.split(".")
        for n in range(1, len(parts) + 1):
            modules.setdefault(".".join(parts[:n]), types.ModuleType(".".join(parts[:n])))

        def made(charm, *args, _name=name, **kwargs):
            calls[_name] = (args, kwargs)

        setattr(modules[path], name, made)
    return modules, calls
