#!/usr/bin/env bash
# Starts one dreambooth-api per GPU (one on the CPU where there is none) and nginx in front of them; with MAIN_API_URL
# also a worker beside each, which takes jobs from there. --all, with containers, also starts Redis, main-api, bgrem,
# upsampler and realesrgan, and makes the keys.
# What runs already is left alone, so that starting again is harmless and starts what is missing.
# Ends when all are ready, or with an error, what this call started stopped again, when they are not in time.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/runtime.sh
source "$MANAGE_DIR/lib/runtime.sh"
# shellcheck source-path=SCRIPTDIR source=lib/starting.sh
source "$MANAGE_DIR/lib/starting.sh"

STARTED=() # names, in the order of their start

main() {
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  [[ ${1:-} =~ ^(--all)?$ ]] || fail "there is no option $1; see --help"
  check_settings
  [[ -z ${1:-} || $ENLIGHT_RUNTIME == docker ]] \
    || fail "--all starts containers (ENLIGHT_RUNTIME=docker); as processes, dev-scripts/start.sh starts everything"
  check_worker_settings
  check_runtime
  check_programs
  if [[ -n ${1:-} ]]; then
    check_services
  fi
  prepare_data_dir
  take_lock
  refuse_other_runtime
  if [[ -n ${1:-} ]]; then
    on_failure stop_what_was_started
    prepare_runtime
    note_runtime
    start_services
  fi
  join_services
  plan_instances
  refuse_other_plan
  clear_remains
  check_ports
  prepare_runtime
  note_runtime
  leave_out_missing
  configure_nginx
  on_failure stop_what_was_started
  start_missing
  await_ready ready_state "${WANTED[@]}"
  if [[ -n $LEFT_OUT ]]; then
    leave_out
  fi
  finished
  say ""
  if [[ -n ${1:-} ]]; then
    WANTED+=("${SERVICES[@]}")
  fi
  print_table "${WANTED[@]}"
  say ""
  say "Listening on http://$(reachable "$LISTEN"):$PORT"
  if [[ -n ${1:-} ]]; then
    say "main-api is on http://$(reachable "$MAIN_API_HOST"):$MAIN_API_PORT; the administrator's key is in $DATA_DIR/secrets/admin.key"
  fi
}

# An nginx that runs sends nothing to instances that are being started beside others: while they load they answer 503.
leave_out_missing() {
  local entry
  local -a missing=()
  is_running nginx || return 0
  for entry in "${PLAN[@]}"; do
    is_running "${entry%% *}" || missing+=("${entry%% *}")
  done
  if ((${#missing[@]} < ${#PLAN[@]})); then
    # shellcheck disable=SC2034  # read by write_nginx_conf
    LEFT_OUT=${missing[*]}
  fi
}

check_ports() {
  local entry name port taken
  local -a wanted_ports=()
  for entry in "${PLAN[@]}"; do
    read -r name _ port _ <<<"$entry"
    if ((port == PORT)); then
      fail "PORT ($PORT) is also the port of $name: set PORT or BASE_PORT to another"
    fi
    is_running "$name" || wanted_ports+=("$port")
  done
  if ((${#wanted_ports[@]})) && taken=$(taken_ports "$INSTANCES_HOST" "${wanted_ports[@]}"); then
    fail "taken by another program: port ${taken//$'\n'/, port }. Set BASE_PORT to the first of ${#PLAN[@]} free ports"
  fi
  if ! is_running nginx && taken_ports "$LISTEN" "$PORT" >/dev/null; then
    fail "taken by another program: port $PORT. Set PORT to a free one"
  fi
}

start_missing() {
  local entry name host port device
  for entry in "${PLAN[@]}"; do
    read -r name host port device <<<"$entry"
    if is_running "$name"; then
      note_running "$name"
      if [[ $RECORD_SETTINGS != "$(instance_settings)" ]]; then
        say "  it was started with other settings, and keeps them until service_stop.sh is run" >&2
      fi
    else
      say "starting $name on $device, port $port"
      STARTED+=("$name")
      start_instance "$name" "$host" "$port" "$device"
    fi
    if wants_workers; then
      start_missing_worker "$name" "$host" "$port" "$device"
    fi
  done
  if is_running nginx; then
    note_running nginx
  else
    say "starting nginx on port $PORT"
    STARTED+=(nginx)
  fi
  start_nginx
}

start_missing_worker() {
  local worker
  worker=$(worker_of "$1")
  if is_running "$worker"; then
    note_running "$worker"
    return
  fi
  say "starting $worker"
  STARTED+=("$worker")
  start_worker "$@"
}

stop_what_was_started() {
  ((${#STARTED[@]})) || return 0
  say "stopping what was started: ${STARTED[*]}" >&2
  stop_workers_then_instances "${STARTED[@]}"
  stop_services "${STARTED[@]}"
  if [[ ${STARTED[-1]} == nginx ]]; then
    stop_nginx
  fi
  [[ -n $(recorded_names) ]] || forget_runtime
}

main "$@"
