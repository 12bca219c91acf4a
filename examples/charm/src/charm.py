#!/usr/bin/env python3
"""A charm that runs metrics-proxy.

Every event leads to one handler, `_reconcile`, which brings the container and the relations to the state that the
configuration asks for. It keeps no state and does not depend on the event, so a lost event does no harm.

The charm gives the program a selector, a timeout and a secret. The program hashes the password, writes the Pebble
identity, rotates it, and adds its checks to Pebble's plan.
"""

import logging
import urllib.error
import urllib.request
import zlib

import ops
from charmlibs.interfaces.certificate_transfer import CertificateTransferRequires

import cos
from config import Config

logger = logging.getLogger(__name__)

CONTAINER = "metrics-proxy"
# Service and layer have the names that the rock uses, so that this layer replaces the service of the rock.
SERVICE = "metrics-proxy"
LAYER = "metrics-proxy"
PORT = 15090
# Juju gives this port to Pebble in the container whose name sorts first, and the next port to each further container.
FIRST_PEBBLE_PORT = 38813
# A folder that any user can write. It disappears with the container; pebble-ready restores it.
SECRET_DIR = "/tmp/metrics-proxy/secret"
CA_DIR = "/tmp/metrics-proxy"
KEYS = ("username", "password")
# Units share the pods: each reads its number, and the number of units, from the StatefulSet that Juju made. Otherwise
# every unit would serve every pod, and Prometheus would store each series once per unit.
SHARD = "auto"
CHECKS = ("metrics-proxy-alive", "metrics-proxy-identity", "metrics-proxy-ready")
NOTICES = "canonical.com/metrics-proxy/"


class SecretUnavailableError(Exception):
    """The secret was removed, or its grant was revoked. The credential must end."""


class SecretMalformedError(Exception):
    """The secret cannot be used at the moment. The previous credential stays in force."""


class TargetAuthorities(CertificateTransferRequires):
    """The authorities for https targets. A class of its own, since ops.tracing uses the same relation for traces."""


class MetricsProxyCharm(ops.CharmBase):
    """Runs metrics-proxy and reports its state."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._container = self.unit.get_container(CONTAINER)
        self._failure: ops.StatusBase | None = None
        self._config_problem = ""
        self._config = self._load_config()
        self._authorities = TargetAuthorities(self, "receive-ca-cert")
        self._tracing = ops.tracing and ops.tracing.Tracing(
            self, tracing_relation_name="charm-tracing", ca_relation_name="receive-ca-cert"
        )
        # With a mistake in the configuration the relations keep what they have.
        self._cos = self._config and cos.Cos(self, self._container, PORT, self._job(self._config))
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
            # `juju grant-secret` causes no event; this one comes within minutes.
            self.on.update_status,
            *self._relation_events(),
        ):
            framework.observe(event, self._reconcile)
        framework.observe(self.on.collect_unit_status, self._collect_unit_status)
        framework.observe(self.on.collect_app_status, self._collect_app_status)
        framework.observe(self.on.targets_action, self._show_targets)

    @property
    def pebble_port(self) -> int:
        """The port on which Juju lets this container's Pebble listen."""
        return FIRST_PEBBLE_PORT + sorted(self.meta.containers).index(CONTAINER)

    def _load_config(self) -> Config | None:
        try:
            return self.load_config(Config)
        except ValueError as e:
            self._config_problem = str(e)
            logger.error("The configuration is not usable: %s", e)
            return None

    def _relation_events(self) -> list[ops.BoundEvent]:
        names = (cos.METRICS, cos.DASHBOARDS, cos.LOGGING, cos.INGRESS, "receive-ca-cert")
        return [
            event
            for name in names
            for event in (
                self.on[name].relation_joined,
                self.on[name].relation_changed,
                self.on[name].relation_departed,
                self.on[name].relation_broken,
            )
        ]

    def _job(self, config: Config) -> dict:
        return cos.scrape_job(PORT, config.scrape_interval, config.scrape_timeout, config.labels)

    def _reconcile(self, event: ops.EventBase):
        if self._config is None or self._cos is None:
            return
        self._open_ports(self._config)
        self._cos.update()
        self._log_notice(event)
        try:
            self._update_container(self._config, self._cos)
            if isinstance(event, ops.PebbleReadyEvent):
                self._set_version()
        except (ops.pebble.ConnectionError, ops.pebble.TimeoutError) as e:
            # Pebble stopped during this event; pebble-ready follows when it is back.
            logger.info("Pebble stopped: %s", e)
            self._failure = ops.WaitingStatus("waiting for Pebble")
        except ops.pebble.ChangeError as e:
            # The program exits with 2 and reports every mistake in its configuration.
            logger.error("Cannot start metrics-proxy: %s", e)
            self._failure = ops.BlockedStatus("metrics-proxy does not start: check selector and timeout")
        except (ops.pebble.APIError, ops.pebble.PathError) as e:
            logger.error("Pebble returned an error: %s", e)
            self._failure = ops.BlockedStatus("Pebble returned an error, see juju debug-log")

    def _open_ports(self, config: Config):
        """Opens our ports one by one: `set_ports` would close the other ports of a charm that copies this."""
        self.unit.open_port("tcp", self.pebble_port)
        if config.open_metrics_port:
            self.unit.open_port("tcp", PORT)
        elif ops.Port("tcp", PORT) in self.unit.opened_ports():
            self.unit.close_port("tcp", PORT)

    def _log_notice(self, event: ops.EventBase):
        """Copies a missing permission, which the program reports in a notice, to the log of Juju."""
        if isinstance(event, ops.PebbleCustomNoticeEvent) and event.notice.key == f"{NOTICES}permission-missing":
            logger.warning("%s", event.notice.last_data.get("message", "permissions are missing"))

    def _update_container(self, config: Config, relations: cos.Cos):
        if not self._container.can_connect():
            return
        try:
            self._push_credential(self._read_credential(config))
        except SecretUnavailableError:
            # The program sees that the files are removed, and revokes the identity after its grace period of 30 s.
            self._push_credential(None)
        except SecretMalformedError as e:
            # A mistake in the secret must not lock out the readers of the previous one.
            logger.warning("The previous credential stays in force: %s", e)
        authorities = self._push_authorities()
        self._container.add_layer(LAYER, self._layer(config, authorities), combine=True)
        log_layer = relations.log_layer()
        if log_layer:
            self._container.add_layer(*log_layer, combine=True)
        self._container.replan()

    def _read_credential(self, config: Config) -> dict[str, str] | None:
        """The content of the secret in `metrics-secret-id`, or None where the option is not set.

        The secret is identified by the option only. It is not compared with the secret of an event, since one secret has
        several spellings, and has no label, since a label stays with its secret when the option changes.
        """
        if config.metrics_secret_id is None:
            return None
        try:
            # refresh: otherwise the first revision is read for ever, and written over a newer one.
            content = config.metrics_secret_id.get_content(refresh=True)
        except ops.SecretNotFoundError as e:
            raise SecretUnavailableError(f"no such secret, or not granted to {self.app.name}") from e
        except ops.ModelError as e:
            if "permission denied" in str(e):
                raise SecretUnavailableError(f"juju grant-secret it to {self.app.name}") from e
            logger.warning("Cannot read the secret: %s", e)
            raise SecretMalformedError("Juju cannot read the secret now") from e
        missing = [key for key in KEYS if not content.get(key)]
        if missing:
            raise SecretMalformedError(f"the secret lacks {' and '.join(missing)}")
        return {key: content[key] for key in KEYS}

    def _push_credential(self, credential: dict[str, str] | None):
        if credential is None:
            self._container.remove_path(SECRET_DIR, recursive=True)
            return
        self._container.make_dir(SECRET_DIR, make_parents=True, permissions=0o700)
        for key, value in credential.items():
            # Pebble writes a temporary file and renames it. The program waits until both files are unchanged for a
            # moment, so it never reads a new username with an old password.
            self._push(f"{SECRET_DIR}/{key}", value, 0o600)

    def _push_authorities(self) -> str | None:
        """Writes the authorities of `receive-ca-cert`; returns the path of the file, or None where there are none."""
        bundle = "\n".join(sorted(self._authorities.get_all_certificates()))
        if not bundle:
            return None
        # The name follows the content: the program reads the file at its start, and a new name in the environment makes
        # the replan restart it.
        path = f"{CA_DIR}/ca-{zlib.crc32(bundle.encode()):08x}.pem"
        self._push(path, bundle + "\n", 0o644)
        return path

    def _push(self, path: str, text: str, permissions: int):
        if not self._container.exists(path) or self._container.pull(path).read() != text:
            self._container.push(path, text, permissions=permissions, make_dirs=True)

    def _layer(self, config: Config, authorities: str | None) -> ops.pebble.LayerDict:
        """The service. The same configuration gives the same layer, so that a replan restarts nothing."""
        environment = {
            "POD_LABEL_SELECTOR": config.pod_label_selector,
            "PORT": str(PORT),
            "METRICS_PROXY_SHARD": SHARD,
            "METRICS_PROXY_DISCOVER": ",".join(config.source_list),
        }
        if config.scrape_timeout:
            environment["SCRAPE_TIMEOUT"] = config.scrape_timeout
        if config.default_port:
            environment["METRICS_PROXY_DEFAULT_PORT"] = config.default_port
        if config.namespace_list:
            environment["METRICS_PROXY_NAMESPACE"] = ",".join(config.namespace_list)
        if config.metrics_secret_id is not None:
            environment["METRICS_SECRET_PATH"] = SECRET_DIR
        if authorities:
            environment["METRICS_PROXY_TARGET_CA"] = authorities
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

    def _set_version(self):
        """Sets the workload version. It can change with the image only, which starts a new container."""
        try:
            version, _ = self._container.exec(["metrics-proxy", "--version"], timeout=10).wait_output()
        except (ops.pebble.ExecError, ops.pebble.APIError) as e:
            logger.warning("Cannot read the version of metrics-proxy: %s", e)
            return
        self.unit.set_workload_version(version.split()[-1] if version.split() else "")

    def _show_targets(self, event: ops.ActionEvent):
        command = ["metrics-proxy", "targets", "--output", str(event.params.get("output", "text"))]
        try:
            # service_context: the command then has the environment of the service, PORT included.
            process = self._container.exec(command, timeout=30, service_context=SERVICE)
            output, _ = process.wait_output()
        except ops.pebble.ExecError as e:
            event.fail((e.stderr or str(e)).strip())
        except ops.pebble.Error as e:
            event.fail(f"cannot run metrics-proxy targets: {e}")
        else:
            event.set_results({"targets": output})

    def _collect_unit_status(self, event: ops.CollectStatusEvent):
        event.add_status(self._configured() or self._observed())

    def _collect_app_status(self, event: ops.CollectStatusEvent):
        """What concerns every unit: the configuration and the secret."""
        event.add_status(self._configured() or ops.ActiveStatus())

    def _configured(self) -> ops.StatusBase | None:
        """What the configuration or the secret lacks, or None."""
        if self._config is None:
            return ops.BlockedStatus(self._config_problem)
        try:
            self._read_credential(self._config)
        except (SecretUnavailableError, SecretMalformedError) as e:
            return ops.BlockedStatus(f"metrics-secret-id: {e}")
        if not self._config.pod_label_selector:
            return ops.BlockedStatus("set pod-label-selector")
        return None

    def _observed(self) -> ops.StatusBase:
        """The status by what this event met, the service, its checks and the last notice of the program."""
        if self._failure:
            return self._failure
        try:
            if not self._container.can_connect():
                return ops.WaitingStatus("waiting for Pebble")
            services = self._container.get_services(SERVICE)
            if SERVICE not in services or not services[SERVICE].is_running():
                return ops.WaitingStatus("metrics-proxy is starting")
            refusal = self._refusal()
            if refusal:
                return ops.BlockedStatus(refusal)
            return self._by_checks()
        except (ops.pebble.ConnectionError, ops.pebble.TimeoutError, ops.pebble.APIError) as e:
            logger.info("Pebble does not respond: %s", e)
            return ops.WaitingStatus("waiting for Pebble")

    def _by_checks(self) -> ops.StatusBase:
        checks = self._container.get_checks(*CHECKS)
        down = [name for name in CHECKS if name in checks and checks[name].status == ops.pebble.CheckStatus.DOWN]
        if down:
            return ops.BlockedStatus(read_cause(PORT) or f"{down[0]} is down: see pebble check {down[0]}")
        return ops.ActiveStatus()

    def _refusal(self) -> str | None:
        """Why the program refuses the secret, or None where it has accepted a later one."""
        if self._config is None or self._config.metrics_secret_id is None:
            return None
        keys = [f"{NOTICES}secret-refused", f"{NOTICES}identity-rotated"]
        # Of all users: the program may run as a user other than the charm's.
        notices = self._container.get_notices(users=ops.pebble.NoticesUsers.ALL, keys=keys)
        if not notices:
            return None
        last = max(notices, key=lambda notice: notice.last_occurred)
        if last.key != keys[0]:
            return None
        # A notice stays when the secret is corrected to what is already in force, so the check decides.
        identity = self._container.get_checks(CHECKS[1]).get(CHECKS[1])
        if identity is None or identity.status != ops.pebble.CheckStatus.DOWN:
            return None
        return f"metrics-secret-id: {last.last_data.get('message', 'refused')}"


def read_cause(port: int) -> str | None:
    """The first line of /readyz, which names the cause. Charm and container share the network of the pod."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=2):
            return None
    except urllib.error.HTTPError as e:
        return e.read(512).decode(errors="replace").partition("\n")[0] or None
    except OSError:
        return None


if __name__ == "__main__":  # pragma: nocover
    ops.main(MetricsProxyCharm)
