# shellcheck shell=bash
# The table of what runs where. Sourced by runtime.sh, last.

# up, starting or down; of every service with /readyz
instance_state() {
  if ! is_running "$1"; then
    printf 'down'
  elif [[ $RECORD_PORT == - ]]; then
    printf 'up' # it takes its work from a queue and opens no port
  elif answers "http://$(reachable "$RECORD_HOST"):$RECORD_PORT/readyz"; then
    printf 'up'
  else
    printf 'starting'
  fi
}

# state_of NAME [nginx's health address]
state_of() {
  if [[ $1 == nginx ]]; then
    nginx_state "${2:-}"
  elif is_worker "$1"; then
    worker_state "$1"
  else
    instance_state "$1"
  fi
}

# A container that ends is started again by the engine, and again.
ready_state() {
  local state
  state=$(state_of "$1" readyz)
  if [[ $state != up && $ENLIGHT_RUNTIME == docker ]] && is_crashing "$1"; then
    state=down
  fi
  printf '%s' "$state"
}

# Prints a line for each name and sets ALL, UP and DOWN to how many there are and were found so.
print_table() {
  local name state pid
  ALL=0 UP=0 DOWN=0
  printf '%-12s %-6s %-8s %-9s %s\n' NAME PORT DEVICE "${RUNS_AS^^}" STATE
  for name in "$@"; do
    state=$(state_of "$name")
    read_record "$name" || true
    pid=$RECORD_PID
    if [[ $state == down ]]; then
      pid=-
    fi
    printf '%-12s %-6s %-8s %-9s %s\n' "$name" "${RECORD_PORT:--}" "${RECORD_DEVICE:--}" "${pid:--}" "$state"
    ALL=$((ALL + 1))
    case $state in
      up) UP=$((UP + 1)) ;;
      down) DOWN=$((DOWN + 1)) ;;
    esac
  done
}
