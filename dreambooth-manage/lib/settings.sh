# shellcheck shell=bash
# What the three scripts read from the environment, with defaults. Sourced first.
#
#   PORT=2333                  nginx's port
#   LISTEN=127.0.0.1           nginx's address; 0.0.0.0 opens it to the network, and this API asks nobody for a key
#   BASE_PORT=5000             the first instance's port
#   INSTANCES_HOST=127.0.0.1   the instances' address
#   INSTANCES                  how many (default: one per GPU, or one on the CPU)
#   DEVICE                     cpu leaves the GPUs alone
#   DATA_DIR=<repo>/data       pid files, logs, nginx's files, models and trainings
#   READY_TIMEOUT_S=300        how long to wait until all are ready
#   GRACE_S=30                 how long requests in flight may take at a stop
#   MAX_BODY_MB=128            the longest request body
#   TRAIN_TIMEOUT_S=21600      how long nginx waits for the answer to a training
#   DRAW_TIMEOUT_S=600         and to a drawing
#   NGINX                      the nginx to run (default: the system's, else the one in .venv)
#   NGINX_WORKERS=2            its worker processes
#   ENLIGHT_RUNTIME=process    how instances run
#   MAIN_API_URL               where main-api is; with it a worker that takes jobs from there runs beside each instance
#   ENLIGHT_NODE_KEY           this machine's key to it, needed with MAIN_API_URL
#   NODE_NAME                  what this machine's workers are called (default: the host's name)
# Everything else in the environment (BASE_MODEL, MODEL_STORE_URL, CACHE_MAX_GB, LOG_LEVEL …) goes to the instances as it is.

MANAGE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(dirname "$MANAGE_DIR")

PORT=${PORT:-2333}
LISTEN=${LISTEN:-127.0.0.1}
BASE_PORT=${BASE_PORT:-5000}
INSTANCES_HOST=${INSTANCES_HOST:-127.0.0.1}
INSTANCES=${INSTANCES:-}
DEVICE=${DEVICE:-}
READY_TIMEOUT_S=${READY_TIMEOUT_S:-300}
GRACE_S=${GRACE_S:-30}
MAX_BODY_MB=${MAX_BODY_MB:-128}
TRAIN_TIMEOUT_S=${TRAIN_TIMEOUT_S:-21600}
DRAW_TIMEOUT_S=${DRAW_TIMEOUT_S:-600}
NGINX=${NGINX:-}
NGINX_WORKERS=${NGINX_WORKERS:-2}
ENLIGHT_RUNTIME=${ENLIGHT_RUNTIME:-process}
MAIN_API_URL=${MAIN_API_URL:-}
NODE_NAME=${NODE_NAME:-}
RECORDS=pids # the folder in DATA_DIR of the process records
VENV_PYTHON=$ROOT/.venv/bin/python
DATA_DIR=${DATA_DIR:-$ROOT/data}

# nginx follows at most 10 internal redirects for one request, and each instance that is busy costs a training one.
readonly MOST_INSTANCES=11

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
  printf '\nSettings, from the environment:\n'
  sed -n '4,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$MANAGE_DIR/lib/settings.sh"
}

need_number() {
  local name=$1 least=$2 most=$3 value=${!1}
  if ! [[ $value =~ ^[0-9]{1,9}$ ]] || ((10#$value < least || 10#$value > most)); then
    fail "$name must be a whole number from $least to $most"
  fi
}

check_settings() {
  need_number PORT 1 65535
  need_number BASE_PORT 1 65535
  need_number READY_TIMEOUT_S 1 86400
  need_number GRACE_S 0 3600
  need_number MAX_BODY_MB 1 2048
  need_number TRAIN_TIMEOUT_S 1 2592000
  need_number DRAW_TIMEOUT_S 1 86400
  need_number NGINX_WORKERS 1 512
  if [[ -n $INSTANCES ]]; then
    need_number INSTANCES 1 "$MOST_INSTANCES"
  fi
  [[ $LISTEN =~ ^[][A-Za-z0-9.:_-]+$ ]] || fail "LISTEN must be an address"
  [[ $INSTANCES_HOST =~ ^[A-Za-z0-9.:_-]+$ ]] || fail "INSTANCES_HOST must be an address"
  [[ $DEVICE =~ ^(cpu)?$ ]] || fail "DEVICE must be cpu, or unset to use the GPUs there are"
  [[ $ENLIGHT_RUNTIME == process ]] \
    || fail "ENLIGHT_RUNTIME must be process (instances as processes of this machine); there is no other here"
  [[ $NODE_NAME =~ ^([A-Za-z0-9][A-Za-z0-9._-]{0,39})?$ ]] || fail "NODE_NAME must be a name of at most 40 characters"
  [[ -x $VENV_PYTHON ]] || fail "there is no Python environment yet: run dev-scripts/setup.sh first"
  local command
  for command in flock setsid; do
    command -v "$command" >/dev/null || fail "$command is missing: install util-linux"
  done
}

# Makes the data folder's own folders and turns DATA_DIR into an absolute path.
prepare_data_dir() {
  mkdir -p "$DATA_DIR"/{"$RECORDS",logs,nginx} || fail "DATA_DIR cannot be written"
  DATA_DIR=$(cd "$DATA_DIR" && pwd)
}

# One start or stop at a time for a data folder. Whatever is started must not keep descriptor 9: it is the lock.
take_lock() {
  exec 9>"$DATA_DIR/$RECORDS/lock"
  # A start to its end, or a stop: workers and instances have their grace one after the other, and minutes for the rest.
  flock -w "$((READY_TIMEOUT_S + 2 * GRACE_S + 360))" 9 || fail "another start or stop is still at work in DATA_DIR"
}
