"""Runs the charm's handlers against a real Pebble that runs the real program. Only Juju is simulated.

    python against_pebble.py SOCKET SECRET_DIR PORT PEBBLE_PORT

The Pebble runs with --hold, has metrics-proxy on PATH and listens on HTTP. The script goes through the life of a
credential and prints "all steps passed", or the first step that failed. The integration tests of the repository call it.
"""

import base64
import dataclasses
import pathlib
import sys
import time
import urllib.error
import urllib.request

import ops
import scenario.mocking
import yaml
from ops import testing

HERE = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(HERE / "src"))

import charm  # noqa: E402

SOCKET, SECRET_DIR, PORT, PEBBLE_PORT = sys.argv[1:]
PEBBLE = ops.pebble.Client(SOCKET)
charm.SECRET_DIR = SECRET_DIR
charm.PORT = int(PORT)
# Pods come from a file here, so there is no StatefulSet to read the number of units from.
charm.SHARD = ""
# The one line of simulation that is replaced: which Pebble the charm talks to.
scenario.mocking._MockModelBackend.get_pebble = lambda self, socket_path: PEBBLE

META = yaml.safe_load((HERE / "charmcraft.yaml").read_text())
CONFIG = META.pop("config")
ACTIONS = META.pop("actions")


def status_of(port: str, path: str, credential: dict | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if credential:
        pair = f"{credential['username']}:{credential['password']}".encode()
        request.add_header("Authorization", "Basic " + base64.b64encode(pair).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError as e:
        return 0, str(e)


def until(what: str, condition, limit: float = 20.0):
    """Waits for a condition."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not within {limit} s: {what}")
        time.sleep(0.05)
    print("ok:", what)


def works(credential: dict) -> bool:
    return status_of(PEBBLE_PORT, "/v1/metrics", credential)[0] == 200


def successes() -> float:
    """How many scrapes of pods the program has counted since its start."""
    name = "metrics_proxy_target_scrape_successes_total "
    lines = status_of(PORT, "/metrics")[1].splitlines()
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def run(event, state: testing.State) -> testing.State:
    # A new context each time, as Juju starts a new process for each event.
    ctx = testing.Context(charm.MetricsProxyCharm, meta=META, config=CONFIG, actions=ACTIONS)
    return ctx.run(event(ctx, state), state)


def config_changed(ctx, state):
    return ctx.on.config_changed()


def secret_changed(ctx, state):
    return ctx.on.secret_changed(next(iter(state.secrets)))


def with_secret(state: testing.State, content: dict) -> testing.State:
    (old,) = state.secrets
    new = testing.Secret(tracked_content=old.tracked_content, latest_content=content, id=old.id)
    return dataclasses.replace(state, secrets={new})


first = {"username": "prometheus", "password": "the first password"}
second = {**first, "password": "another password"}
renamed = {"username": "scraper", "password": "a third password"}
secret = testing.Secret(first)
container = testing.Container("metrics-proxy", can_connect=True)
state = testing.State(
    containers={container},
    config={"pod-label-selector": "app=web", "metrics-secret-id": secret.id},
    secrets={secret},
)

state = run(lambda ctx, state: ctx.on.pebble_ready(container), state)
until("the program responds", lambda: status_of(PORT, "/healthz")[0] == 200)
until("the secret is in force", lambda: works(first))
until("the program is ready", lambda: status_of(PORT, "/readyz")[0] == 200)
state = run(lambda ctx, state: ctx.on.update_status(), state)
assert state.unit_status == testing.ActiveStatus(), state.unit_status
code, body = status_of(PORT, "/metrics")
sample = next((line for line in body.splitlines() if line.startswith("web_requests_total{")), "")
assert code == 200 and 'k8s_pod_name="web-0"' in sample and sample.endswith(" 7"), body
assert PEBBLE.get_services([charm.SERVICE])[0].is_running()
checks = {check.name for check in PEBBLE.get_checks()}
assert set(charm.CHECKS) <= checks, checks
print("ok: metrics are served, our checks are in the plan")

before = successes()
for _ in range(5):
    state = run(config_changed, state)
# The program counts from its own start: less than before would be another process.
assert successes() > before, "the hooks restarted the program"
assert not [c for c in PEBBLE.get_changes(ops.pebble.ChangeState.ALL) if c.kind == "restart"]
print("ok: five more hooks restarted nothing")

state = run(secret_changed, with_secret(state, second))
until("the new password is in force", lambda: works(second))
assert not works(first), "the old password still works"
state = run(config_changed, state)
assert works(second), "the next hook wrote the old password back"

state = run(secret_changed, with_secret(state, renamed))
until("the new username is in force", lambda: works(renamed))
until("the old username is removed", lambda: "prometheus" not in PEBBLE.get_identities())

odd = {"username": "1st@example", "password": "p"}
state = run(secret_changed, with_secret(state, odd))
until(
    "an odd username is refused in a notice",
    lambda: any(n.key.endswith("/secret-refused") for n in PEBBLE.get_notices(users=ops.pebble.NoticesUsers.ALL)),
)
assert works(renamed), "a refused secret must not cut off the old credential"

state = run(secret_changed, with_secret(state, renamed))
until("the corrected secret is in force", lambda: works(renamed))

malformed = {"username": "scraper"}
state = run(secret_changed, with_secret(state, malformed))
assert works(renamed), "a malformed secret must not cut off the old credential"
state = run(secret_changed, with_secret(state, renamed))

kept = state.secrets
state = run(lambda ctx, state: ctx.on.update_status(), dataclasses.replace(state, secrets=set()))
until("a removed secret ends the credential after the grace period", lambda: not works(renamed))
assert PEBBLE.get_services([charm.SERVICE])[0].is_running()
state = run(lambda ctx, state: ctx.on.update_status(), dataclasses.replace(state, secrets=kept))
until("the secret is granted again", lambda: works(renamed))

state = dataclasses.replace(state, config={"pod-label-selector": "app=web"})
state = run(config_changed, state)
until("clearing the option revokes", lambda: not works(renamed))
until("no identity is left over", lambda: not [n for n in PEBBLE.get_identities() if "scraper" in n])
assert status_of(PORT, "/metrics")[0] == 200, "the pods' metrics are there all the same"
print("all steps passed")
