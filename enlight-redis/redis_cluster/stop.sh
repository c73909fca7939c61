#!/usr/bin/env bash
# Stops the cluster that start.sh started: stop.sh [--remove-data]. What the nodes have is on their disks then, unless
# --remove-data asks for the cluster's folder to be removed, passwords and all.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/containers.sh
source "$REDIS_ROOT/enlight-redis/lib/containers.sh"

main() {
  check_arguments --remove-data "$@"
  check_settings
  take_lock "$LOCK"
  stop_nodes
  if [[ ${1:-} == --remove-data ]]; then
    rm -rf "$FOLDER"
    say "$FOLDER has been removed"
  fi
}

# Replicas first: a replica that sees its master leave takes over, and at the next start the two would have changed places.
stop_nodes() {
  local node
  local -a masters=() replicas=()
  for node in "${NODES[@]}"; do
    if [[ $(server_ask "$FOLDER/$node" ROLE 2>/dev/null | head -n 1) == slave ]]; then
      replicas+=("$node")
    else
      masters+=("$node")
    fi
  done
  for node in "${replicas[@]}" "${masters[@]}"; do
    stop_server "$FOLDER/$node" "$node"
  done
  read_runtime "$FOLDER/node-1"
  [[ $RUNTIME != docker ]] || leave_network "$ENGINE" "$NETWORK"
  say "the cluster has stopped"
}

main "$@"
