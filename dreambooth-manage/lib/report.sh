# shellcheck shell=bash
# The table of what runs where. Sourced after runtime_process.sh, workers.sh and nginx.sh.

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

# Prints a line for each name and sets ALL, UP and DOWN to how many there are and were found so.
print_table() {
  local name state pid
  ALL=0 UP=0 DOWN=0
  printf '%-12s %-6s %-8s %-8s %s\n' NAME PORT DEVICE PID STATE
  for name in "$@"; do
    state=$(state_of "$name")
    read_record "$name" || true
    pid=$RECORD_PID
    if [[ $state == down ]]; then
      pid=-
    fi
    printf '%-12s %-6s %-8s %-8s %s\n' "$name" "${RECORD_PORT:--}" "${RECORD_DEVICE:--}" "${pid:--}" "$state"
    ALL=$((ALL + 1))
    case $state in
      up) UP=$((UP + 1)) ;;
      down) DOWN=$((DOWN + 1)) ;;
    esac
  done
}
