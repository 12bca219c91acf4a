"""Skips the integration tests, each by its name, where there is no Juju, no packed charm or no rock."""

import os
import pathlib
import shutil

import pytest

HERE = pathlib.Path(__file__).resolve().parent.parent.parent


def missing() -> str | None:
    """Why the tests cannot run here, with the command that helps."""
    if not shutil.which("juju"):
        return "no juju on PATH; get it with: sudo snap install concierge --classic && sudo concierge prepare -p k8s"
    if not charm_path():
        return "no packed charm; make it with: charmcraft pack (or set CHARM_PATH)"
    if not os.environ.get("ROCK_IMAGE"):
        return "set ROCK_IMAGE to the address of the rock in a registry that the cluster can reach"
    return None


def charm_path() -> pathlib.Path | None:
    named = os.environ.get("CHARM_PATH")
    if named:
        return pathlib.Path(named).resolve()
    return next(iter(sorted(HERE.glob("*.charm"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]):
    reason = missing()
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def charm() -> pathlib.Path:
    """The packed charm."""
    path = charm_path()
    assert path is not None
    return path


@pytest.fixture(scope="session")
def image() -> str:
    """The address of the rock."""
    return os.environ["ROCK_IMAGE"]
