#!/usr/bin/env bash
# The containers' test: builds the images for the CPU, starts two instances with the tiny model behind nginx, trains and
# draws through it, kills one in the middle of a drawing, starts it again, replaces both while others draw, stops, and looks
# whether anything is left. Containers, network, volumes and folder are its own and are removed, whatever happened.
# It takes some minutes, and half an hour where the images are built for the first time.
#
#   DOCKER=docker     podman does as well
#   BUILD=yes         no: the images are there (IMAGE_PREFIX, IMAGE_TAG)
#   PORT=23330        the first of three free ports on loopback
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEV_DIR=$ROOT/dev-scripts
MANAGE_DIR=$ROOT/dreambooth-manage

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  exit 0
fi

fail() {
  printf 'test-containers.sh: %s\n' "$*" >&2
  exit 1
}

step() {
  printf '== %s\n' "$*"
}

DOCKER=${DOCKER:-docker}
BUILD=${BUILD:-yes}
PORT=${PORT:-23330}
if ! [[ $PORT =~ ^[0-9]{1,5}$ ]] || ((PORT < 1 || PORT > 65533)); then
  fail "PORT must be a port"
fi
[[ $BUILD =~ ^(yes|no)$ ]] || fail "BUILD must be yes or no"
command -v python3 >/dev/null || fail "python3 is missing: it is the client"
command -v "$DOCKER" >/dev/null || fail "$DOCKER is missing: install docker or podman, or set DOCKER"

# Whatever the caller has set for services of their own must not reach these.
unset TRUST_TENANT_HEADER BASE_MODELS_DIR DRAW_TIMEOUT_S CHECKPOINT_STORE INSTANCES_PER_GPU MAIN_API_URL ENLIGHT_NODE_KEY BASE_MODEL MODEL_STORE_URL INSTANCES_HOST LISTEN
folder=$(mktemp -d)
mkdir "$folder/data folder"
export DOCKER PORT ENLIGHT_RUNTIME=docker DEVICE=cpu INSTANCES=2 BASE_PORT=$((PORT + 1)) DATA_DIR="$folder/data folder"
export CONTAINER_PREFIX=enlight-test-$$ NETWORK=enlight-test-$$ SUBNET=10.89.$((200 + $$ % 50)).0/24
export GRACE_S=20 INSTANCE_MEMORY_MB=4096 HF_HUB_OFFLINE=1 SPARE_TRAINER=off
url=http://127.0.0.1:$PORT
load=''

clean_up() {
  local status=$?
  trap - EXIT
  touch "$folder/stop"
  [[ -z $load ]] || wait "$load" || true
  if ((status)); then
    "$DOCKER" ps --all --filter "name=$CONTAINER_PREFIX" >&2 || true
    printf 'test-containers.sh: failed\n' >&2
  fi
  "$MANAGE_DIR/service_stop.sh" --remove-data >/dev/null || status=1
  rm -rf "$folder"
  exit "$status"
}

client() {
  python3 -IS "$DEV_DIR/lib/container_client.py" "$@"
}

# Names of everything that there is.
present() {
  {
    "$DOCKER" ps --all --format '{{.Names}}'
    "$DOCKER" network ls --format '{{.Name}}'
    "$DOCKER" volume ls --format '{{.Name}}'
  } | sort
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ $BUILD == yes ]]; then
  step "building the images"
  TORCH=cpu "$DEV_DIR/build-images.sh"
fi

present >"$folder/before"
step "starting two instances"
"$MANAGE_DIR/service_start.sh"
"$MANAGE_DIR/service_start.sh" | grep -c 'already running' | grep -qx 3 || fail "a second start is not harmless"

step "training, and drawing with what was trained"
client train "$url" shoe
client draw "$url" shoe

step "killing an instance in the middle of a drawing"
client lose "$url" &
lost=$!
number=$(client busy "http://127.0.0.1:$BASE_PORT" "http://127.0.0.1:$((BASE_PORT + 1))")
"$DOCKER" kill "$CONTAINER_PREFIX-cpu$number" >/dev/null
wait "$lost" || fail "the drawing that was lost was not answered as it should be"
for _ in 1 2 3; do
  client draw "$url" shoe
done
status=0
"$MANAGE_DIR/service_status.sh" || status=$?
((status == 1)) || fail "service_status.sh does not tell of the instance that is gone"
"$MANAGE_DIR/service_start.sh" | grep "starting cpu$number" || fail "the instance that was killed is not started again"

step "replacing both while four clients draw"
python3 -IS "$DEV_DIR/lib/drawing_load.py" "$url" 4 "$folder/stop" >"$folder/drawn" &
load=$!
sleep 2
"$MANAGE_DIR/service_update.sh"
touch "$folder/stop"
wait "$load" || fail "requests failed while instances were replaced: $(<"$folder/drawn")"
load=''
echo "drawn and failed: $(<"$folder/drawn")"
client draw "$url" shoe

step "stopping"
"$MANAGE_DIR/service_stop.sh"
present | grep -x "$CONTAINER_PREFIX-data" >/dev/null || fail "what was trained is gone"
"$MANAGE_DIR/service_stop.sh" --remove-data
if present | comm -13 "$folder/before" - | grep .; then
  fail "that is left"
fi
echo "test-containers.sh: all good"
