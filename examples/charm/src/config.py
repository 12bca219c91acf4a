"""The charm's configuration, with types: `CharmBase.load_config` makes a `Config`, or raises ValueError with all problems."""

import dataclasses
import json
import re

import ops

# What both Prometheus and the program read: whole numbers, units from large to small.
DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
MILLISECONDS = (3_600_000, 60_000, 1_000, 1)
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
SOURCES = ("pods", "services", "podmonitors", "servicemonitors")
# Prometheus' own default.
DEFAULT_INTERVAL = "1m"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of charmcraft.yaml. Lists and JSON are checked here and parsed by the properties."""

    pod_label_selector: str = ""
    namespaces: str = ""
    discover: str = "pods"
    default_port: str = ""
    scrape_interval: str = ""
    scrape_timeout: str = ""
    external_labels: str = ""
    open_metrics_port: bool = False
    metrics_secret_id: ops.Secret | None = None

    def __post_init__(self):
        problems = [
            *(f"namespaces: {name!r} is not the name of a namespace" for name in self._odd_namespaces()),
            *(f"discover: {name!r} is not one of {', '.join(SOURCES)}" for name in self._odd_sources()),
            *self._port_problems(),
            *self._duration_problems(),
            *self._label_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def namespace_list(self) -> list[str]:
        """The namespaces in order; empty for all."""
        return _items(self.namespaces)

    @property
    def source_list(self) -> list[str]:
        """Where targets come from, in order."""
        return _items(self.discover)

    @property
    def labels(self) -> dict[str, str]:
        """The external labels by name."""
        return json.loads(self.external_labels) if self.external_labels.strip() else {}

    def _odd_namespaces(self) -> list[str]:
        return [name for name in self.namespace_list if not NAMESPACE.fullmatch(name)]

    def _odd_sources(self) -> list[str]:
        return [name for name in self.source_list if name not in SOURCES]

    def _port_problems(self) -> list[str]:
        text = self.default_port
        is_number = text.isascii() and text.isdigit() and 0 < int(text) < 65536
        if text in ("", "declared") or is_number:
            return []
        return [f"default-port: {text!r} is not a port and not `declared`"]

    def _duration_problems(self) -> list[str]:
        problems = []
        for option, text in (("scrape-interval", self.scrape_interval), ("scrape-timeout", self.scrape_timeout)):
            if text and not milliseconds(text):
                problems.append(f"{option}: {text!r} is not a duration such as 30s, 1m30s or 500ms")
        if not problems and self.scrape_timeout:
            interval = self.scrape_interval or DEFAULT_INTERVAL
            # Prometheus refuses its whole configuration in this case.
            if milliseconds(self.scrape_timeout) > milliseconds(interval):
                problems.append(f"scrape-timeout: {self.scrape_timeout} is longer than the interval, {interval}")
        return problems

    def _label_problems(self) -> list[str]:
        try:
            labels = self.labels
        except ValueError:
            return ['external-labels: not a JSON object such as {"site": "lisbon"}']
        if not isinstance(labels, dict):
            return ['external-labels: not a JSON object such as {"site": "lisbon"}']
        problems = []
        for name, value in labels.items():
            if not LABEL.fullmatch(name) or name.startswith("__"):
                problems.append(f"external-labels: {name!r} is not a label name")
            elif name.startswith("juju_"):
                problems.append(f"external-labels: {name!r} belongs to Juju's topology")
            elif not isinstance(value, str):
                problems.append(f"external-labels: the value of {name!r} is not a string")
        return problems


def milliseconds(text: str) -> int:
    """The length of a duration, 0 where the text is not one."""
    match = DURATION.fullmatch(text)
    if not match:
        return 0
    return sum(int(number or 0) * factor for number, factor in zip(match.groups(), MILLISECONDS, strict=True))


def _items(text: str) -> list[str]:
    return [item for item in (part.strip() for part in text.split(",")) if item]
