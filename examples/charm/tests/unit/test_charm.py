"""The charm's handlers, played by ops' own simulation of Juju.

Run them with `tox -e unit` in the charm's folder; the folder may be copied out of the repository first. The classes whose
names begin with D are the defects of the how-to "Manage Pebble metrics" of ops (as of ops 3.9) that this charm must not have.
"""

import dataclasses
import datetime
import unittest
import unittest.mock

import ops
from helpers import HERE, NOTICES, PUT, SELECTOR, container, context, meta, pushed, secret, service, state
from ops import testing

import charm


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
                    "PORT": "15090",
                    "METRICS_PROXY_SHARD": "auto",
                    "METRICS_PROXY_DISCOVER": "pods",
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
        down = testing.CheckInfo("metrics-proxy-ready", status=ops.pebble.CheckStatus.DOWN, failures=3, threshold=3)
        infos = {down, *(testing.CheckInfo(name) for name in charm.CHECKS[:2])}
        box = container(layers={"metrics-proxy-self": layer}, check_infos=infos)
        with unittest.mock.patch.object(charm, "read_cause", return_value="permissions: cannot list pods"):
            out = ctx.run(ctx.on.pebble_check_failed(box, down), state(containers={box}))
        self.assertEqual(out.unit_status, testing.BlockedStatus("permissions: cannot list pods"))
        with unittest.mock.patch.object(charm, "read_cause", return_value=None):
            out = ctx.run(ctx.on.pebble_check_failed(box, down), state(containers={box}))
        self.assertIn("pebble check metrics-proxy-ready", out.unit_status.message)
        well = container(
            layers={"metrics-proxy-self": layer}, check_infos={testing.CheckInfo(name) for name in charm.CHECKS}
        )
        recovered = testing.CheckInfo("metrics-proxy-ready")
        out = ctx.run(ctx.on.pebble_check_recovered(well, recovered), state(containers={well}))
        self.assertEqual(out.unit_status, testing.ActiveStatus())

    def test_the_application_has_a_status_of_its_own(self):
        ctx = context()
        out = ctx.run(ctx.on.config_changed(), state(leader=True))
        self.assertEqual(out.app_status, testing.ActiveStatus())
        out = ctx.run(ctx.on.config_changed(), state(leader=True, config={}))
        self.assertEqual(out.app_status, testing.BlockedStatus("set pod-label-selector"))
        # A unit without its Pebble does not stop the application.
        out = ctx.run(ctx.on.config_changed(), state(leader=True, containers={container(can_connect=False)}))
        self.assertEqual((out.app_status, out.unit_status.name), (testing.ActiveStatus(), "waiting"))

    def test_the_version_of_the_program_is_the_workload_version(self):
        ctx, box = (
            context(),
            container(execs={testing.Exec(["metrics-proxy", "--version"], stdout="metrics-proxy 1.2.3\n")}),
        )
        out = ctx.run(ctx.on.pebble_ready(box), state(containers={box}))
        self.assertEqual(out.workload_version, "1.2.3")
        box = container(execs={testing.Exec(["metrics-proxy", "--version"], return_code=1)})
        out = ctx.run(ctx.on.pebble_ready(box), state(containers={box}))
        self.assertEqual((out.workload_version, out.unit_status), ("", testing.ActiveStatus()))

    def test_the_action_shows_the_targets(self):
        ctx = context()
        box = container(execs={testing.Exec(["metrics-proxy", "targets"], stdout="Targets (1 of 1 up)\n")})
        ctx.run(ctx.on.action("targets"), state(containers={box}))
        self.assertEqual(ctx.action_results, {"targets": "Targets (1 of 1 up)\n"})
        refused = testing.Exec(
            ["metrics-proxy", "targets", "--output", "json"], return_code=1, stderr="cannot connect\n"
        )
        box = container(execs={refused})
        with self.assertRaises(testing.ActionFailed) as failed:
            ctx.run(ctx.on.action("targets", params={"output": "json"}), state(containers={box}))
        self.assertEqual(failed.exception.message, "cannot connect")
        with self.assertRaises(testing.ActionFailed):
            ctx.run(ctx.on.action("targets"), state(containers={container(can_connect=False)}))

    def test_missing_permissions_are_logged_with_the_remedy(self):
        ctx = context()
        notice = testing.Notice(
            f"{NOTICES}permission-missing", last_data={"what": "kubernetes", "message": "deploy with --trust"}
        )
        box = container(notices=[notice])
        ctx.run(ctx.on.pebble_custom_notice(box, notice), state(containers={box}))
        self.assertIn("deploy with --trust", [line.message for line in ctx.juju_log if line.level == "WARNING"])


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
            self.assertEqual(out.unit_status, testing.BlockedStatus(f"metrics-secret-id: the secret lacks {lacks}"))
            self.assertEqual(pushed(ctx, out), {})

    def test_a_broken_secret_leaves_the_old_credential(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        broken = testing.Secret(tracked_content=PUT, latest_content={"username": "x"}, id=s.id)
        out = ctx.run(ctx.on.secret_changed(broken), dataclasses.replace(out, secrets={broken}))
        self.assertIsInstance(out.unit_status, testing.BlockedStatus)
        self.assertEqual(pushed(ctx, out), PUT)


class SecretTakenAway(unittest.TestCase):
    """`juju revoke-secret` and `juju remove-secret` left the credential in force for ever."""

    def test_a_removed_secret_takes_the_files_away_and_restarts_nothing(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        self.assertEqual(pushed(ctx, out), PUT)
        layer = service(out).to_dict()
        out = ctx.run(ctx.on.update_status(), dataclasses.replace(out, secrets=set()))
        self.assertEqual(pushed(ctx, out), {})
        self.assertIn("no such secret", out.unit_status.message)
        # METRICS_SECRET_PATH stays, so the service is the same: the program notices that the files are gone.
        self.assertEqual(service(out).to_dict(), layer)

    def test_a_revoked_secret_takes_the_files_away(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        with unittest.mock.patch.object(
            ops.Secret, "get_content", side_effect=ops.ModelError("ERROR permission denied")
        ):
            out = ctx.run(ctx.on.update_status(), out)
        self.assertEqual(pushed(ctx, out), {})
        self.assertIn("juju grant-secret", out.unit_status.message)

    def test_a_controller_that_cannot_answer_takes_nothing_away(self):
        ctx, s = context(), secret()
        out = ctx.run(ctx.on.config_changed(), state(s))
        with unittest.mock.patch.object(
            ops.Secret, "get_content", side_effect=ops.ModelError("connection is shut down")
        ):
            out = ctx.run(ctx.on.update_status(), out)
        self.assertEqual(pushed(ctx, out), PUT)
        self.assertIsInstance(out.unit_status, testing.BlockedStatus)


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

    def test_no_dependency_hashes(self):
        locked = (HERE / "uv.lock").read_text()
        for name in ("passlib", "bcrypt", "argon2-cffi", "crypt-r"):
            self.assertNotIn(f'name = "{name}"', locked)


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
        now = datetime.datetime.now(datetime.UTC)
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
        self.assertEqual(out.unit_status, testing.BlockedStatus("metrics-secret-id: username must begin with a letter"))

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

    def test_other_ports_stay_open_and_the_metrics_port_opens_by_choice(self):
        ctx, workload = context(), testing.TCPPort(8080)
        out = ctx.run(ctx.on.config_changed(), state(opened_ports={workload}))
        self.assertEqual(out.opened_ports, frozenset({workload, testing.TCPPort(38813)}))
        opened = dataclasses.replace(out, config={**SELECTOR, "open-metrics-port": True})
        out = ctx.run(ctx.on.config_changed(), opened)
        self.assertEqual(out.opened_ports, frozenset({workload, testing.TCPPort(38813), testing.TCPPort(15090)}))
        out = ctx.run(ctx.on.config_changed(), dataclasses.replace(out, config=SELECTOR))
        self.assertEqual(out.opened_ports, frozenset({workload, testing.TCPPort(38813)}))


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
