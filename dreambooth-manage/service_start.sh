#!/usr/bin/env bash
# Starts one dreambooth-api per GPU (one on the CPU where there is none) and nginx in front of them; with MAIN_API_URL
# also a worker beside each, which takes jobs from there.
# What runs already is left alone, so that starting again is harmless and starts what is missing.
# Ends when all are ready, or with an error, what this call started stopped again, when they are not in time.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/processes.sh
source "$MANAGE_DIR/lib/processes.sh"
# shellcheck source-path=SCRIPTDIR source=lib/starting.sh
source "$MANAGE_DIR/lib/starting.sh"
# shellcheck source-path=SCRIPTDIR source=lib/runtime_process.sh
source "$MANAGE_DIR/lib/runtime_process.sh"
# shellcheck source-path=SCRIPTDIR source=lib/workers.sh
source "$MANAGE_DIR/lib/workers.sh"
# shellcheck source-path=SCRIPTDIR source=lib/nginx_instances.sh
source "$MANAGE_DIR/lib/nginx_instances.sh"
# shellcheck source-path=SCRIPTDIR source=lib/nginx.sh
source "$MANAGE_DIR/lib/nginx.sh"
# shellcheck source-path=SCRIPTDIR source=lib/report.sh
source "$MANAGE_DIR/lib/report.sh"

STARTED=() # names, in the order of their start

main() {
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_settings
  check_worker_settings
  find_nginx
  prepare_data_dir
  take_lock
  plan_instances
  refuse_other_plan
  clear_remains
  check_ports
  configure_nginx
  on_failure stop_what_was_started
  start_missing
  await_ready ready_state "${WANTED[@]}"
  finished
  say ""
  print_table "${WANTED[@]}"
  say ""
  say "Listening on http://$(reachable "$LISTEN"):$PORT"
}

# Fills WANTED with the names of the plan, and refuses to mix it with services started for another.
refuse_other_plan() {
  local entry name port
  local -A ports=([nginx]=$PORT)
  WANTED=()
  for entry in "${PLAN[@]}"; do
    read -r name _ port _ <<<"$entry"
    ports[$name]=$port
    WANTED+=("$name")
    if wants_workers; then
      WANTED+=("$(worker_of "$name")")
    fi
  done
  WANTED+=(nginx)
  while read -r name; do
    is_worker "$name" && continue # it is where its instance is
    if is_running "$name" && [[ ${ports[$name]:-} != "$RECORD_PORT" ]]; then
      fail "$name runs on port $RECORD_PORT, which is not what these settings (INSTANCES, BASE_PORT, PORT, DEVICE) ask for: run service_stop.sh first"
    fi
  done < <(recorded_names)
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
  if ((${#wanted_ports[@]})) && ! taken=$("$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" free "$INSTANCES_HOST" "${wanted_ports[@]}"); then
    fail "taken by another program: port ${taken//$'\n'/, port }. Set BASE_PORT to the first of ${#PLAN[@]} free ports"
  fi
  if ! is_running nginx && ! "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" free "$LISTEN" "$PORT" >/dev/null; then
    fail "taken by another program: port $PORT. Set PORT to a free one"
  fi
}

start_missing() {
  local entry name host port device
  for entry in "${PLAN[@]}"; do
    read -r name host port device <<<"$entry"
    if is_running "$name"; then
      say "$name is already running (pid $RECORD_PID)"
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
    say "nginx is already running (pid $RECORD_PID)"
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
    say "$worker is already running (pid $RECORD_PID)"
    return
  fi
  say "starting $worker"
  STARTED+=("$worker")
  start_worker "$@"
}

ready_state() {
  state_of "$1" readyz
}

stop_what_was_started() {
  local name
  local -a workers=() instances=()
  ((${#STARTED[@]})) || return 0
  say "stopping what was started: ${STARTED[*]}" >&2
  for name in "${STARTED[@]}"; do
    if is_worker "$name"; then
      workers+=("$name")
    elif [[ $name != nginx ]]; then
      instances+=("$name")
    fi
  done
  if ((${#workers[@]})); then
    stop_workers "${workers[@]}"
  fi
  if ((${#instances[@]})); then
    stop_instances "${instances[@]}"
  fi
  if [[ ${STARTED[-1]} == nginx ]]; then
    stop_nginx
  fi
}

main "$@"
