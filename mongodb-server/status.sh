#!/usr/bin/env bash
# Prints what runs and what is amiss: members and their states, shards, zones, the balancer. Changes nothing.
# Exit status: 0 all is well, 1 something is not, 3 nothing runs.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"

main() {
  local server status=0
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 0)) || fail "there is no option $1; see --help"
  read_settings
  need_engine
  read_containers
  if ! server=$(any_server); then
    say "$MONGODB_NAME does not run"
    exit 3
  fi
  if [[ -e $CLUSTER_DIR/$RESTORE_MARK ]]; then
    say "A restore was interrupted: run restore.sh $(<"$CLUSTER_DIR/$RESTORE_MARK") again"
    status=1
  fi
  if [[ -e $CLUSTER_DIR/$BALANCER_MARK ]]; then
    say "The balancer is stopped for a backup or an upgrade; if none is at work now, run start.sh"
  fi
  run_script "$server" '{}' status.js || status=1
  exit "$status"
}

main "$@"
