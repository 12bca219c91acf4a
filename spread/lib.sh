# What the tasks share. Every script of a task sources it. Each script is a bash of its own, so values for the next script are
# kept in a file of the task's scratch folder.
#
# Needs: bash, curl, python3 and what is in spread/.bin. Ports are free ones, so that tasks may run beside each other.

SCRATCH=${TMPDIR:-/tmp}/metrics-proxy-${SPREAD_TASK//\//-}-${SPREAD_VARIANT:-none}-${SPREAD_RUN:-spread}
BIN=${METRICS_PROXY_SPREAD_BIN:-$SPREAD_PATH/spread/.bin}
PEBBLE_PROGRAM=$BIN/pebble-$PEBBLE_VERSION
export PEBBLE=$SCRATCH/pebble
unset PEBBLE_SOCKET
[ ! -e "$SCRATCH/ports" ] || . "$SCRATCH/ports"

fail() { printf 'FAIL: %s\n' "$*" >&2; return 1; }

# Waits until a command succeeds.
until_ok() {
  local what=$1 end=$((SECONDS + 40))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { fail "not within 40 s: $what"; return 1; }
    sleep 0.1
  done
}

# Free ports below 32768: above it the kernel gives ports to outgoing connections, which could take one before it is used.
free_ports() {
  python3 - "$1" <<'PY'
import random, socket, sys
bound = []
for port in random.sample(range(11000, 31000), 20000):
    if len(bound) == int(sys.argv[1]):
        break
    s = socket.socket()
    try:
        s.bind(("", port))
        bound.append(s)
    except OSError:
        s.close()
print(*(s.getsockname()[1] for s in bound))
PY
}

# A folder of its own for the task: Pebble's, pods, a place for the secret, and the program as `metrics-proxy` on PATH.
scratch_new() {
  rm -rf "$SCRATCH"
  mkdir -p "$SCRATCH"/{pebble/layers,bin,pods}
  # Services may run as another user.
  chmod 755 "$SCRATCH" "$SCRATCH/pebble"
  cp "$BIN/metrics-proxy" "$SCRATCH/bin/metrics-proxy"
  read -r port pebble_port pod_port <<<"$(free_ports 3)"
  printf 'PORT=%s PEBBLE_PORT=%s POD_PORT=%s\n' "$port" "$pebble_port" "$pod_port" >"$SCRATCH/ports"
  . "$SCRATCH/ports"
}

# Ends the processes that the task started, by their recorded pids, and removes its folder.
scratch_end() {
  local file
  for file in "$SCRATCH"/*.pid; do
    [ -e "$file" ] || continue
    kill "$(cat "$file")" 2>/dev/null || true
    until_ok "the end of $(basename "$file")" eval "! kill -0 $(cat "$file")" || kill -9 "$(cat "$file")" || true
  done
  rm -rf "$SCRATCH"
}

# pebble_start [ARGUMENT...]: Pebble as Juju runs it, with short intervals for its service and the pods of $SCRATCH/pods.
pebble_start() {
  env PATH="$SCRATCH/bin:$PATH" PORT="$PORT" METRICS_PROXY_PODS_FILE="$SCRATCH/pods" METRICS_SECRET_PATH="$SCRATCH/secret" \
    METRICS_PROXY_SECRET_DEBOUNCE=200ms METRICS_PROXY_SECRET_POLL=200ms METRICS_PROXY_SECRET_REMOVAL_GRACE=1s \
    METRICS_PROXY_RESYNC_INTERVAL=500ms SCRAPE_TIMEOUT=2s \
    "$PEBBLE_PROGRAM" run --create-dirs --verbose --http "127.0.0.1:$PEBBLE_PORT" "$@" >>"$SCRATCH/pebble.log" 2>&1 &
  echo $! >"$SCRATCH/pebble.pid"
  until_ok "Pebble responds" pebble version
}

pebble() { "$PEBBLE_PROGRAM" "$@"; }

# The rock's layers, for this task's port.
rock_layers() {
  local layer
  for layer in "$SPREAD_PATH"/pebble-layers/*.yaml; do
    sed "s/localhost:15090/localhost:$PORT/" "$layer" >"$PEBBLE/layers/$(basename "$layer")"
  done
}

# exporter KIND...: one process whose /KIND plays a pod; see spread/exporter.py.
exporter() {
  python3 "$SPREAD_PATH/spread/exporter.py" "$POD_PORT" >>"$SCRATCH/exporter.log" 2>&1 &
  echo $! >"$SCRATCH/exporter.pid"
  until_ok "the exporter responds" curl -sf "http://127.0.0.1:$POD_PORT/good"
  local kind
  for kind; do
    cat >"$SCRATCH/pods/$kind.yaml" <<POD
apiVersion: v1
kind: Pod
metadata:
  name: $kind
  namespace: shop
  uid: uid-$kind
  labels: {app: web, kind: $kind}
  annotations: {prometheus.io/scrape: "true", prometheus.io/port: "$POD_PORT", prometheus.io/path: /$kind}
spec: {hostNetwork: true, containers: [{name: web}]}
status: {phase: Running, podIP: 127.0.0.1}
POD
  done
}

# secret USERNAME PASSWORD: puts it there as a charm does, each file written beside and renamed.
secret() {
  mkdir -p "$SCRATCH/secret"
  printf %s "$1" >"$SCRATCH/username.new"
  printf %s "$2" >"$SCRATCH/password.new"
  mv "$SCRATCH/username.new" "$SCRATCH/secret/username"
  mv "$SCRATCH/password.new" "$SCRATCH/secret/password"
}

status() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
is_status() { local wanted=$1; shift; [ "$(status "$@")" = "$wanted" ]; }
pebble_metrics() { is_status "$1" -u "$2:$3" "http://127.0.0.1:$PEBBLE_PORT/v1/metrics"; }
ready() { is_status 200 "http://127.0.0.1:$PORT/readyz"; }
alive() { is_status 200 "http://127.0.0.1:$PORT/healthz"; }
metrics() { curl -sf "http://127.0.0.1:$PORT/metrics"; }
has() { metrics | grep -qF "$1"; }

# The program's process: Pebble's child that has its name.
service_pid() { pgrep -P "$(cat "$SCRATCH/pebble.pid")" -f metrics-proxy | head -n 1; }
