#!/usr/bin/env bash
# Prints which node is master of what. Exit status: 0 the cluster is whole, 1 it serves every slot, but a node is missing or
# still copies its master's data, 2 there are slots that nobody serves, 3 nothing runs.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=view.sh
source "$CLUSTER_DIR/view.sh"

readonly DEGRADED=1 UNCOVERED=2 STOPPED=3

main() {
  local status=0
  local -a running
  check_arguments '' "$@"
  check_settings
  mapfile -t running < <(running_nodes)
  if ((${#running[@]} == 0)); then
    say "no node is running"
    exit $STOPPED
  fi
  if ! read_view; then
    say "no node answers"
    exit $UNCOVERED
  fi
  print_nodes
  if ((status == UNCOVERED)) || [[ $(uncovered_slots) != 0 ]]; then
    say "there are slots that nobody serves"
    exit $UNCOVERED
  fi
  say "every slot is served"
  exit $status
}

# A line for each node, and in `status` whether one is not as it should be.
print_nodes() {
  local node row id flags master slots role state
  printf '%-8s %-22s %-18s %-16s %-10s %s\n' NODE ADDRESS ROLE SLOTS KEYS STATE
  for node in "${NODES[@]}"; do
    row=$(view_rows | awk -v node="$node" '$1 == node {print; exit}')
    read -r _ id flags master _ slots <<<"${row:-- - - - - -}"
    role=- state=up
    case $flags in
      *master*) role=master ;;
      *slave*) role="replica of $(view_rows | awk -v id="$master" '$2 == id {print $1}')" ;;
    esac
    if ! server_is_running "$FOLDER/$node"; then
      state=down
    elif [[ $id == - ]]; then
      state="not in the cluster"
    elif [[ $flags == *fail* ]]; then
      state=unreachable
    elif [[ $flags == *slave* && $(replication_link "$node") != up ]]; then
      state=copying
    fi
    if [[ $state != up && $slots != - ]]; then
      status=$UNCOVERED # the others may not have noticed yet
    elif [[ $state != up ]] && ((status == 0)); then
      status=$DEGRADED
    fi
    printf '%-8s %-22s %-18s %-16s %-10s %s\n' "$node" "$(address_of "$id")" "$role" "$slots" "$(keys_of "$node")" "$state"
  done
}

address_of() {
  awk -v id="$1" '$1 == id {sub(/@.*/, "", $2); print $2}' <<<"$VIEW" | grep . || printf -- -
}

keys_of() {
  server_ask "$FOLDER/$1" DBSIZE | grep -E '^[0-9]+$' || printf -- -
}

main "$@"
