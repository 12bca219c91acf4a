#!/usr/bin/env python3
"""A charm that runs metrics-proxy.

Every event leads to one handler, `_reconcile`, which brings everything to where it should be from whatever it is now. It
compares no old with new, keeps no state, and may run at any time: an event that got lost costs nothing.

The charm hands over a selector, a timeout and a secret. It calls nothing of Pebble's identities and hashes nothing: that
is the program's part, as are the checks, which it adds to Pebble's plan itself.
"""

import logging
import urllib.error
import urllib.request

import ops

import observability

logger = logging.getLogger(__name__)

CONTAINER = "metrics-proxy"
# Service and layer have the name that the rock's have, so that this layer replaces that service.
SERVICE = "metrics-proxy"
LAYER = "metrics-proxy"
PORT = 15090
# Pebble's HTTP port in the container whose name sorts first; each further container has the next.
FIRST_PEBBLE_PORT = 38813
# A place that can be written as any uid. It is gone with the container; pebble-ready brings it back.
SECRET_DIR = "/tmp/metrics-proxy/secret"
KEYS = ("username", "password")
# Units share the pods: each knows its number and how many there are from the StatefulSet that Juju made. Without it every
# unit would serve every pod, and Prometheus would store each series once a unit.
SHARD = "auto"
CHECKS = ("metrics-proxy-alive", "metrics-proxy-identity", "metrics-proxy-ready")
NOTICES = "canonical.com/metrics-proxy/"


class Unusable(Exception):
    """The secret cannot be used; the text says why, and what helps."""


class MetricsProxyCharm(ops.CharmBase):
    """Runs metrics-proxy and says how it is."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._container = self.unit.get_container(CONTAINER)
        self._observability = observability.Observability(self, PORT)
        on = self.on[CONTAINER]
        for event in (
            self.on.config_changed,
            self.on.secret_changed,
            on.pebble_ready,
            on.pebble_custom_notice,
            on.pebble_check_failed,
            on.pebble_check_recovered,
            self.on.upgrade_charm,
            self.on.leader_elected,
            # `juju grant-secret` causes no event: this one notices it within minutes.
            self.on.update_status,
            *self._observability.events,
        ):
            framework.observe(event, self._reconcile)

    @property
    def pebble_port(self) -> int:
        """The port on which Juju has this container's Pebble listen."""
        return FIRST_PEBBLE_PORT + sorted(self.meta.containers).index(CONTAINER)

    def _reconcile(self, event: ops.EventBase):
        self.unit.set_ports(self.pebble_port)
        self._observability.update()
        if isinstance(event, ops.PebbleCustomNoticeEvent) and event.notice.key == f"{NOTICES}rights-missing":
            logger.warning("%s", event.notice.last_data.get("message", "rights are missing"))
        try:
            self.unit.status = self._bring_about()
        except (ops.pebble.ConnectionError, ops.pebble.TimeoutError) as e:
            # It went away in the middle; pebble-ready follows when it is back.
            logger.info("Pebble went away: %s", e)
            self.unit.status = ops.WaitingStatus("waiting for Pebble")
        except (ops.pebble.APIError, ops.pebble.PathError) as e:
            logger.error("Pebble refused: %s", e)
            self.unit.status = ops.BlockedStatus("Pebble refused, see juju debug-log")

    def _bring_about(self) -> ops.StatusBase:
        """Makes the container what the configuration says; gives the status that follows."""
        if not self._container.can_connect():
            return ops.WaitingStatus("waiting for Pebble")
        unusable = None
        try:
            self._push(self._credential())
        except Unusable as e:
            # What was pushed before stays: a mistake in the secret should not cut off who has the old one.
            unusable = str(e)
        self._container.add_layer(LAYER, self._layer(), combine=True)
        try:
            self._container.replan()
        except ops.pebble.ChangeError as e:
            # The program has reported every mistake in its configuration, and exited with 2.
            logger.error("Cannot start metrics-proxy: %s", e)
            return ops.BlockedStatus("metrics-proxy does not start: check selector and timeout")
        if unusable:
            return ops.BlockedStatus(unusable)
        if not self.config["pod-label-selector"]:
            return ops.BlockedStatus("set pod-label-selector")
        return self._observed()

    def _credential(self) -> dict[str, str] | None:
        """The credential of the option's secret, or None where the option is not set.

        The option is the only name that the secret has here. It is never compared with an event's, since one secret has
        several spellings, and carries no label, since a label cannot move to another secret when the option does.
        """
        secret_id = self.config.get("metrics-secret-id")
        if not secret_id:
            return None
        try:
            # refresh: otherwise the revision that was read first is read for ever, and written back over a newer one.
            content = self.model.get_secret(id=str(secret_id)).get_content(refresh=True)
        except ops.SecretNotFoundError as e:
            raise Unusable(f"metrics-secret-id: no such secret, or not granted to {self.app.name}") from e
        except ops.ModelError as e:
            logger.warning("Cannot read the secret: %s", e)
            raise Unusable(f"metrics-secret-id: juju grant-secret it to {self.app.name}") from e
        missing = [key for key in KEYS if not content.get(key)]
        if missing:
            raise Unusable(f"metrics-secret-id: the secret lacks {' and '.join(missing)}")
        return {key: content[key] for key in KEYS}

    def _push(self, credential: dict[str, str] | None):
        """Puts the credential where the program reads it, or takes it away."""
        if credential is None:
            # The program then takes the identity away as well.
            self._container.remove_path(SECRET_DIR, recursive=True)
            return
        self._container.make_dir(SECRET_DIR, make_parents=True, permissions=0o700)
        for key, value in credential.items():
            path = f"{SECRET_DIR}/{key}"
            if not self._container.exists(path) or self._container.pull(path).read() != value:
                # Pebble writes beside and renames, and the program waits until both files rest: no mixed pair.
                self._container.push(path, value, permissions=0o600)

    def _layer(self) -> ops.pebble.LayerDict:
        """The service. Equal configuration gives an equal layer, so a replan restarts nothing for its own sake."""
        environment = {
            "POD_LABEL_SELECTOR": str(self.config["pod-label-selector"]),
            "SCRAPE_TIMEOUT": str(self.config["scrape-timeout"]),
            "PORT": str(PORT),
            "METRICS_PROXY_SHARD": SHARD,
        }
        if self.config.get("metrics-secret-id"):
            environment["METRICS_SECRET_PATH"] = SECRET_DIR
        return {
            "summary": "metrics-proxy",
            "services": {
                SERVICE: {
                    "override": "replace",
                    "summary": "metrics-proxy",
                    "command": "metrics-proxy",
                    "startup": "enabled",
                    "environment": environment,
                }
            },
        }

    def _observed(self) -> ops.StatusBase:
        """The status by the service, its checks and what the program last told in a notice."""
        if not self._container.get_services(SERVICE)[SERVICE].is_running():
            return ops.WaitingStatus("metrics-proxy is starting")
        told = self._refusal()
        if told:
            return ops.BlockedStatus(told)
        checks = self._container.get_checks(*CHECKS)
        down = [name for name in CHECKS if name in checks and checks[name].status == ops.pebble.CheckStatus.DOWN]
        if down:
            return ops.BlockedStatus(why(PORT) or f"{down[0]} is down: see pebble check {down[0]}")
        return ops.ActiveStatus()

    def _refusal(self) -> str | None:
        """What the program says of the secret, unless it has taken another since."""
        keys = [f"{NOTICES}secret-refused", f"{NOTICES}identity-rotated"]
        # Of all users: the program may run as another than the one that Pebble takes this charm for.
        notices = self._container.get_notices(users=ops.pebble.NoticesUsers.ALL, keys=keys)
        if not self.config.get("metrics-secret-id") or not notices:
            return None
        last = max(notices, key=lambda notice: notice.last_occurred)
        if last.key != keys[0]:
            return None
        # The notice stays when the secret is mended without a new identity: the check has the last word.
        identity = self._container.get_checks(CHECKS[1]).get(CHECKS[1])
        if identity is None or identity.status != ops.pebble.CheckStatus.DOWN:
            return None
        return f"metrics-secret-id: {last.last_data.get('message', 'refused')}"


def why(port: int) -> str | None:
    """The first line of /readyz, which names what is at fault. Charm and container share the pod's network."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=2):
            return None
    except urllib.error.HTTPError as e:
        return e.read(512).decode(errors="replace").partition("\n")[0] or None
    except OSError:
        return None


if __name__ == "__main__":  # pragma: nocover
    ops.main(MetricsProxyCharm)
