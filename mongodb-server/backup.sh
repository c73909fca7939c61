#!/usr/bin/env bash
# Copies the cluster's data while it serves: backup.sh. A folder with the time as its name comes into BACKUP_DIR.
#
# One secondary of each replica set is stopped, all at about the same moment, its files are copied, and it is started again;
# the other two members of each set go on. Each set's copy is one state of that set; those of different sets are some
# seconds apart, with the balancer off, so that no record is in two of them or in none.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"
# shellcheck source-path=SCRIPTDIR source=lib/manifest.sh
source "$MONGODB_DIR/lib/manifest.sh"

CHOSEN=()   # the secondaries that are copied
STOPPING='' # set while these are being stopped

main() {
  local image folder partial release
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 0)) || fail "there is no option $1; see --help"
  read_settings
  need_engine
  take_lock
  refuse_half_restored
  read_containers
  any_server >/dev/null || fail "$MONGODB_NAME does not run: run start.sh first"
  image=$(image_id) || fail "$MONGODB_IMAGE is not here: run start.sh first"
  (umask 077 && mkdir -p "$BACKUP_DIR") || fail "BACKUP_DIR cannot be written"
  rm -rf "$BACKUP_DIR/$MONGODB_NAME"-*.partial # of a backup that was killed

  say "waiting for all members of all replica sets"
  choose_secondaries
  release=$(run_script "$(any_server)" '{}' versions.js) || fail "the servers do not tell their versions"
  trap resume EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  stop_balancer
  # The config servers last: what they know of the shards is then not older than the shards' data.
  STOPPING=1
  stop_servers "${CHOSEN[@]:1}" "${CHOSEN[0]}"
  STOPPING=''

  folder=$BACKUP_DIR/$MONGODB_NAME-$(date -u +%Y%m%dT%H%M%SZ)
  partial=$folder.partial
  (umask 077 && mkdir "$partial") || fail "BACKUP_DIR cannot be written"
  copy_sets "$partial" "$image"
  write_manifest "$partial" "$release" "${CHOSEN[@]}" || fail "the manifest cannot be written: is the disk full?"
  sync
  mv "$partial" "$folder"
  say "The backup is in $folder; the passwords it needs are in $CLUSTER_DIR/secrets"
  members_of_sets "${SETS[@]}" >/dev/null || fail "the members that were copied have not come back: see status.sh"
}

# Fills CHOSEN with a secondary of each set, in their order.
choose_secondaries() {
  local lines set state server
  lines=$(members_of_sets "${SETS[@]}") || fail "a replica set is not whole: see status.sh"
  CHOSEN=()
  while read -r set state server _; do
    if [[ $state == SECONDARY && " ${CHOSEN[*]} " != *" $set-"* ]]; then
      CHOSEN+=("$server")
    fi
  done <<<"$lines"
  ((${#CHOSEN[@]} == ${#SETS[@]})) || fail "a replica set has no secondary"
}

copy_sets() {
  local server file
  for server in "${CHOSEN[@]}"; do
    file=$1/${server%-*}.tar.gz
    say "copying $(container_of "$server")"
    # diagnostic.data is the server's own log of figures. Blocks are compressed already: more than -1 only takes time.
    (umask 077 && run_in_image "$(container_of "$server"):/data/db:ro" tar -C /data/db --exclude ./diagnostic.data -cf - . \
      </dev/null | gzip -1 >"$file") || fail "$(container_of "$server") cannot be copied: is the disk full?"
    ensure_server "$server" "$2"
  done
}

# Whatever has happened: the members run, the balancer as before, and no half backup stays.
resume() {
  local status=$? server
  trap '' INT TERM
  if [[ -n $STOPPING ]]; then
    # One that is being stopped still says that it runs; this waits for its end.
    (stop_servers "${CHOSEN[@]}") || true
  fi
  (read_containers) && read_containers
  for server in "${CHOSEN[@]}"; do
    is_up "$server" || engine start "$(container_of "$server")" >/dev/null </dev/null || status=1
  done
  rm -rf "$BACKUP_DIR/$MONGODB_NAME"-*.partial
  (start_balancer) || status=1
  exit "$status"
}

main "$@"
