"""The charm's handler, played by ops' own simulation of Juju.

Run with `make test`, or by hand: `python -m unittest discover -s tests` in this folder, with ops and ops-scenario.
The classes after the first are the defects of the how-to that charms copy ("How to manage metrics" of ops, as of ops
3.9), each of which this charm must not have.
"""

import base64
import dataclasses
import datetime
import json
import lzma
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

import ops
import yaml
from ops import testing

HERE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "src"))

import charm  # noqa: E402
import observability  # noqa: E402

NOTICES = "canonical.com/metrics-proxy/"
PUT = {"username": "prometheus", "password": "first"}
SELECTOR = {"pod-label-selector": "app=web"}


def meta(*containers: str) -> dict:
    text = yaml.safe_load((HERE / "charmcraft.yaml").read_text())
    for name in containers:
        text["containers"][name] = {}
    return text


def context(*containers: str) -> testing.Context:
    text = meta(*containers)
    config = text.pop("config")
    return testing.Context(charm.MetricsProxyCharm, meta=text, config=config)


# Kept until the tests end.
FOLDERS = []


def container(**more) -> testing.Container:
    """The container, with a folder that outlives one event: the simulation empties everything else at each."""
    FOLDERS.append(tempfile.TemporaryDirectory())
    more.setdefault("mounts", {"tmp": testing.Mount(location="/tmp/metrics-proxy", source=FOLDERS[-1].name)})
    return testing.Container("metrics-proxy", can_connect=more.pop("can_connect", True), **more)


def secret(content: dict = PUT) -> testing.Secret:
    return testing.Secret(content, owner=None)


def state(secret: testing.Secret | None = None, config: dict = SELECTOR, **more) -> testing.State:
    config = dict(config)
    if secret is not None and "metrics-secret-id" not in config:
        config["metrics-secret-id"] = secret.id
    more.setdefault("containers", {container()})
    return testing.State(config=config, secrets={secret} if secret else set(), **more)


def pushed(ctx: testing.Context, out: testing.State) -> dict:
    """The files that the program would read."""
    root = out.get_container("metrics-proxy").get_filesystem(ctx)
    folder = root / charm.SECRET_DIR.lstrip("/")
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else {}


def service(out: testing.State) -> ops.pebble.Service:
    return out.get_container("metrics-proxy").plan.services["metrics-proxy"]


class Reconcile(unittest.TestCase):
    def test_configuration_becomes_the_service_and_its_files(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        self.assertEqual(out.unit_status, testing.ActiveStatus())
        self.assertEqual(pushed(ctx, out), PUT)
        self.assertEqual(
            service(out).to_dict(),
            {
                "override": "replace",
                "summary": "metrics-proxy",
                "command": "metrics-proxy",
                "startup": "enabled",
                "environment": {
                    "POD_LABEL_SELECTOR": "app=web",
                    "SCRAPE_TIMEOUT": "9s",
                    "PORT": "15090",
                    "METRICS_PROXY_SHARD": "auto",
                    "METRICS_SECRET_PATH": charm.SECRET_DIR,
                },
            },
        )
        self.assertEqual(
            out.get_container("metrics-proxy").service_statuses["metrics-proxy"], ops.pebble.ServiceStatus.ACTIVE
        )

    def test_no_selector_is_said_and_never_means_all_pods(self):
        ctx = context()
        out = ctx.run(ctx.on.config_changed(), state(config={}))
        self.assertEqual(out.unit_status, testing.BlockedStatus("set pod-label-selector"))
        self.assertEqual(service(out).environment["POD_LABEL_SELECTOR"], "")

    def test_every_event_leads_to_the_same_end(self):
        for event in (
            lambda on, c, s: on.config_changed(),
            lambda on, c, s: on.pebble_ready(c),
            lambda on, c, s: on.upgrade_charm(),
            lambda on, c, s: on.update_status(),
            lambda on, c, s: on.leader_elected(),
            lambda on, c, s: on.secret_changed(s),
        ):
            ctx, s = context(), secret()
            st = state(s, leader=True)
            out = ctx.run(event(ctx.on, st.get_container("metrics-proxy"), s), st)
            self.assertEqual(pushed(ctx, out), PUT)
            self.assertEqual(service(out).environment["POD_LABEL_SELECTOR"], "app=web")
            self.assertEqual(out.unit_status, testing.ActiveStatus())

    def test_a_program_that_does_not_start_blocks_and_raises_nothing(self):
        ctx = context()
        change = unittest.mock.Mock(tasks=[])
        error = ops.pebble.ChangeError("exited quickly with code 2", change)
        with unittest.mock.patch.object(ops.Container, "replan", side_effect=error):
            out = ctx.run(ctx.on.config_changed(), state(config={"pod-label-selector": "app in ("}))
        self.assertIsInstance(out.unit_status, testing.BlockedStatus)
        self.assertIn("check selector and timeout", out.unit_status.message)

    def test_a_check_that_fails_shows_its_reason(self):
        ctx = context()
        layer = ops.pebble.Layer(
            {"checks": {name: {"override": "replace", "http": {"url": "http://x"}} for name in charm.CHECKS}}
        )
        down = testing.CheckInfo(
            "metrics-proxy-ready", status=ops.pebble.CheckStatus.DOWN, failures=3, threshold=3
        )
        infos = {down, *(testing.CheckInfo(name) for name in charm.CHECKS[:2])}
        box = container(layers={"metrics-proxy-self": layer}, check_infos=infos)
        with unittest.mock.patch.object(charm, "why", return_value="permissions: cannot list pods"):
            out = ctx.run(ctx.on.pebble_check_failed(box, down), state(containers={box}))
        self.assertEqual(out.unit_status, testing.BlockedStatus("permissions: cannot list pods"))
        with unittest.mock.patch.object(charm, "why", return_value=None):
            out = ctx.run(ctx.on.pebble_check_failed(box, down), state(containers={box}))
        self.assertIn("pebble check metrics-proxy-ready", out.unit_status.message)
        well = container(
            layers={"metrics-proxy-self": layer}, check_infos={testing.CheckInfo(name) for name in charm.CHECKS}
        )
        recovered = testing.CheckInfo("metrics-proxy-ready")
        out = ctx.run(ctx.on.pebble_check_recovered(well, recovered), state(containers={well}))
        self.assertEqual(out.unit_status, testing.ActiveStatus())

    def test_missing_rights_are_logged_with_the_remedy(self):
        ctx = context()
        notice = testing.Notice(
            f"{NOTICES}rights-missing", last_data={"what": "kubernetes", "message": "deploy with --trust"}
        )
        box = container(notices=[notice])
        ctx.run(ctx.on.pebble_custom_notice(box, notice), state(containers={box}))
        self.assertIn("deploy with --trust", [line.message for line in ctx.juju_log if line.level == "WARNING"])


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
        rules = json.loads(got.local_app_data["alert_rules"])["groups"][0]["rules"]
        self.assertTrue(rules)
        for rule in rules:
            self.assertIn('juju_application="metrics-proxy-example"', rule["expr"])
            self.assertEqual(rule["labels"]["juju_application"], "metrics-proxy-example")

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

    def test_matchers_reach_every_selector(self):
        add = observability.with_matchers
        self.assertEqual(add("metrics_proxy_x > 0", 'a="b"'), 'metrics_proxy_x{a="b"} > 0')
        self.assertEqual(
            add('sum by (reason) (rate(metrics_proxy_x_total{code=~"5.."}[5m]))', 'a="b"'),
            'sum by (reason) (rate(metrics_proxy_x_total{a="b",code=~"5.."}[5m]))',
        )
        self.assertEqual(add('up{k8s_pod_name!=""} == 0', 'a="b"'), 'up{a="b",k8s_pod_name!=""} == 0')


class D01RevisionIsRefreshed(unittest.TestCase):
    """A new password was read, and the tracked old one written back at the next hook."""

    def test_the_new_password_stays(self):
        ctx = context()
        s = testing.Secret(tracked_content=PUT, latest_content={**PUT, "password": "second"})
        out = ctx.run(ctx.on.secret_changed(s), state(s))
        self.assertEqual(pushed(ctx, out)["password"], "second")
        out = ctx.run(ctx.on.config_changed(), out)
        self.assertEqual(pushed(ctx, out)["password"], "second")


class D02OldUsernameGoes(unittest.TestCase):
    """The identity of the old username stayed. Here the files are all there is, and the program revokes."""

    def test_one_username_at_a_time(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        renamed = testing.Secret(tracked_content=PUT, latest_content={"username": "other", "password": "p"}, id=s.id)
        out = ctx.run(ctx.on.secret_changed(renamed), dataclasses.replace(out, secrets={renamed}))
        self.assertEqual(pushed(ctx, out), {"username": "other", "password": "p"})


class D03PodChurn(unittest.TestCase):
    """Nothing ran at pebble-ready, so a new pod had no identity."""

    def test_pebble_ready_brings_everything_back(self):
        ctx, s = context(), secret()
        fresh = container()
        out = ctx.run(ctx.on.pebble_ready(fresh), state(s, containers={fresh}))
        self.assertEqual(pushed(ctx, out), PUT)
        self.assertIn("metrics-proxy", out.get_container("metrics-proxy").plan.services)


class D04NothingRaises(unittest.TestCase):
    """No guard for Pebble being away, the secret missing, not granted, or without its keys."""

    def test_pebble_not_there(self):
        ctx, s = context(), secret()
        box = container(can_connect=False)
        out = ctx.run(ctx.on.config_changed(), state(s, containers={box}))
        self.assertEqual(out.unit_status, testing.WaitingStatus("waiting for Pebble"))

    def test_pebble_goes_in_the_middle(self):
        for error, kind in (
            (ops.pebble.ConnectionError("gone"), testing.WaitingStatus),
            (ops.pebble.APIError({}, 500, "no", "no"), testing.BlockedStatus),
            (ops.pebble.PathError("generic-file-error", "read-only"), testing.BlockedStatus),
        ):
            ctx, s = context(), secret()
            with unittest.mock.patch.object(ops.Container, "push", side_effect=error):
                out = ctx.run(ctx.on.config_changed(), state(s))
            self.assertIsInstance(out.unit_status, kind)

    def test_no_such_secret(self):
        ctx = context()
        config = {**SELECTOR, "metrics-secret-id": "secret:9m4e2mr0ui3e8a215n4g"}
        out = ctx.run(ctx.on.config_changed(), state(config=config))
        self.assertIsInstance(out.unit_status, testing.BlockedStatus)
        self.assertIn("metrics-secret-id", out.unit_status.message)
        # Metrics are served all the same.
        self.assertEqual(service(out).environment["POD_LABEL_SELECTOR"], "app=web")

    def test_not_granted_and_then_granted_without_an_event(self):
        ctx, s = context(), secret()
        with unittest.mock.patch.object(ops.Secret, "get_content", side_effect=ops.ModelError("permission denied")):
            out = ctx.run(ctx.on.config_changed(), state(s))
        self.assertEqual(
            out.unit_status,
            testing.BlockedStatus("metrics-secret-id: juju grant-secret it to metrics-proxy-example"),
        )
        out = ctx.run(ctx.on.update_status(), out)
        self.assertEqual((out.unit_status, pushed(ctx, out)), (testing.ActiveStatus(), PUT))

    def test_keys_missing_or_empty(self):
        for content, lacks in (({"username": "a"}, "password"), ({"username": "a", "password": ""}, "password")):
            ctx = context()
            out = ctx.run(ctx.on.config_changed(), state(secret(content)))
            self.assertEqual(
                out.unit_status, testing.BlockedStatus(f"metrics-secret-id: the secret lacks {lacks}")
            )
            self.assertEqual(pushed(ctx, out), {})

    def test_a_broken_secret_leaves_the_old_credential(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        broken = testing.Secret(tracked_content=PUT, latest_content={"username": "x"}, id=s.id)
        out = ctx.run(ctx.on.secret_changed(broken), dataclasses.replace(out, secrets={broken}))
        self.assertIsInstance(out.unit_status, testing.BlockedStatus)
        self.assertEqual(pushed(ctx, out), PUT)


class D05NothingChangesTheSecondTime(unittest.TestCase):
    """A new salt at each hook rewrote the identity each time."""

    def test_the_second_run_pushes_nothing_and_plans_the_same(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        plan = out.get_container("metrics-proxy").plan.to_dict()
        with unittest.mock.patch.object(ops.Container, "push", side_effect=AssertionError("pushed again")):
            again = ctx.run(ctx.on.update_status(), out)
        self.assertEqual(again.get_container("metrics-proxy").plan.to_dict(), plan)


class D06D07NoHashing(unittest.TestCase):
    """passlib hashed with 656,000 rounds, which Pebble pays at every scrape under its lock."""

    def test_the_charm_neither_hashes_nor_touches_identities(self):
        code = "".join(path.read_text() for path in (HERE / "src").glob("*.py"))
        for word in ("passlib", "import crypt", "hashlib", "sha512", "Identity(", "identities("):
            self.assertNotIn(word, code)

    def test_it_depends_on_ops_and_what_ops_needs(self):
        names = {line.split("==")[0] for line in (HERE / "requirements.txt").read_text().splitlines() if "==" in line}
        self.assertLessEqual(
            names,
            {"ops", "opentelemetry-api", "pyyaml", "websocket-client", "typing-extensions", "importlib-metadata", "zipp"},
        )


class D08SpellingsOfTheId(unittest.TestCase):
    """The event's id was compared with the option as text."""

    def test_the_option_is_a_secret(self):
        self.assertEqual(meta()["config"]["options"]["metrics-secret-id"]["type"], "secret")

    def test_the_events_secret_is_not_looked_at(self):
        ours = testing.Secret(tracked_content=PUT, latest_content={**PUT, "password": "second"})
        other = testing.Secret({"username": "x", "password": "y"})
        for changed in (ours, other):
            ctx = context()
            st = dataclasses.replace(state(ours), secrets={ours, other})
            out = ctx.run(ctx.on.secret_changed(changed), st)
            self.assertEqual(pushed(ctx, out)["password"], "second")
        self.assertNotIn("event.secret", (HERE / "src" / "charm.py").read_text())


class D09OddUsernames(unittest.TestCase):
    """A username that Pebble does not take ended in an APIError and a failed hook."""

    def refused(self, rotated_after: bool, check: ops.pebble.CheckStatus) -> testing.State:
        ctx, s = context(), secret({"username": "1st@example", "password": "p"})
        now = datetime.datetime.now(datetime.timezone.utc)
        notices = [
            testing.Notice(
                f"{NOTICES}secret-refused",
                last_occurred=now,
                last_data={"reason": "username", "message": "username must begin with a letter"},
            ),
            testing.Notice(
                f"{NOTICES}identity-rotated",
                last_occurred=now + datetime.timedelta(minutes=1 if rotated_after else -1),
            ),
        ]
        layer = ops.pebble.Layer({"checks": {charm.CHECKS[1]: {"override": "replace", "http": {"url": "http://x"}}}})
        failures = 3 if check == ops.pebble.CheckStatus.DOWN else 0
        info = testing.CheckInfo(charm.CHECKS[1], status=check, failures=failures, threshold=3)
        box = container(notices=notices, layers={"self": layer}, check_infos={info})
        return ctx.run(ctx.on.pebble_custom_notice(box, notices[0]), state(s, containers={box}))

    def test_the_programs_refusal_becomes_the_status(self):
        out = self.refused(rotated_after=False, check=ops.pebble.CheckStatus.DOWN)
        self.assertEqual(
            out.unit_status, testing.BlockedStatus("metrics-secret-id: username must begin with a letter")
        )

    def test_a_mended_secret_clears_it(self):
        for later, check in ((True, ops.pebble.CheckStatus.UP), (False, ops.pebble.CheckStatus.UP)):
            self.assertEqual(self.refused(later, check).unit_status, testing.ActiveStatus())


class D10PortByTheAlphabet(unittest.TestCase):
    """38813 was taken for granted; Juju counts containers by name."""

    def test_the_port_follows_the_containers_names(self):
        for others, port in (((), 38813), (("zoo",), 38813), (("app",), 38814), (("app", "db", "zoo"), 38815)):
            ctx = context(*others)
            boxes = {container(), *(testing.Container(name) for name in others)}
            out = ctx.run(ctx.on.config_changed(), state(containers=boxes))
            self.assertEqual(out.opened_ports, frozenset({testing.TCPPort(port)}))


class D11OnePathIsPublished(unittest.TestCase):
    """The Ingress published Pebble's whole open API, in clear."""

    def test_the_shipped_ingress_is_one_exact_path_behind_tls(self):
        path = HERE.parent.parent / "deploy" / "ingress-pebble-metrics.yaml"
        ingress = yaml.safe_load(path.read_text())
        paths = [entry for rule in ingress["spec"]["rules"] for entry in rule["http"]["paths"]]
        self.assertEqual([entry["pathType"] for entry in paths], ["Exact"])
        self.assertTrue(paths[0]["path"].endswith("/v1/metrics"))
        self.assertTrue(ingress["spec"]["tls"])
        self.assertEqual(
            ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/rewrite-target"], "/v1/metrics"
        )


class D12ClearedOptionRevokes(unittest.TestCase):
    """Clearing the option left the credential alive."""

    def test_the_files_and_the_setting_go(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        self.assertEqual(pushed(ctx, out), PUT)
        out = ctx.run(ctx.on.config_changed(), dataclasses.replace(out, config=SELECTOR))
        self.assertEqual(pushed(ctx, out), {})
        self.assertNotIn("METRICS_SECRET_PATH", service(out).environment)
        self.assertEqual(out.unit_status, testing.ActiveStatus())


if __name__ == "__main__":
    unittest.main()
