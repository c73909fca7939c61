# shellcheck shell=bash
# shellcheck disable=SC2034  # ARGUMENTS is read by containers.sh
# The fourteen servers of a cluster and what each is started with. Sourced after settings.sh.
#
# A server's name is its address in the cluster's network, whatever the cluster is called: the replica sets keep the
# addresses of their members in their data, and a backup can be restored under another MONGODB_NAME.

readonly SHARDS=(shard1 shard2 shard3)
readonly SETS=(config "${SHARDS[@]}")
readonly ROUTERS=(router-1 router-2)

members_of() {
  printf '%s\n' "$1-1" "$1-2" "$1-3"
}

# All of them, in the order of their start.
all_servers() {
  local set
  for set in "${SETS[@]}"; do
    members_of "$set"
  done
  printf '%s\n' "${ROUTERS[@]}"
}

# MongoDB's own ports for the three kinds.
inner_port() {
  case $1 in
    router*) echo 27017 ;;
    shard*) echo 27018 ;;
    config*) echo 27019 ;;
  esac
}

outer_port() {
  case $1 in
    router-1) echo "$((10#$ROUTER_1_PORT))" ;;
    router-2) echo "$((10#$ROUTER_2_PORT))" ;;
  esac
}

memory_of() {
  case $1 in
    router*) echo "$ROUTER_MEMORY_MB" ;;
    shard*) echo "$SHARD_MEMORY_MB" ;;
    config*) echo "$CONFIG_MEMORY_MB" ;;
  esac
}

# addresses_of SET  its members, with commas between
addresses_of() {
  local member
  members_of "$1" | while read -r member; do
    printf '%s:%s\n' "$member" "$(inner_port "$member")"
  done | paste -sd ,
}

# set_arguments SERVER  fills ARGUMENTS with the command of its container
set_arguments() {
  local set=${1%-*}
  case $1 in
    router*) ARGUMENTS=(mongos --configdb "config/$(addresses_of config)") ;;
    shard*) ARGUMENTS=(mongod --shardsvr --replSet "$set" --wiredTigerCacheSizeGB "$SHARD_CACHE_GB") ;;
    config*) ARGUMENTS=(mongod --configsvr --replSet "$set" --wiredTigerCacheSizeGB "$CONFIG_CACHE_GB") ;;
  esac
  if [[ $1 != router* ]]; then
    # A config server's default is another folder.
    ARGUMENTS+=(--dbpath /data/db --oplogSize "$OPLOG_MB")
  fi
  # Every address of the container: its own in the cluster's network is not known beforehand.
  ARGUMENTS+=(--port "$(inner_port "$1")" --bind_ip_all --keyFile /data/configdb/keyfile)
}
