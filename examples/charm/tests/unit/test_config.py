"""The typed configuration: what is accepted, and the text of each problem."""

import pytest
from helpers import SELECTOR, context, meta, service, state

from config import Config, milliseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9s", 9_000), ("1m30s", 90_000), ("500ms", 500), ("2h", 7_200_000), ("", 0), ("9", 0), ("1.5s", 0), ("30s1m", 0)],
)
def test_durations_are_those_that_prometheus_and_the_program_read(text, expected):
    assert milliseconds(text) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"namespaces": "shop, Web"}, "namespaces: 'Web' is not the name of a namespace"),
        ({"discover": "pods,nodes"}, "discover: 'nodes' is not one of pods, services, podmonitors, servicemonitors"),
        ({"default_port": "65536"}, "default-port: '65536' is not a port and not `declared`"),
        ({"scrape_interval": "soon"}, "scrape-interval: 'soon' is not a duration such as 30s, 1m30s or 500ms"),
        ({"scrape_timeout": "9"}, "scrape-timeout: '9' is not a duration such as 30s, 1m30s or 500ms"),
        ({"scrape_timeout": "2m"}, "scrape-timeout: 2m is longer than the interval, 1m"),
        (
            {"scrape_timeout": "31s", "scrape_interval": "30s"},
            "scrape-timeout: 31s is longer than the interval, 30s",
        ),
        ({"external_labels": "site=lisbon"}, 'external-labels: not a JSON object such as {"site": "lisbon"}'),
        ({"external_labels": "[]"}, 'external-labels: not a JSON object such as {"site": "lisbon"}'),
        ({"external_labels": '{"my-site": "x"}'}, "external-labels: 'my-site' is not a label name"),
        ({"external_labels": '{"__a": "x"}'}, "external-labels: '__a' is not a label name"),
        ({"external_labels": '{"juju_unit": "x"}'}, "external-labels: 'juju_unit' belongs to Juju's topology"),
        ({"external_labels": '{"rack": 7}'}, "external-labels: the value of 'rack' is not a string"),
    ],
)
def test_each_problem_names_its_option(options, problem):
    with pytest.raises(ValueError) as raised:
        Config(**options)
    assert str(raised.value) == problem


def test_all_problems_are_reported_together():
    with pytest.raises(ValueError) as raised:
        Config(discover="x", external_labels="y")
    assert str(raised.value).count(";") == 1


def test_every_option_has_a_field_and_the_same_default():
    options = meta()["config"]["options"]
    fields = Config()
    for name, option in options.items():
        default = getattr(fields, name.replace("-", "_"))
        assert default == option.get("default", "" if option["type"] == "string" else None), name
    assert len(options) == len(Config.__dataclass_fields__)


def test_lists_reach_the_service():
    ctx = context()
    options = {"namespaces": " shop , web ", "discover": "pods, services", "default-port": "declared"}
    out = ctx.run(ctx.on.config_changed(), state(config={**SELECTOR, **options}))
    environment = service(out).environment
    assert environment["METRICS_PROXY_NAMESPACE"] == "shop,web"
    assert environment["METRICS_PROXY_DISCOVER"] == "pods,services"
    assert environment["METRICS_PROXY_DEFAULT_PORT"] == "declared"


def test_a_mistake_blocks_and_changes_nothing():
    ctx = context()
    good = ctx.run(ctx.on.config_changed(), state())
    before = good.get_container("metrics-proxy").plan.to_dict()
    bad = ctx.run(ctx.on.config_changed(), state(config={**SELECTOR, "discover": "x"}, containers=good.containers))
    assert bad.get_container("metrics-proxy").plan.to_dict() == before
    assert bad.unit_status.name == "blocked"
    assert "discover: 'x'" in bad.unit_status.message
