#!/usr/bin/env bash
# Starts everything on this machine: the database's stand-in, redis, the queue's redis, the image services, main-api with
# its background process, and dreambooth-api behind nginx, a worker beside each instance.
# What runs already is left alone, so that starting again is harmless and starts what is missing.
# Ends when all are ready, or with an error, what this call started stopped again, when they are not.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../dreambooth-manage/lib/processes.sh
source "$MANAGE_DIR/lib/processes.sh"
# shellcheck source-path=SCRIPTDIR source=lib/secrets.sh
source "$DEV_DIR/lib/secrets.sh"
# shellcheck source-path=SCRIPTDIR source=lib/services.sh
source "$DEV_DIR/lib/services.sh"

STARTED=() # names, in the order of their start
FINISHED=''
MANAGE_STARTED='' # set once this call may have started instances where none were
CHILD=''

main() {
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_all_settings
  prepare_data_dir
  take_lock
  clear_remains
  check_ports
  trap stop_what_was_started EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  fetch_weights
  set_main_api_settings
  start_and_wait mongodb redis broker
  make_keys
  start_missing bgrem upsampler realesrgan main-api background
  start_dreambooth
  wait_until_ready bgrem upsampler realesrgan main-api background
  FINISHED=1
  report
}

# Of a service that died, workers may be left that still hold its port.
clear_remains() {
  local name
  while read -r name; do
    if ! is_running "$name"; then
      say "$name is recorded but not running: clearing up after it"
      kill_session "$name"
      rm -f "$(pid_file "$name")"
    fi
  done < <(recorded_names)
}

check_ports() {
  local name port
  for name in "${SERVICES[@]}"; do
    [[ -n ${WANTED[$name]:-} && $name != dreambooth ]] || continue
    port=$(port_of "$name")
    [[ -n $port ]] || continue
    if is_running "$name"; then
      [[ $RECORD_PORT == "$port" ]] || fail "$name runs on port $RECORD_PORT, not $port: run stop.sh first"
    elif ! "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" free "$(host_of "$name")" "$port" >/dev/null; then
      fail "taken by another program: port $port. Set $(port_variable "$name") to a free one, or leave $name out (WITHOUT=$name)"
    fi
  done
}

fetch_weights() {
  if [[ -n ${WANTED[realesrgan]:-} && ! -f ${MODELS_DIR:-$WEIGHTS_DIR/realesrgan}/RealESRGAN_x4plus.safetensors ]]; then
    run_child env WEIGHTS_DIR="$WEIGHTS_DIR" "$DEV_DIR/fetch-weights.sh"
  fi
}

start_missing() {
  local name
  for name in "$@"; do
    [[ -n ${WANTED[$name]:-} ]] || continue
    if is_running "$name"; then
      say "$name is already running (pid $RECORD_PID)"
    else
      say "starting $name"
      STARTED+=("$name")
      start_service "$name"
    fi
  done
}

start_and_wait() {
  start_missing "$@"
  wait_until_ready "$@"
}

wait_until_ready() {
  local name began=$SECONDS told=$SECONDS
  for name in "$@"; do
    [[ -n ${WANTED[$name]:-} ]] || continue
    while true; do
      case $(service_state "$name") in
        up) break ;;
        down) not_ready "$name" "ended while it was starting" ;;
      esac
      if ((SECONDS - began >= READY_TIMEOUT_S)); then
        not_ready "$name" "was not ready after $READY_TIMEOUT_S s (READY_TIMEOUT_S)"
      fi
      if ((SECONDS - told >= 5)); then
        told=$SECONDS
        say "  waiting for $name, $((SECONDS - began)) s so far"
      fi
      sleep 0.3
    done
  done
}

not_ready() {
  local name=$1 log
  log=$(service_log "$name")
  printf '%s %s. The end of %s:\n' "$name" "$2" "$log" >&2
  tail -n 30 "$log" | sed 's/^/    /' >&2
  exit 1
}

# The administrator's key, and the one by which this machine's workers take jobs.
make_keys() {
  [[ -n ${WANTED[main-api]:-} ]] || return 0
  ensure_key admin.key -- --tenant default --scopes train,generate,read,admin --name admin
  ensure_key node.key node-keys -- --name this-machine
}

start_dreambooth() {
  [[ -n ${WANTED[dreambooth]:-} ]] || return 0
  local status=0
  local -a more=()
  if [[ -n ${WANTED[main-api]:-} ]]; then
    more=(TRUST_TENANT_HEADER=true ENLIGHT_NODE_KEY="$(secret node.key)"
      MAIN_API_URL="http://$(reachable "$MAIN_API_HOST"):$MAIN_API_PORT")
  fi
  "$MANAGE_DIR/service_status.sh" >/dev/null || status=$?
  ((status == 0)) || MANAGE_STARTED=1
  # Its table comes with the others'.
  run_child env DATA_DIR="$DATA_DIR" "${more[@]}" "$MANAGE_DIR/service_start.sh"
}

# run_child COMMAND…  in the background and waited for, because bash follows no trap while a command runs in front.
run_child() {
  "$@" 9>&- &
  CHILD=$!
  wait "$CHILD" || exit 1
  CHILD=''
}

report() {
  local name
  local -a names=()
  for name in "${SERVICES[@]}"; do
    if [[ -e $(pid_file "$name") ]]; then
      names+=("$name")
    fi
  done
  say ""
  print_services "${names[@]}"
  if [[ -n ${WANTED[main-api]:-} ]]; then
    say ""
    say "Enlight listens on http://$(reachable "$MAIN_API_HOST"):$MAIN_API_PORT"
    say "The administrator's key is in $(secret_file admin.key)"
  fi
  say "Logs are in $DATA_DIR/logs"
}

stop_what_was_started() {
  local status=$?
  [[ -z $FINISHED ]] || return 0
  trap - EXIT
  trap '' INT TERM # a second Ctrl-C must not leave half of them running
  if [[ -n $CHILD ]]; then
    kill -s TERM "$CHILD" 2>/dev/null || true # service_start.sh stops what it started
    wait "$CHILD" || true
  elif [[ -n $MANAGE_STARTED ]]; then
    "$MANAGE_DIR/service_stop.sh" 9>&- || true
  fi
  if ((${#STARTED[@]})); then
    say "stopping what was started: ${STARTED[*]}" >&2
    stop_services "${STARTED[@]}"
  fi
  exit "$status"
}

main "$@"
