#!/usr/bin/env bash
# Prints what runs where. Exit status: 0 all is up, 1 something is not, 3 nothing is.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../dreambooth-manage/lib/processes.sh
source "$MANAGE_DIR/lib/processes.sh"
# shellcheck source-path=SCRIPTDIR source=lib/services.sh
source "$DEV_DIR/lib/services.sh"

readonly STOPPED=3

main() {
  local services='' instances=''
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_settings
  services_status
  instances_status
  # A half of which nothing is recorded was left out at the start (ONLY, WITHOUT).
  if [[ -z $services && -z $instances ]]; then
    say "nothing is running"
    exit $STOPPED
  elif [[ -z $services || -z $instances || $services == "$instances" ]]; then
    exit "${services:-$instances}"
  fi
  exit 1
}

services_status() {
  local -a names
  mapfile -t names < <(recorded_names)
  ((${#names[@]})) || return 0
  print_services "${names[@]}"
  say ""
  services=1
  if ((UP == ALL)); then
    services=0
  elif ((DOWN == ALL)); then
    services=$STOPPED
  fi
}

instances_status() {
  [[ -n $(RECORDS=pids recorded_names) ]] || return 0
  instances=0
  ENLIGHT_RUNTIME=process "$MANAGE_DIR/service_status.sh" || instances=$?
}

main "$@"
