"""What a charm sees of us through ops.pebble.Client; the argument is Pebble's socket."""

import re
import sys

from ops import pebble

client = pebble.Client(sys.argv[1])

checks = {check.name: check for check in client.get_checks()}
assert sorted(checks) == ["metrics-proxy-alive", "metrics-proxy-identity", "metrics-proxy-ready"], checks
for check in checks.values():
    assert check.level in (None, pebble.CheckLevel.UNSET), check
    assert check.startup == pebble.CheckStartup.ENABLED, check
assert checks["metrics-proxy-alive"].status == pebble.CheckStatus.UP

identities = client.get_identities()
[marker] = [name for name in identities if re.fullmatch(r"metrics-proxy-owner--\d+-alice", name)]
assert sorted(identities) == ["alice", marker], identities
assert identities["alice"].access == pebble.IdentityAccess.METRICS
assert identities["alice"].basic is not None and identities["alice"].basic.password == "*****"
assert identities["alice"].local is None
assert identities[marker].access == pebble.IdentityAccess.UNTRUSTED

notices = {notice.key: notice for notice in client.get_notices(types=[pebble.NoticeType.CUSTOM])}
assert sorted(notices) == [
    "canonical.com/metrics-proxy/identity-rotated",
    "canonical.com/metrics-proxy/secret-refused",
], notices
assert notices["canonical.com/metrics-proxy/identity-rotated"].last_data == {"reason": "created"}
refused = notices["canonical.com/metrics-proxy/secret-refused"].last_data
assert refused == {"reason": "username", "message": "username empty; set one"}, refused

# The charm adds its layer around us, and replans; we stay as we are.
before = client.get_services(["metrics-proxy"])[0]
for _ in range(3):
    client.add_layer("charm", {"services": {"other": {"override": "replace", "command": "sleep 1000"}}}, combine=True)
    client.replan_services()
after = client.get_services(["metrics-proxy"])[0]
assert before.current == after.current == pebble.ServiceStatus.ACTIVE
assert sorted(client.get_plan().checks) == sorted(checks)
assert client.get_plan().checks["metrics-proxy-ready"].to_dict()["http"]["url"].endswith("/readyz")
assert sorted(client.get_identities()) == sorted(identities)
