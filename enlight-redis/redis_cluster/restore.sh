#!/usr/bin/env bash
# Makes a folder of backup.sh the data of a running cluster, which is stopped and started again: restore.sh FOLDER.
# Into a new cluster, too, if its masters have the same slots, which those of start.sh have. What the masters had before
# is set aside in their folders, under before-restore-<time>.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/rdb.sh
source "$REDIS_ROOT/enlight-redis/lib/rdb.sh"
# shellcheck source-path=SCRIPTDIR source=view.sh
source "$CLUSTER_DIR/view.sh"

main() {
  local backup
  case ${1:-} in -*) check_arguments '' "$@" ;; esac
  check_settings
  [[ -n ${1:-} && -d $1 ]] || fail "the argument must be a folder of backup.sh"
  backup=$(realpath "$1")
  take_lock "$LOCK"
  read_view && [[ $(uncovered_slots) == 0 ]] || fail "the cluster is not whole: run start.sh first"
  check_slots "$backup"
  lay_out "$backup"
  exec 9>&- # the two take the lock themselves
  "$CLUSTER_DIR/stop.sh"
  exec "$CLUSTER_DIR/start.sh"
}

check_slots() {
  local here there
  here=$(slots_of_masters | awk '{print $2}' | sort)
  there=$(find "$1" -maxdepth 1 -name '*.rdb' -exec basename {} .rdb \; | sort)
  [[ $here == "$there" ]] || fail "the backup has the slots ${there//$'\n'/, }, the masters have ${here//$'\n'/, }: they must be the same"
}

# start.sh finds them there, however far this comes.
lay_out() {
  local node slots
  rm -rf "$FOLDER/restore.new"
  (umask 077 && mkdir "$FOLDER/restore.new")
  while read -r node slots; do
    check_rdb "$FOLDER/$node" "$1/$slots.rdb"
    cp "$1/$slots.rdb" "$FOLDER/restore.new/$node.rdb" || fail "DATA_DIR cannot be written"
  done < <(slots_of_masters)
  rm -rf "$FOLDER/restore"
  mv "$FOLDER/restore.new" "$FOLDER/restore"
}

main "$@"
