#!/usr/bin/env bash
# Stops nginx, all workers and instances: no new requests, the GRACE_S of their start for those in flight, then the rest is killed.
# A training in progress is checkpointed; the same request goes on with it later. Harmless when nothing runs.
# With containers, what service_start.sh --all started is stopped, too, and --remove-data removes the volumes and the
# databases' folders: every model, picture, key and cached file.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/runtime.sh
source "$MANAGE_DIR/lib/runtime.sh"

main() {
  local name
  local -a names
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  [[ ${1:-} =~ ^(--remove-data)?$ ]] || fail "there is no option $1; see --help"
  check_settings
  [[ -z ${1:-} || $ENLIGHT_RUNTIME == docker ]] || fail "--remove-data is for containers (ENLIGHT_RUNTIME=docker)"
  check_runtime
  prepare_data_dir
  take_lock
  refuse_other_runtime
  mapfile -t names < <(recorded_names)
  if ((${#names[@]} == 0)); then
    leave_runtime "$@"
    forget_runtime
    say "nothing is running"
    exit 0
  fi
  say "stopping ${names[*]}"
  # nginx is asked first and waited for last: it goes on passing the answers that the instances still finish.
  leave_nginx
  stop_workers_then_instances "${names[@]}"
  stop_nginx
  stop_services "${names[@]}"
  leave_runtime "$@"
  forget_runtime
  say "stopped"
}

main "$@"
