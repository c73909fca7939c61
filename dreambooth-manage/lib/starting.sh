# shellcheck shell=bash
# What every start does, whatever it starts: clear up, wait, and undo itself when it fails. Sourced after settings.sh and
# what says how services run (runtime.sh, or processes.sh).

# What the engine had started again before, by name: see is_crashing.
# shellcheck disable=SC2034  # read by containers.sh
declare -A RESTARTS_BEFORE=()

# note_running NAME  to be called when its record was just read
note_running() {
  say "$1 is already running ($RUNS_AS $RECORD_PID)"
  # shellcheck disable=SC2034
  RESTARTS_BEFORE[$1]=${RECORD_RESTARTS:-0}
}

clear_remains() {
  local name
  while read -r name; do
    if ! is_running "$name"; then
      say "$name is recorded but not running: clearing up after it"
      clear_up "$name"
    fi
  done < <(recorded_names)
}

# await_ready STATE_FUNCTION NAME…  until the function says up of each; ends the script when one is down, or not up in time
await_ready() {
  local state_function=$1 name began=$SECONDS told=$SECONDS
  shift
  for name in "$@"; do
    while true; do
      case $("$state_function" "$name") in
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
  printf '%s %s. ' "$1" "$2" >&2
  show_log "$1" 30 | sed '2,$s/^/    /' >&2
  exit 1
}

# on_failure FUNCTION  has it called when the script ends, by Ctrl-C or for another reason, before `finished`
on_failure() {
  ON_FAILURE=$1
  trap undo_start EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

finished() {
  trap - EXIT
}

undo_start() {
  local status=$?
  trap - EXIT
  trap '' INT TERM # a second Ctrl-C must not leave half of them running
  "$ON_FAILURE"
  exit "$status"
}
