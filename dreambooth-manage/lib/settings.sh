# shellcheck shell=bash
# What the scripts read from the environment, with defaults. Sourced first.
# DATA_DIR/service.env, where there is one, sets what the environment does not (service.env.example).
#
#   PORT=2333                  nginx's port
#   LISTEN=127.0.0.1           nginx's address; 0.0.0.0 opens it to the network, and this API asks nobody for a key
#   BASE_PORT=5000             the first instance's port
#   INSTANCES_HOST=127.0.0.1   the instances' address
#   INSTANCES                  how many (default: INSTANCES_PER_GPU for each GPU, or one on the CPU)
#   INSTANCES_PER_GPU=1        2: two drawings, each with a base model of its own, fit a card of 24 GB
#   DEVICE                     cpu leaves the GPUs alone
#   DATA_DIR=<repo>/data       pid files, logs, nginx's files, models and trainings
#   READY_TIMEOUT_S=300        how long to wait until all are ready
#   GRACE_S=30                 how long requests in flight may take at a stop
#   MAX_BODY_MB=128            the longest request body
#   TRAIN_TIMEOUT_S=21600      how long nginx waits for the answer to a training
#   DRAW_TIMEOUT_S=600         and to a drawing
#   NGINX                      the nginx to run (default: the system's, else the one in .venv)
#   NGINX_WORKERS=2            its worker processes
#   ENLIGHT_RUNTIME=process    docker: each service is a container (their settings are below)
#   MAIN_API_URL               where main-api is; with it a worker that takes jobs from there runs beside each instance
#   ENLIGHT_NODE_KEY           this machine's key to it, needed with MAIN_API_URL
#   NODE_NAME                  what this machine's workers are called (default: the host's name)
# Everything else in the environment (BASE_MODEL, MODEL_STORE_URL, CACHE_MAX_GB, LOG_LEVEL …) goes to the instances as it is.

MANAGE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=$(dirname "$MANAGE_DIR")
DATA_DIR=${DATA_DIR:-$ROOT/data}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

say() {
  printf '%s\n' "$*"
}

# NAME=value lines, taken literally: no quotes, no expansion. What the environment has wins.
read_env_file() {
  local line
  [[ -f $1 ]] || return 0
  [[ -r $1 ]] || fail "$1 cannot be read"
  while IFS= read -r line || [[ -n $line ]]; do
    [[ ! $line =~ ^[[:space:]]*(#|$) ]] || continue
    [[ $line =~ ^([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || fail "$1 has a line that is not NAME=value"
    [[ -v ${BASH_REMATCH[1]} ]] || export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"
  done <"$1"
}

read_env_file "$DATA_DIR/service.env"

PORT=${PORT:-2333}
LISTEN=${LISTEN:-127.0.0.1}
BASE_PORT=${BASE_PORT:-5000}
INSTANCES_HOST=${INSTANCES_HOST:-127.0.0.1}
INSTANCES=${INSTANCES:-}
INSTANCES_PER_GPU=${INSTANCES_PER_GPU:-1}
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

# nginx follows at most 10 internal redirects for one request, and each instance that is busy costs a training one.
readonly MOST_INSTANCES=11

# The script's own header comment is its help.
print_help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  printf '\nSettings, from the environment:\n'
  sed -n '3,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$MANAGE_DIR/lib/settings.sh"
  printf '\nThose of containers:\n'
  sed -n '/^#   [A-Z]/s/^# \{0,1\}//p' "$MANAGE_DIR"/lib/{images,containers,services_docker}.sh
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
  need_number INSTANCES_PER_GPU 1 "$MOST_INSTANCES"
  if [[ -n $INSTANCES ]]; then
    need_number INSTANCES 1 "$MOST_INSTANCES"
  fi
  [[ $LISTEN =~ ^[][A-Za-z0-9.:_-]+$ ]] || fail "LISTEN must be an address"
  [[ $INSTANCES_HOST =~ ^[A-Za-z0-9.:_-]+$ ]] || fail "INSTANCES_HOST must be an address"
  [[ $DEVICE =~ ^(cpu)?$ ]] || fail "DEVICE must be cpu, or unset to use the GPUs there are"
  [[ $ENLIGHT_RUNTIME =~ ^(process|docker)$ ]] \
    || fail "ENLIGHT_RUNTIME must be process (of this machine) or docker (containers)"
  [[ $NODE_NAME =~ ^([A-Za-z0-9][A-Za-z0-9._-]{0,39})?$ ]] || fail "NODE_NAME must be a name of at most 40 characters"
  [[ $ENLIGHT_RUNTIME == docker || -x $VENV_PYTHON ]] || fail "there is no Python environment yet: run dev-scripts/setup.sh first"
  local command
  for command in flock setsid; do
    command -v "$command" >/dev/null || fail "$command is missing: install util-linux"
  done
}

# longest_grace NAME…  prints the longest that any was started with, or GRACE_S where that is longer. Of either form's
# records.
longest_grace() {
  local name grace=$GRACE_S
  for name in "$@"; do
    if read_record "$name" && [[ $RECORD_GRACE =~ ^[0-9]{1,4}$ ]] && ((RECORD_GRACE > grace)); then
      grace=$RECORD_GRACE
    fi
  done
  printf '%s' "$grace"
}

is_loopback() {
  [[ $1 =~ ^(127\.[0-9.]+|localhost|\[?::1\]?)$ ]]
}

# An address to reach what listens on the one given.
reachable() {
  case $1 in
    0.0.0.0 | '*') printf 127.0.0.1 ;;
    '[::]') printf '[::1]' ;;
    *) printf '%s' "$1" ;;
  esac
}

# http_get URL  the whole answer; nothing when there is none within five seconds
http_get() {
  local address=${1#http://} place
  place=${address%%/*}
  # shellcheck disable=SC2016  # for the inner shell
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf "GET /%s HTTP/1.0\r\nHost: %s\r\n\r\n" "$3" "$1" >&3 && cat <&3' \
    - "$(tr -d "[]" <<<"${place%:*}")" "${place##*:}" "${address#*/}" 2>/dev/null || true
}

# Makes the data folder's own folders and turns DATA_DIR into an absolute path.
prepare_data_dir() {
  mkdir -p "$DATA_DIR"/{"$RECORDS",logs,nginx} || fail "DATA_DIR cannot be written"
  DATA_DIR=$(cd "$DATA_DIR" && pwd)
}

# How what runs for DATA_DIR was started: neither form sees what the other has started.
note_runtime() {
  printf '%s\n' "$ENLIGHT_RUNTIME" >"$DATA_DIR/$RECORDS/runtime"
}

forget_runtime() {
  rm -f "$DATA_DIR/$RECORDS/runtime"
}

runtime_in_use() {
  cat "$DATA_DIR/$RECORDS/runtime" 2>/dev/null || true
}

refuse_other_runtime() {
  local other
  other=$(runtime_in_use)
  [[ -z $other || $other == "$ENLIGHT_RUNTIME" ]] \
    || fail "what runs for this DATA_DIR was started with ENLIGHT_RUNTIME=$other: set that, or stop it first"
}

# One start, stop or update at a time for a data folder. Whatever is started must not keep descriptor 9: it is the lock.
take_lock() {
  exec 9>"$DATA_DIR/$RECORDS/lock"
  # A start to its end, or a stop: workers and instances have their grace one after the other, and minutes for the rest.
  flock -w "$((READY_TIMEOUT_S + 2 * GRACE_S + 360))" 9 || fail "another start, stop or update is still at work in DATA_DIR"
}
