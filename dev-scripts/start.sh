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
# shellcheck source-path=SCRIPTDIR source=../dreambooth-manage/lib/starting.sh
source "$MANAGE_DIR/lib/starting.sh"
# shellcheck source-path=SCRIPTDIR source=lib/secrets.sh
source "$DEV_DIR/lib/secrets.sh"
# shellcheck source-path=SCRIPTDIR source=lib/services.sh
source "$DEV_DIR/lib/services.sh"

STARTED=() # names, in the order of their start
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
  on_failure stop_what_was_started
  fetch_weights
  set_main_api_settings
  start_and_wait mongodb redis broker
  make_keys
  start_missing bgrem upsampler realesrgan main-api background
  start_dreambooth
  await_wanted bgrem upsampler realesrgan main-api background
  finished
  report
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
  await_wanted "$@"
}

await_wanted() {
  local name
  local -a wanted=()
  for name in "$@"; do
    [[ -z ${WANTED[$name]:-} ]] || wanted+=("$name")
  done
  await_ready service_state "${wanted[@]}"
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
  "$MANAGE_DIR/service_status.sh" >/dev/null || status=$?
  ((status != 3)) || MANAGE_STARTED=1 # with some of them up they are somebody's
  # Its table comes with the others'.
  run_child start_instances
}

start_instances() {
  export DATA_DIR
  if [[ -n ${WANTED[main-api]:-} ]]; then
    export TRUST_TENANT_HEADER=true MAIN_API_URL ENLIGHT_NODE_KEY
    MAIN_API_URL=http://$(reachable "$MAIN_API_HOST"):$MAIN_API_PORT
    ENLIGHT_NODE_KEY=$(secret node.key)
  fi
  exec "$MANAGE_DIR/service_start.sh"
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
  if [[ -n $CHILD ]]; then
    kill -s TERM "$CHILD" 2>/dev/null || true # service_start.sh stops what it started
    # Not by `wait`: after the one that the trap broke off it was seen to wait for ever for a child that was gone.
    while is_alive "$CHILD"; do
      sleep 0.2
    done
  elif [[ -n $MANAGE_STARTED ]]; then
    "$MANAGE_DIR/service_stop.sh" 9>&- || true
  fi
  if ((${#STARTED[@]})); then
    say "stopping what was started: ${STARTED[*]}" >&2
    stop_services "${STARTED[@]}"
  fi
}

main "$@"
