# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is read by those who source this file
# Services as containers (ENLIGHT_RUNTIME=docker): what processes.sh is for processes. Sourced after settings.sh.
#
#   CONTAINER_PREFIX=enlight   containers are called <prefix>-gpu0, <prefix>-nginx …, and volumes <prefix>-data …
#   NETWORK=enlight            the network they are in
#   SUBNET=10.89.233.0/24      its addresses; each instance has a fixed one, which nginx knows
#   NGINX_IMAGE=nginx:stable
#   INSTANCE_MEMORY_MB         of each instance and its training (default: 3/4 of the machine's, shared by them)
#
# Each has labels: enlight.folder (the DATA_DIR it belongs to), and what the record of a process has. A container without
# the label is somebody else's and left alone.

# shellcheck source-path=SCRIPTDIR source=images.sh
source "$MANAGE_DIR/lib/images.sh"

CONTAINER_PREFIX=${CONTAINER_PREFIX:-enlight}
NETWORK=${NETWORK:-enlight}
SUBNET=${SUBNET:-10.89.233.0/24}
NGINX_IMAGE=${NGINX_IMAGE:-nginx:stable}
INSTANCE_MEMORY_MB=${INSTANCE_MEMORY_MB:-}
DATA_DIR=$(realpath -m "$DATA_DIR") # as the labels have it
RUNS_AS=container
readonly NETWORK_LABEL=enlight.made-by=dreambooth-manage

check_runtime() {
  [[ $CONTAINER_PREFIX =~ ^[A-Za-z0-9][A-Za-z0-9-]{0,30}$ ]] || fail "CONTAINER_PREFIX must be letters, digits and -"
  [[ $NETWORK =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "NETWORK must be a network's name"
  [[ $SUBNET =~ ^([0-9]{1,3}\.){3}0/24$ ]] || fail "SUBNET must be a network of 256 addresses, as 10.89.233.0/24"
  [[ $DATA_DIR != *[:,]* ]] || fail "DATA_DIR must hold no colon and no comma, with containers"
  [[ -z $INSTANCE_MEMORY_MB ]] || need_number INSTANCE_MEMORY_MB 512 4194304
  check_engine
  check_prefix
}

# With another prefix a stop would find nothing of what runs.
check_prefix() {
  local container
  while read -r container; do
    [[ $container == "$CONTAINER_PREFIX"-* ]] \
      || fail "there is a container $container of this DATA_DIR: set CONTAINER_PREFIX as it was when that was started"
  done < <("$DOCKER" ps --all --filter "label=enlight.folder=$DATA_DIR" --format '{{.Names}}')
}

is_podman() {
  [[ $("$DOCKER" --version) == podman* ]]
}

# need_image IMAGE  it is here, or can be had
need_image() {
  "$DOCKER" image inspect "$1" >/dev/null 2>&1 || "$DOCKER" pull --quiet "$1" >/dev/null 2>&1 \
    || fail "the image $1 is not here and cannot be had from a registry"
}

# need_own_image NAME  from a registry only where IMAGE_PREFIX names one: else it would be Docker Hub's, where others may
# have that name, and it would be told our secrets.
need_own_image() {
  local image
  image=$(image_of "$1")
  if "$DOCKER" image inspect "$image" >/dev/null 2>&1; then
    return
  fi
  [[ ${IMAGE_PREFIX%%/*} == *[.:]* || ${IMAGE_PREFIX%%/*} == localhost ]] \
    || fail "the image $image is not here: dev-scripts/build-images.sh makes it"
  need_image "$image"
}

container_of() {
  printf '%s-%s' "$CONTAINER_PREFIX" "$1"
}

# Names of everything that was started for DATA_DIR, sorted.
recorded_names() {
  "$DOCKER" ps --all --filter "label=enlight.folder=$DATA_DIR" --format '{{.Names}}' | sed "s/^$CONTAINER_PREFIX-//" | sort
}

# Reads a container's labels into RECORD_…; RECORD_PID is the beginning of its id.
read_record() {
  local folder state
  RECORD_PID='' RECORD_HOST='' RECORD_PORT='' RECORD_DEVICE='' RECORD_GRACE='' RECORD_SETTINGS='' RECORD_STATE=''
  RECORD_RESTARTS=0
  state=$("$DOCKER" container inspect --format '{{.Id}} {{.State.Status}} {{.RestartCount}} {{index .Config.Labels "enlight.host"}} {{index .Config.Labels "enlight.port"}} {{index .Config.Labels "enlight.device"}} {{index .Config.Labels "enlight.grace"}} {{index .Config.Labels "enlight.settings"}} {{index .Config.Labels "enlight.folder"}}' "$(container_of "$1")" 2>/dev/null) || return 1
  read -r RECORD_PID RECORD_STATE RECORD_RESTARTS RECORD_HOST RECORD_PORT RECORD_DEVICE RECORD_GRACE RECORD_SETTINGS folder <<<"$state"
  RECORD_PID=${RECORD_PID:0:8}
  [[ $folder == "$DATA_DIR" ]]
}

# Whether it runs, or is about to be run again by the engine.
is_running() {
  read_record "$1" && [[ $RECORD_STATE == running || $RECORD_STATE == restarting ]]
}

# Whether it ends as soon as it has been started, again and again; what it did before this call of the script
# (RESTARTS_BEFORE) says nothing.
is_crashing() {
  read_record "$1" && ((RECORD_RESTARTS > 1 + ${RESTARTS_BEFORE[$1]:-0}))
}

ensure_network() {
  local template='{{range .IPAM.Config}}{{.Subnet}}{{end}}' subnet
  if is_podman; then
    template='{{range .Subnets}}{{.Subnet}}{{end}}'
  fi
  if subnet=$("$DOCKER" network inspect --format "$template" "$NETWORK" 2>/dev/null); then
    [[ $subnet == "$SUBNET" ]] \
      || fail "there is a network $NETWORK of $subnet: set SUBNET to that where it has 256 addresses, or NETWORK to another name"
    return
  fi
  # The upper half is for who has no fixed address.
  "$DOCKER" network create --label "$NETWORK_LABEL" --subnet "$SUBNET" --ip-range "${SUBNET%0/24}128/25" "$NETWORK" >/dev/null \
    || fail "the network $NETWORK cannot be made: set SUBNET to addresses that are free"
}

# Removes the network if it was made here and nobody is in it.
leave_network() {
  if [[ $("$DOCKER" network inspect --format '{{index .Labels "enlight.made-by"}}' "$NETWORK" 2>/dev/null) == dreambooth-manage ]]; then
    "$DOCKER" network rm "$NETWORK" >/dev/null 2>&1 || true
  fi
}

ensure_volume() {
  local folder
  if folder=$("$DOCKER" volume inspect --format '{{index .Labels "enlight.folder"}}' "$CONTAINER_PREFIX-$1" 2>/dev/null); then
    [[ $folder == "$DATA_DIR" ]] \
      || fail "there is a volume $CONTAINER_PREFIX-$1 that was not made for this DATA_DIR: set CONTAINER_PREFIX"
    return
  fi
  "$DOCKER" volume create --label "enlight.folder=$DATA_DIR" "$CONTAINER_PREFIX-$1" >/dev/null \
    || fail "the volume $CONTAINER_PREFIX-$1 cannot be made"
}

# Removes what was stored for DATA_DIR.
remove_volumes() {
  local volume
  while read -r volume; do
    "$DOCKER" volume rm "$volume" >/dev/null || fail "the volume $volume cannot be removed"
  done < <("$DOCKER" volume ls --filter "label=enlight.folder=$DATA_DIR" --format '{{.Name}}')
}

# launch NAME HOST PORT DEVICE SETTINGS OPTION… IMAGE COMMAND…  runs a container that is left to itself. Its root cannot
# be written, it has no rights, and its output is rotated.
launch() {
  local name=$1 host=$2 port=$3 device=$4 settings=$5 container folder said
  shift 5
  container=$(container_of "$name")
  if folder=$("$DOCKER" container inspect --format '{{index .Config.Labels "enlight.folder"}}' "$container" 2>/dev/null); then
    [[ $folder == "$DATA_DIR" ]] || fail "there is a container $container that was not made for this DATA_DIR: set CONTAINER_PREFIX"
    "$DOCKER" rm --force --volumes "$container" >/dev/null 2>&1
  fi
  # 9 is the lock, which must not be held by what goes on.
  said=$("$DOCKER" run --detach --name "$container" --hostname "$container" --network "$NETWORK" \
    --label "enlight.folder=$DATA_DIR" --label "enlight.host=$host" --label "enlight.port=$port" \
    --label "enlight.device=$device" --label "enlight.grace=$GRACE_S" --label "enlight.settings=$settings" \
    --restart unless-stopped --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 4096 \
    --log-driver json-file --log-opt max-size=10m --log-opt max-file=3 "$@" 9>&- 2>&1) || fail "the container $container does not start: $said"
}

# stop_containers SECONDS NAME…  asks them to end, side by side, waits so long, kills what is left, and removes them
stop_containers() {
  local seconds=$1 name
  local -a containers=()
  shift
  for name in "$@"; do
    ! read_record "$name" || containers+=("$(container_of "$name")")
  done
  ((${#containers[@]})) || return 0
  "$DOCKER" stop --time "$seconds" "${containers[@]}" >/dev/null 2>&1 9>&- || true
  # --volumes: those without a name, which an image may ask for.
  "$DOCKER" rm --force --volumes "${containers[@]}" >/dev/null 2>&1 9>&- || fail "cannot be removed: ${containers[*]}"
}

# stop_gracefully SECONDS NAME…  the longest grace that any was started with, and so many seconds more
stop_gracefully() {
  local more=$1
  shift
  stop_containers $(($(longest_grace "$@") + more)) "$@"
}

clear_up() {
  "$DOCKER" rm --force --volumes "$(container_of "$1")" >/dev/null 2>&1 || true
}

# show_log NAME LINES  where its output is, and the end of it
show_log() {
  printf 'The end of %s logs %s:\n' "$DOCKER" "$(container_of "$1")"
  "$DOCKER" logs --tail "$2" "$(container_of "$1")" 2>&1
}

# Whether a GET of the address answers 2xx. Without Python, which a machine with containers need not have.
answers() {
  [[ $(http_get "$1" | head -n 1) =~ ^HTTP/1\.[01]\ 2 ]]
}

# taken_ports HOST PORT…  prints those that somebody listens on; the status says whether there are any
taken_ports() {
  local host port taken=1
  host=$(reachable "$1")
  shift
  for port in "$@"; do
    # shellcheck disable=SC2016  # for the inner shell
    if timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$port" 2>/dev/null; then
      printf '%s\n' "$port"
      taken=0
    fi
  done
  return "$taken"
}
