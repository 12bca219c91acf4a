"""Helpers of the unit tests: the charm's context, its container, and what the program would read."""

import pathlib
import tempfile

import ops
import yaml
from ops import testing

import charm

HERE = pathlib.Path(__file__).resolve().parent.parent.parent
NOTICES = "canonical.com/metrics-proxy/"
PUT = {"username": "prometheus", "password": "first"}
SELECTOR = {"pod-label-selector": "app=web"}


def meta(*containers: str) -> dict:
    """The charm's metadata, with further containers beside its own."""
    text = yaml.safe_load((HERE / "charmcraft.yaml").read_text())
    for name in containers:
        text["containers"][name] = {}
    return text


def context(*containers: str) -> testing.Context:
    text = meta(*containers)
    config, actions = text.pop("config"), text.pop("actions")
    return testing.Context(charm.MetricsProxyCharm, meta=text, config=config, actions=actions)


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
