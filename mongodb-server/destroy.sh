#!/usr/bin/env bash
# Removes the cluster with all its data: containers, networks and volumes. Asks for its name first. Backups stay, and so do
# the passwords, which a backup cannot be opened without.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"

main() {
  local volumes volume network
  local -a containers=()
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 0)) || fail "there is no option $1; see --help"
  read_settings
  need_engine
  take_lock
  volumes=$(our_volumes)
  mapfile -t containers < <(engine ps --all --quiet --filter "label=$LABEL=$MONGODB_NAME" </dev/null)
  confirm_name "This removes all data of $MONGODB_NAME from this machine."
  if ((${#containers[@]})); then
    engine rm --force "${containers[@]}" >/dev/null </dev/null
  fi
  for volume in $volumes; do
    engine volume rm "$volume" >/dev/null </dev/null
  done
  for network in "$EDGE_NETWORK" "$INNER_NETWORK"; do
    if engine network inspect "$network" >/dev/null 2>&1 </dev/null; then
      engine network rm "$network" >/dev/null </dev/null
    fi
  done
  rm -f "$CLUSTER_DIR/$BALANCER_MARK" "$CLUSTER_DIR/$RESTORE_MARK"
  say "$MONGODB_NAME is removed; $CLUSTER_DIR has its passwords and backups still"
}

main "$@"
