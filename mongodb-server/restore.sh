#!/usr/bin/env bash
# Puts a backup in the place of the cluster's data: restore.sh FOLDER. Asks for the cluster's name first if there is data.
#
# Everything is checked before anything is changed. All servers are stopped, each member of a replica set gets the copy of
# that set, and start.sh starts the cluster again. Interrupted, the same command does it from the beginning.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"
# shellcheck source-path=SCRIPTDIR source=lib/manifest.sh
source "$MONGODB_DIR/lib/manifest.sh"

main() {
  local folder volumes set server
  local -a servers
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 1)) || fail "it takes the folder of a backup; see --help"
  folder=$(realpath -- "$1") || fail "there is no $1"
  read_settings
  need_engine
  take_lock
  read_containers
  say "checking $folder"
  check_backup "$folder"
  need_image
  check_fits "$folder/manifest.json"
  volumes=$(our_volumes)
  if [[ -n $volumes && ! -e $CLUSTER_DIR/$RESTORE_MARK ]]; then
    confirm_name "This puts the backup in the place of all data that $MONGODB_NAME has."
  fi

  mapfile -t servers < <(all_servers)
  stop_servers "${servers[@]}"
  # start.sh makes them of the image that fits the data.
  for server in "${!STATE[@]}"; do
    engine rm "$(container_of "$server")" >/dev/null </dev/null || fail "$(container_of "$server") cannot be removed"
  done
  STATE=()
  make_secrets
  ensure_networks
  prepare_volumes "$volumes"
  printf '%s\n' "$folder" >"$CLUSTER_DIR/$RESTORE_MARK" # from here on the data is not whole
  for set in "${SETS[@]}"; do
    for server in $(members_of "$set"); do
      say "restoring $(container_of "$server")"
      gzip -dc "$folder/$set.tar.gz" | run_in_image "$(container_of "$server"):/data/db" sh -c \
        'find /data/db -mindepth 1 -delete && tar -C /data/db -xf -' \
        || fail "$(container_of "$server") is not restored: run restore.sh again"
    done
  done
  if [[ $(manifest_value "$folder/manifest.json" balancer) == full ]]; then
    : >"$CLUSTER_DIR/$BALANCER_MARK" # start.sh starts it
  else
    rm -f "$CLUSTER_DIR/$BALANCER_MARK"
  fi
  sync
  rm -f "$CLUSTER_DIR/$RESTORE_MARK"
  exec 9>&-
  exec "$MONGODB_DIR/start.sh"
}

# Whether this image can read the data, and these passwords can open it.
check_fits() {
  local series release file
  read -r series release < <(image_version)
  [[ $(manifest_value "$1" release) == "$series".* ]] \
    || fail "the backup is of MongoDB $(manifest_value "$1" release), and $MONGODB_IMAGE is $release: set MONGODB_IMAGE"
  for file in keyfile root.password backup.password main-api.password; do
    [[ -s $(secret_file "$file") ]] || fail "$(secret_file "$file") is missing: it is not in the backup; bring it here first"
  done
  [[ $(password_of root | sha256sum | cut -d ' ' -f 1) == "$(manifest_value "$1" root_password_sha256)" ]] \
    || fail "the backup was made with another root.password than $(secret_file root.password)"
}

main "$@"
