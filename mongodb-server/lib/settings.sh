# shellcheck shell=bash
# shellcheck disable=SC2034  # what read_settings sets is read by those who source this file
# What the scripts are told: ../mongodb.env.example has every setting with its reason. Sourced first.

MONGODB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

say() {
  printf '%s\n' "$*"
}

# The script's own header comment is its help.
print_help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  printf '\nSettings, in %s or the environment:\n\n' "$MONGODB_DIR/mongodb.env"
  cat "$MONGODB_DIR/mongodb.env.example"
}

readonly SETTINGS=(
  MONGODB_NAME MONGODB_IMAGE DOCKER LISTEN ROUTER_1_PORT ROUTER_2_PORT DATA_DIR BACKUP_DIR MONGO_DATABASE ZONES
  SHARD_MEMORY_MB SHARD_CACHE_GB CONFIG_MEMORY_MB CONFIG_CACHE_GB ROUTER_MEMORY_MB OPLOG_MB OPEN_FILES LOG_MAX_MB LOG_FILES
  WAIT_S STOP_S MAX_LAG_S
)

# Reads NAME=value lines; what is set already, by the environment, stays.
read_settings_file() {
  local file=$1 line name number=0
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
    name=${line%%=*}
    [[ $line == *=* && " ${SETTINGS[*]} " == *" $name "* ]] || fail "line $number of $file is not one of the settings"
    [[ -n ${!name+set} ]] || printf -v "$name" '%s' "${line#*=}"
  done <"$file"
}

read_settings() {
  local file=${MONGODB_ENV:-$MONGODB_DIR/mongodb.env}
  if [[ -e $file || -n ${MONGODB_ENV:-} ]]; then
    [[ -r $file && ! -d $file ]] || fail "MONGODB_ENV names no file that can be read"
    read_settings_file "$file"
  fi
  read_settings_file "$MONGODB_DIR/mongodb.env.example"
  DATA_DIR=${DATA_DIR:-$(dirname "$MONGODB_DIR")/data}
  check_settings
  DATA_DIR=$(realpath -m -- "$DATA_DIR")
  CLUSTER_DIR=$DATA_DIR/$MONGODB_NAME
  BACKUP_DIR=$(realpath -m -- "${BACKUP_DIR:-$CLUSTER_DIR/backups}")
  INNER_NETWORK=$MONGODB_NAME           # the servers among themselves; nothing gets in or out
  EDGE_NETWORK=$MONGODB_NAME-edge # where the routers' ports are published
  KEYFILE_VOLUME=$MONGODB_NAME-keyfile
}

need_number() {
  local name=$1 least=$2 most=$3 value=${!1}
  if ! [[ $value =~ ^[0-9]{1,9}$ ]] || ((10#$value < least || 10#$value > most)); then
    fail "$name must be a whole number from $least to $most"
  fi
}

# need_cache CACHE MEMORY  the cache, in GB, from mongod's least to half of the memory, in MB
need_cache() {
  local cache=${!1} memory=${!2} whole fraction megabytes
  [[ $cache =~ ^([0-9]{1,5})(\.([0-9]{1,3}))?$ ]] || fail "$1 must be a number of GB, as in 0.5"
  whole=${BASH_REMATCH[1]} fraction=${BASH_REMATCH[3]:-0}00
  megabytes=$((10#$whole * 1024 + 10#${fraction:0:3} * 1024 / 1000))
  ((megabytes >= 256)) || fail "$1 must be 0.25 GB or more: mongod takes no less"
  ((megabytes * 2 <= memory)) || fail "$1 must be at most half of $2: the rest is for connections and sorting"
}

check_settings() {
  local name
  [[ $MONGODB_NAME =~ ^[a-z0-9][a-z0-9_-]{0,39}$ ]] || fail "MONGODB_NAME must be a name of at most 40 of a-z 0-9 _ -"
  [[ $MONGODB_IMAGE =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,255}$ ]] || fail "MONGODB_IMAGE must be the name of an image"
  [[ $MONGO_DATABASE =~ ^[A-Za-z0-9_-]{1,38}$ ]] || fail "MONGO_DATABASE must be a name of at most 38 of A-Z a-z 0-9 _ -"
  [[ ! $MONGO_DATABASE =~ ^(admin|config|local)$ ]] || fail "MONGO_DATABASE must not be one of MongoDB's own"
  [[ $LISTEN =~ ^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:]+\])$ ]] || fail "LISTEN must be an address, one of IPv6 in [brackets]"
  need_number ROUTER_1_PORT 1 65535
  need_number ROUTER_2_PORT 1 65535
  ((10#$ROUTER_1_PORT != 10#$ROUTER_2_PORT)) || fail "ROUTER_1_PORT and ROUTER_2_PORT must differ"
  for name in SHARD_MEMORY_MB CONFIG_MEMORY_MB ROUTER_MEMORY_MB; do
    need_number "$name" 256 1048576
  done
  need_cache SHARD_CACHE_GB SHARD_MEMORY_MB
  need_cache CONFIG_CACHE_GB CONFIG_MEMORY_MB
  need_number OPLOG_MB 990 1048576
  [[ -z $OPEN_FILES ]] || need_number OPEN_FILES 1024 1048576
  need_number LOG_MAX_MB 1 10240
  need_number LOG_FILES 1 100
  need_number WAIT_S 1 86400
  need_number STOP_S 10 3600
  need_number MAX_LAG_S 1 3600
  check_zones
}

check_zones() {
  local zone shard shards rest=0
  local -a entries
  read -ra entries <<<"$ZONES"
  for zone in "${entries[@]}"; do
    [[ $zone =~ ^[a-z][a-z0-9_-]{0,30}:([a-z0-9,]+):(\*|[A-Za-z0-9_,]+)$ ]] || fail "ZONES must be of the form zone:shards:collections"
    shards=${BASH_REMATCH[1]}
    [[ ${BASH_REMATCH[2]} != '*' ]] || rest=$((rest + 1))
    for shard in ${shards//,/ }; do
      [[ $shard =~ ^shard[1-3]$ ]] || fail "ZONES must name shards out of shard1, shard2 and shard3"
    done
  done
  ((rest <= 1)) || fail "ZONES must have * in one zone at most"
}

# Whether the container engine is there and answers, before anything is changed.
need_engine() {
  local command
  for command in "$DOCKER" flock sha256sum gzip realpath; do
    command -v "$command" >/dev/null || fail "$command is missing"
  done
  "$DOCKER" version >/dev/null 2>&1 </dev/null || fail "$DOCKER does not answer: is it running, and may this user use it?"
}

# One script at a time for a cluster. What the containers' engine starts must not keep descriptor 9: it is the lock.
take_lock() {
  (umask 077 && mkdir -p "$CLUSTER_DIR") || fail "DATA_DIR cannot be written"
  exec 9>"$CLUSTER_DIR/lock"
  flock -n 9 || fail "another of these scripts is at work on $MONGODB_NAME"
}
