#!/usr/bin/env bash
# Replaces the running instances by new ones, of the code, the image and the settings as they are now, one after the other
# and without a failed request: each is left out by nginx, finishes what it draws, ends, is started anew, and is used again
# once it is ready. Its worker gives its jobs back first; a training goes on from its checkpoint.
# An instance that does not become ready ends the update: the others go on as they were. Running it again begins anew.
# One instance alone cannot be replaced without a gap, in which nginx answers 502. nginx itself goes on running.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/runtime.sh
source "$MANAGE_DIR/lib/runtime.sh"
# shellcheck source-path=SCRIPTDIR source=lib/starting.sh
source "$MANAGE_DIR/lib/starting.sh"

# An old worker of nginx goes on with clients' connections for a second (keepalive_min_timeout) and a request more.
readonly SETTLE_S=3
REPLACING='' # the instance that is being replaced

main() {
  local entry name
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_settings
  check_worker_settings
  check_runtime
  check_programs
  prepare_data_dir
  take_lock
  refuse_other_runtime
  join_services
  plan_instances
  refuse_other_plan
  refuse_lost_workers
  is_running nginx || fail "nginx is not running: there is nothing to update; run service_start.sh"
  refuse_gaps
  on_failure give_up
  for entry in "${PLAN[@]}"; do
    read -r name _ <<<"$entry"
    replace "$name" "$entry"
  done
  finished
  say ""
  print_table "${WANTED[@]}"
}

# They would be stopped and not be started again, and the instances be told nothing of main-api any more.
refuse_lost_workers() {
  local name
  wants_workers && return
  while read -r name; do
    if is_worker "$name" && is_running "$name"; then
      fail "$name runs: set MAIN_API_URL, ENLIGHT_NODE_KEY and what else the instances were started with. What dev-scripts/start.sh started is replaced by dev-scripts/stop.sh and start.sh"
    fi
  done < <(recorded_names)
}

# While one is being replaced, the others are all there is.
refuse_gaps() {
  local entry name
  for entry in "${PLAN[@]}"; do
    name=${entry%% *}
    [[ $(instance_state "$name") == up ]] || fail "$name is not up: run service_start.sh first"
  done
  if ((${#PLAN[@]} == 1)); then
    say "There is one instance: until the new one is ready nginx answers 502" >&2
  fi
}

# replace NAME "NAME HOST PORT DEVICE"
replace() {
  local name=$1 entry=$2 worker
  local -a place
  read -ra place <<<"$entry"
  worker=$(worker_of "$name")
  REPLACING=$name
  say "replacing $name"
  if is_running "$worker"; then
    stop_workers "$worker"
  fi
  if ((${#PLAN[@]} > 1)); then
    leave_out "$name"
    await_idle "$name"
  fi
  stop_instances "$name"
  start_instance "${place[@]}"
  await_ready ready_state "$name"
  leave_out
  REPLACING=''
  if wants_workers; then
    start_worker "${place[@]}"
    await_ready ready_state "$worker"
  fi
}

# Until the instance has nothing to answer any more. What is in flight may take as long as nginx lets a drawing take, but
# who only watches a training, or waits for its end, is not waited for.
await_idle() {
  local name=$1 began=$SECONDS
  sleep "$SETTLE_S"
  read_record "$name"
  until is_idle; do
    if ((SECONDS - began >= DRAW_TIMEOUT_S)); then
      say "  $name still draws after $DRAW_TIMEOUT_S s (DRAW_TIMEOUT_S)" >&2
      return
    fi
    if ((SECONDS - began >= GRACE_S)) && draws_nothing; then
      return
    fi
    sleep 0.5
  done
}

# The request for the metrics is one in flight itself.
is_idle() {
  (($(metric requests_in_flight) <= 1))
}

draws_nothing() {
  (($(metric drawings_waiting) + $(metric pictures_waiting) + $(metric batch_pictures) == 0))
}

# metric NAME  of the instance whose record was read; 0 when it has none, or has ended
metric() {
  local text value
  text=$(http_get "http://$(reachable "$RECORD_HOST"):$RECORD_PORT/metrics")
  if [[ -z $text ]]; then
    if is_running "$REPLACING"; then
      printf 99 # it is too busy to answer
    else
      printf 0
    fi
    return
  fi
  value=$(sed -n "s/^$1 \([0-9]*\).*/\1/p" <<<"$text")
  printf '%s' "${value:-0}"
}

# The one that was being replaced may be half started, and nginx sends it nothing; the others serve.
give_up() {
  if [[ -n $REPLACING ]]; then
    say "the update ended at $REPLACING, which is stopped. service_start.sh starts it again" >&2
    stop_workers_then_instances "$(worker_of "$REPLACING")" "$REPLACING"
  else
    say "the update ended. All instances serve; service_start.sh starts what is missing beside them" >&2
  fi
}

main "$@"
