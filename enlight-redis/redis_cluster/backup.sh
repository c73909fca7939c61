#!/usr/bin/env bash
# Writes what a running cluster has into a new folder, a file for each master, named after its slots: backup.sh [FOLDER].
# Without FOLDER that is DATA_DIR/backups/redis/cluster-<time>. It gets its name when all files are there and checked.
# Each master is as of its own moment, some seconds from the others. restore.sh reads it.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/rdb.sh
source "$REDIS_ROOT/enlight-redis/lib/rdb.sh"
# shellcheck source-path=SCRIPTDIR source=view.sh
source "$CLUSTER_DIR/view.sh"

main() {
  local target node slots
  case ${1:-} in -*) check_arguments '' "$@" ;; esac
  check_settings
  target=$(realpath -m "${1:-$DATA_DIR/backups/redis/cluster-$(date -u +%Y%m%dT%H%M%SZ)}")
  [[ ! -e $target ]] || fail "$target is there already"
  read_view || fail "the cluster is not running"
  [[ $(uncovered_slots) == 0 ]] || fail "there are slots that nobody serves: a backup would lack their keys"
  rm -rf "$target.partial"
  (umask 077 && mkdir -p "$target.partial") || fail "$target cannot be written"
  while read -r node slots; do
    save_rdb "$FOLDER/$node" "$target.partial/$slots.rdb"
  done < <(slots_of_masters)
  mv "$target.partial" "$target"
  say "the data of the cluster is in $target"
}

main "$@"
