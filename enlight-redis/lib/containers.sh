# shellcheck shell=bash
# Servers as containers (ENLIGHT_RUNTIME=docker). Sourced after server.sh.
#
# The data folder is mounted where it lies, so that one redis.conf is right for a process and for a container. Nothing
# secret is in a container's settings: redis.conf is in that folder, readable by the server only.

readonly REDIS_UID=999 # `redis` in the official image

check_engine() {
  need_command "$DOCKER" "install docker or podman, or set DOCKER"
  "$DOCKER" info >/dev/null 2>&1 || fail "$DOCKER does not answer: is it running, and may you use it?"
  [[ $DATA_DIR != *:* ]] || fail "DATA_DIR must not hold a colon for containers"
  "$DOCKER" image inspect "$REDIS_IMAGE" >/dev/null 2>&1 || "$DOCKER" pull --quiet "$REDIS_IMAGE" >/dev/null \
    || fail "the image $REDIS_IMAGE is not there and cannot be pulled"
}

# ensure_network NAME OPTION…  makes the network where there is none, with options of `docker network create`
ensure_network() {
  local name=$1
  shift
  "$DOCKER" network inspect "$name" >/dev/null 2>&1 \
    || "$DOCKER" network create --label enlight.made-by=enlight-redis "$@" "$name" >/dev/null \
    || fail "the network $name cannot be made"
}

# leave_network ENGINE NAME  removes the network if it was made here and nobody is in it
leave_network() {
  if [[ $("$1" network inspect --format '{{index .Labels "enlight.made-by"}}' "$2" 2>/dev/null) == enlight-redis ]]; then
    "$1" network rm "$2" >/dev/null 2>&1 || true
  fi
}

# launch_container FOLDER NAME MEMORY_MB OPTION…  with further options of `docker run`
launch_container() {
  local folder=$1 name=$2 memory=$3 owner
  shift 3
  owner=$("$DOCKER" container inspect --format '{{index .Config.Labels "enlight.folder"}}' "$name" 2>/dev/null) || owner=''
  if [[ -n $owner && $owner != "$folder" ]]; then
    fail "the container $name belongs to $owner: set CONTAINER_PREFIX to another"
  elif "$DOCKER" container inspect "$name" >/dev/null 2>&1; then
    [[ -n $owner ]] || fail "there is a container $name that was not made here: set CONTAINER_PREFIX to another"
    "$DOCKER" rm --force --volumes "$name" >/dev/null
  fi
  printf 'docker %s %s\n' "$DOCKER" "$name" >"$folder/runtime"
  if [[ $(id -u) == 0 ]]; then
    chown -R "$REDIS_UID:$REDIS_UID" "$folder"
    set -- --user "$REDIS_UID:$REDIS_UID" "$@"
  else
    set -- --user "$(id -u):$(id -g)" "$@"
  fi
  # shellcheck disable=SC2016  # for the container's shell
  "$DOCKER" run --detach --name "$name" --hostname "$name" --label "enlight.folder=$folder" --network "$NETWORK" \
    --volume "$folder:$folder" --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 64 \
    --memory "${memory}m" --restart unless-stopped --log-opt max-size=10m --log-opt max-file=3 "$@" \
    "$REDIS_IMAGE" sh -c 'exec redis-server - <"$0"' "$folder/redis.conf" 9>&- >/dev/null || fail "the container $name does not start"
}

# Memory that a container gets for so much of data, in MB: half as much again for copies while the log is rewritten,
# for followers' and clients' buffers.
container_memory() {
  printf '%s' $(($1 * 3 / 2 + 256))
}
