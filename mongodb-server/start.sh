#!/usr/bin/env bash
# Starts the sharded cluster: three config servers, three shards of three members, two routers, each in a container.
# What is there already is left alone, so that starting again is harmless, and goes on where a start was interrupted.
# Keyfile, users and passwords are made at the first start. Ends when the routers serve, or with an error.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"

main() {
  local image volumes set server
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
  volumes=$(our_volumes)
  refuse_lost_secrets "$volumes"
  check_ports
  check_memory
  need_image
  image=$(image_id)
  make_secrets
  ensure_networks
  prepare_volumes "$volumes"

  for server in $(members_of config); do
    ensure_server "$server" "$image"
  done
  ensure_replica_set config
  for set in "${SHARDS[@]}"; do
    for server in $(members_of "$set"); do
      ensure_server "$server" "$image"
    done
  done
  for set in "${SHARDS[@]}"; do
    ensure_replica_set "$set"
  done
  for server in "${ROUTERS[@]}"; do
    ensure_server "$server" "$image"
  done
  ensure_cluster
  start_balancer
  report_outdated "$image"
  say "The cluster serves on $LISTEN:$(outer_port router-1) and $LISTEN:$(outer_port router-2); main-api's MONGO_URL is in"
  say "$(secret_file main-api.url)"
}

check_ports() {
  local server port host=$LISTEN
  [[ $host != 0.0.0.0 ]] || host=127.0.0.1
  [[ $host != '[::]' ]] || host=::1
  host=${host#[} host=${host%]}
  for server in "${ROUTERS[@]}"; do
    port=$(outer_port "$server")
    if ! is_up "$server" && (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
      fail "taken by another program: port $port. Set ROUTER_${server#router-}_PORT to a free one"
    fi
  done
}

# Limits may add up to more than there is, as long as they are not all reached at once: said, not refused.
check_memory() {
  local there needed=$((9 * 10#$SHARD_MEMORY_MB + 3 * 10#$CONFIG_MEMORY_MB + 2 * 10#$ROUTER_MEMORY_MB))
  there=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null) || return 0
  if [[ -n $there ]] && ((needed > there)); then
    say "The servers may take $needed MB together, and this machine has $there: see SHARD_MEMORY_MB" >&2
  fi
}

report_outdated() {
  local server
  for server in $(all_servers); do
    if [[ -n ${SPECIFICATION[$server]:-} ]] && is_outdated "$server" "$1"; then
      say "$(container_of "$server") and maybe others have other settings or another image than now: upgrade.sh changes them, one by one"
      return
    fi
  done
}

main "$@"
