#!/usr/bin/env bash
# Stops the cluster: routers first, then shards, then config servers. Containers, data and passwords stay, and start.sh goes
# on with them. Harmless when nothing runs.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/servers.sh
source "$MONGODB_DIR/lib/servers.sh"
# shellcheck source-path=SCRIPTDIR source=lib/containers.sh
source "$MONGODB_DIR/lib/containers.sh"

main() {
  local set
  local -a members=()
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 0)) || fail "there is no option $1; see --help"
  read_settings
  need_engine
  take_lock
  read_containers
  stop_servers "${ROUTERS[@]}"
  for set in "${SHARDS[@]}"; do
    mapfile -t -O "${#members[@]}" members < <(members_of "$set")
  done
  stop_servers "${members[@]}"
  mapfile -t members < <(members_of config)
  stop_servers "${members[@]}"
  say "$MONGODB_NAME is stopped; its data is kept"
}

main "$@"
