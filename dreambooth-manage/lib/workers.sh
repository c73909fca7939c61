# shellcheck shell=bash
# A worker beside each instance, when MAIN_API_URL says where jobs come from. Sourced after plan.sh.
#
# The worker of cpu0 is recorded as worker-cpu0. It opens no port, but writes DATA_DIR/workers/<its name>.json every ten
# seconds: by that file one is known that runs and does nothing.

# shellcheck disable=SC2034  # read by what says how services run
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

# worker_name INSTANCE  what main-api knows it by
worker_name() {
  local node=$NODE_NAME
  if [[ -z $node ]]; then
    node=$(uname -n)
    node=${node//[^A-Za-z0-9-]/-}
    node=node-${node:0:32}
  fi
  printf '%s-%s' "$node" "$1"
}

# They are stopped before the instances: each gives its jobs back while its instance can still checkpoint them.
stop_workers() {
  stop_gracefully "$GIVE_BACK_S" "$@"
}
