#!/usr/bin/env bash
# Stops everything on this machine: workers first, which give their jobs back, then nginx and the instances, main-api
# and its background process, the image services, and the data stores last. Harmless when nothing runs.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../dreambooth-manage/lib/processes.sh
source "$MANAGE_DIR/lib/processes.sh"
# shellcheck source-path=SCRIPTDIR source=lib/services.sh
source "$DEV_DIR/lib/services.sh"

main() {
  local -a names
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_settings
  prepare_data_dir
  take_lock
  if [[ $(RECORDS=pids runtime_in_use) != docker ]]; then # containers are not what start.sh started
    ENLIGHT_RUNTIME=process DATA_DIR="$DATA_DIR" "$MANAGE_DIR/service_stop.sh" 9>&-
  fi
  mapfile -t names < <(recorded_names)
  if ((${#names[@]})); then
    stop_services "${names[@]}"
    say "stopped"
  fi
}

main "$@"
