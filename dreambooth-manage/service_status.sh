#!/usr/bin/env bash
# Prints what runs where. Exit status: 0 all is up, 1 something is not, 3 nothing is.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/runtime.sh
source "$MANAGE_DIR/lib/runtime.sh"

main() {
  local -a names
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  check_settings
  check_runtime
  refuse_other_runtime
  if [[ ! -d $DATA_DIR/$RECORDS ]]; then
    say "nothing is running"
    exit 3
  fi
  mapfile -t names < <(recorded_names)
  if ((${#names[@]} == 0)); then
    say "nothing is running"
    exit 3
  fi
  print_table "${names[@]}"
  if ((UP == ALL)); then
    exit 0
  elif ((DOWN == ALL)); then
    exit 3
  fi
  exit 1
}

main "$@"
