# shellcheck shell=bash
# A worker beside each instance, when MAIN_API_URL says where jobs come from. Sourced after runtime_process.sh.
#
# The worker of cpu0 is recorded as worker-cpu0. It opens no port, but writes DATA_DIR/workers/<its name>.json every ten
# seconds: by that file one is known that runs and does nothing.

readonly STALE_AFTER_S=60
# A worker may wait so long, beside the grace for its drawings, for its instance to write a checkpoint of 10 GB and store
# it (worker/instance.py), and for main-api to take its job back.
readonly GIVE_BACK_S=270

worker_of() {
  printf 'worker-%s' "$1"
}

is_worker() {
  [[ $1 == worker-* ]]
}

wants_workers() {
  [[ -n $MAIN_API_URL ]]
}

check_worker_settings() {
  wants_workers || return 0
  [[ $MAIN_API_URL =~ ^https?://[^[:space:]]+$ ]] || fail "MAIN_API_URL must be an http or https address"
  [[ -n ${ENLIGHT_NODE_KEY:-} ]] \
    || fail "ENLIGHT_NODE_KEY is needed with MAIN_API_URL: python -m main_api.keys node-keys create makes one there"
}

# start_worker INSTANCE HOST PORT DEVICE  starts the worker of an instance
start_worker() {
  local instance=$1 host=$2 port=$3 device=$4 name node=$NODE_NAME
  name=$(worker_of "$instance")
  if [[ -z $node ]]; then
    node=$(uname -n)
    node=${node//[^A-Za-z0-9-]/-}
    node=node-${node:0:32}
  fi
  start_detached "$name" - - "$device" - \
    env MAIN_API_URL="$MAIN_API_URL" INSTANCE_URL="http://$(reachable "$host"):$port" WORKER_NAME="$node-$instance" \
    DATA_DIR="$DATA_DIR" GRACE_S="$GRACE_S" "$VENV_PYTHON" -m dreambooth_api.worker
}

# They are stopped before the instances: each gives its jobs back while its instance can still checkpoint them.
stop_workers() {
  stop_gracefully "$GIVE_BACK_S" "$@"
}

# up, starting, stale or down
worker_state() {
  local file written
  if ! is_running "$1"; then
    printf 'down'
    return
  fi
  for file in "$DATA_DIR"/workers/*-"${1#worker-}".json; do
    # Another worker may have had the name before.
    grep -qs "\"pid\": $RECORD_PID\b" "$file" || continue
    written=$(stat -c %Y "$file" 2>/dev/null) || continue
    if (($(date +%s) - written > STALE_AFTER_S)); then
      printf 'stale'
    else
      printf 'up'
    fi
    return
  done
  printf 'starting'
}
