# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by the scripts that source it
# What the scripts here read from the environment, with defaults. Sourced first.
#
#   DATA_DIR=<repo>/data      the server's folder is DATA_DIR/redis/cache or DATA_DIR/redis/queue
#   REDIS_PORT=6379           the cache's port
#   BROKER_PORT=6380          the queue's
#   REDIS_LISTEN=127.0.0.1    the address to answer on, beside loopback; 0.0.0.0 for every one
#   MAXMEMORY_MB              for the data (default: as redis.conf and queue.conf say, 4096 and 1024)
#   REDIS_TLS=off             on: TLS and nothing else, with the certificates in DATA_DIR/redis/tls, which are made if missing
#   REDIS_SERVER              the redis-server to run (default: the system's, else the one in .venv)
#   READY_TIMEOUT_S=300       how long it may read its data at a start
#   STOP_TIMEOUT_S=60         how long it may write its data at a stop
#   ENLIGHT_RUNTIME=process   docker: as a container, with these:
#   DOCKER=docker             podman does as well
#   REDIS_IMAGE=redis:7
#   NETWORK=enlight           the network in which other containers find it under its name
#   CONTAINER_PREFIX=enlight  it is called <prefix>-redis-cache or <prefix>-redis-queue
# A server that was started is found by its folder: to stop it or to ask it takes DATA_DIR only.

# shellcheck source-path=SCRIPTDIR source=../lib/scripts.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/scripts.sh"
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/server.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/server.sh"

REDIS_PORT=${REDIS_PORT:-6379}
BROKER_PORT=${BROKER_PORT:-6380}
REDIS_LISTEN=${REDIS_LISTEN:-127.0.0.1}
MAXMEMORY_MB=${MAXMEMORY_MB:-}
REDIS_TLS=${REDIS_TLS:-off}
READY_TIMEOUT_S=${READY_TIMEOUT_S:-300}
STOP_TIMEOUT_S=${STOP_TIMEOUT_S:-60}
ENLIGHT_RUNTIME=${ENLIGHT_RUNTIME:-process}
DOCKER=${DOCKER:-docker}
REDIS_IMAGE=${REDIS_IMAGE:-redis:7}
NETWORK=${NETWORK:-enlight}
CONTAINER_PREFIX=${CONTAINER_PREFIX:-enlight}

# choose_server NAME  fills NAME, CONF, PORT, PORT_VARIABLE, DEFAULT_MB and FOLDER; and leaves where help is asked for
choose_server() {
  NAME=${1:-cache}
  case $NAME in
    cache) CONF=redis.conf PORT_VARIABLE=REDIS_PORT DEFAULT_MB=4096 ;;
    queue) CONF=queue.conf PORT_VARIABLE=BROKER_PORT DEFAULT_MB=1024 ;;
    -h | --help)
      print_help "$REDIS_ROOT/enlight-redis/single_redis/settings.sh"
      exit 0
      ;;
    *)
      echo "$(basename "$0"): the first argument must be cache or queue" >&2
      exit 2
      ;;
  esac
  CONF=$REDIS_ROOT/enlight-redis/single_redis/$CONF
  PORT=${!PORT_VARIABLE}
  DATA_DIR=$(realpath -m "${DATA_DIR:-$REDIS_ROOT/data}")
  FOLDER=$DATA_DIR/redis/$NAME
  LOCK=$DATA_DIR/redis/$NAME.lock
}

check_settings() {
  need_number "$PORT_VARIABLE" 1 65535
  need_number READY_TIMEOUT_S 1 86400
  need_number STOP_TIMEOUT_S 1 3600
  [[ -z $MAXMEMORY_MB ]] || need_number MAXMEMORY_MB 16 1048576
  [[ $REDIS_LISTEN =~ ^[0-9A-Fa-f.:]+$ ]] || fail "REDIS_LISTEN must be an address"
  [[ $REDIS_TLS =~ ^(on|off)$ ]] || fail "REDIS_TLS must be on or off"
  [[ $ENLIGHT_RUNTIME =~ ^(process|docker)$ ]] || fail "ENLIGHT_RUNTIME must be process or docker"
  [[ $NETWORK =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "NETWORK must be a network's name"
  [[ $CONTAINER_PREFIX =~ ^[A-Za-z0-9][A-Za-z0-9-]*$ ]] || fail "CONTAINER_PREFIX must be letters, digits and -"
}
