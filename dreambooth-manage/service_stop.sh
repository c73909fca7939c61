#!/usr/bin/env bash
# Stops nginx, all workers and instances: no new requests, the GRACE_S of their start for those in flight, then the rest is killed.
# A training in progress is checkpointed; the same request goes on with it later. Harmless when nothing runs.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/processes.sh
source "$MANAGE_DIR/lib/processes.sh"
# shellcheck source-path=SCRIPTDIR source=lib/runtime_process.sh
source "$MANAGE_DIR/lib/runtime_process.sh"
# shellcheck source-path=SCRIPTDIR source=lib/workers.sh
source "$MANAGE_DIR/lib/workers.sh"
# shellcheck source-path=SCRIPTDIR source=lib/nginx.sh
source "$MANAGE_DIR/lib/nginx.sh"

main() {
  local name
  local -a names
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_settings
  prepare_data_dir
  take_lock
  mapfile -t names < <(recorded_names)
  if ((${#names[@]} == 0)); then
    say "nothing is running"
    exit 0
  fi
  say "stopping ${names[*]}"
  # nginx is asked first and waited for last: it goes on passing the answers that the instances still finish.
  if is_running nginx; then
    kill -s QUIT "$RECORD_PID" 2>/dev/null || true
  fi
  local -a workers=() instances=()
  for name in "${names[@]}"; do
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
  stop_nginx
  say "stopped"
}

main "$@"
