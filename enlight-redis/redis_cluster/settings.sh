# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source it
# What the scripts here read from the environment, with defaults. Sourced first.
#
#   DATA_DIR=<repo>/data      the nodes' folders are DATA_DIR/redis/cluster/node-1 to node-6
#   CLUSTER_PORT=7000         the first of six ports in a row; the nodes talk to each other on those 10000 above
#   REDIS_LISTEN=127.0.0.1    the address that nodes and clients are told to go to; not for containers, which have their own
#   MAXMEMORY_MB=1024         for the data of each node
#   REDIS_TLS=off             on: TLS and nothing else, with the certificates in DATA_DIR/redis/tls, which are made if missing
#   REDIS_SERVER              the redis-server to run (default: the system's, else the one in .venv)
#   READY_TIMEOUT_S=300       how long nodes may read their data, and then find each other
#   STOP_TIMEOUT_S=60         how long a node may write its data at a stop
#   ENLIGHT_RUNTIME=process   docker: each node as a container, with these:
#   DOCKER=docker             podman does as well
#   REDIS_IMAGE=redis:7
#   NETWORK=enlight-redis     the nodes' network, which main-api's container has to be in as well
#   SUBNET=10.77.77.0/24      its addresses; the nodes have .11 to .16, because a node must keep its own
#   CONTAINER_PREFIX=enlight  they are called <prefix>-redis-node-1 to -6
# A cluster that was started is found by its folder: to stop it or to ask it takes DATA_DIR only.

# shellcheck source-path=SCRIPTDIR source=../lib/scripts.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/scripts.sh"
# shellcheck source-path=SCRIPTDIR source=../single_redis/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../single_redis/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/server.sh"

CLUSTER_PORT=${CLUSTER_PORT:-7000}
REDIS_LISTEN=${REDIS_LISTEN:-127.0.0.1}
MAXMEMORY_MB=${MAXMEMORY_MB:-1024}
REDIS_TLS=${REDIS_TLS:-off}
READY_TIMEOUT_S=${READY_TIMEOUT_S:-300}
STOP_TIMEOUT_S=${STOP_TIMEOUT_S:-60}
ENLIGHT_RUNTIME=${ENLIGHT_RUNTIME:-process}
DOCKER=${DOCKER:-docker}
REDIS_IMAGE=${REDIS_IMAGE:-redis:7}
NETWORK=${NETWORK:-enlight-redis}
SUBNET=${SUBNET:-10.77.77.0/24}
CONTAINER_PREFIX=${CONTAINER_PREFIX:-enlight}

CLUSTER_DIR=$REDIS_ROOT/enlight-redis/redis_cluster
readonly NODES=(node-1 node-2 node-3 node-4 node-5 node-6)

check_settings() {
  need_number CLUSTER_PORT 1 55530
  need_number MAXMEMORY_MB 16 1048576
  need_number READY_TIMEOUT_S 1 86400
  need_number STOP_TIMEOUT_S 1 3600
  [[ $REDIS_LISTEN =~ ^[0-9]+(\.[0-9]+){3}$ && $REDIS_LISTEN != 0.0.0.0 ]] \
    || fail "REDIS_LISTEN must be one IPv4 address of this machine: clients are sent there"
  [[ $SUBNET =~ ^[0-9]+\.[0-9]+\.[0-9]+\.0/24$ ]] || fail "SUBNET must be like 10.77.77.0/24"
  [[ $REDIS_TLS =~ ^(on|off)$ ]] || fail "REDIS_TLS must be on or off"
  [[ $ENLIGHT_RUNTIME =~ ^(process|docker)$ ]] || fail "ENLIGHT_RUNTIME must be process or docker"
  [[ $NETWORK =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "NETWORK must be a network's name"
  [[ $CONTAINER_PREFIX =~ ^[A-Za-z0-9][A-Za-z0-9-]*$ ]] || fail "CONTAINER_PREFIX must be letters, digits and -"
  DATA_DIR=$(realpath -m "${DATA_DIR:-$REDIS_ROOT/data}")
  FOLDER=$DATA_DIR/redis/cluster
  LOCK=$DATA_DIR/redis/cluster.lock
}

# check_arguments OPTION [ARGUMENT]…  prints help where it is asked for, and takes no argument but OPTION
check_arguments() {
  local option=$1 argument
  shift
  for argument in "$@"; do
    case $argument in
      -h | --help)
        print_help "$CLUSTER_DIR/settings.sh"
        exit 0
        ;;
      "${option:-?}") ;;
      *) fail "there is no argument $argument; see --help" ;;
    esac
  done
}

# node_ip NODE  where nodes and clients reach it
node_ip() {
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    printf '%s.1%s' "${SUBNET%.0/24}" "${1#node-}"
  else
    printf '%s' "$REDIS_LISTEN"
  fi
}

node_port() {
  printf '%s' $((CLUSTER_PORT + ${1#node-} - 1))
}

running_nodes() {
  local node
  for node in "${NODES[@]}"; do
    server_is_running "$FOLDER/$node" && printf '%s\n' "$node"
  done
  return 0
}
