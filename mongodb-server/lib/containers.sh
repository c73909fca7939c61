# shellcheck shell=bash
# Networks, volumes and containers of the cluster. Sourced after settings.sh, secrets.sh and servers.sh.

LABEL=enlight.mongodb
SPECIFICATION_LABEL=enlight.mongodb.specification

declare -A STATE=() SPECIFICATION=() NETWORKS=() # of each server that has a container

engine() {
  "$DOCKER" "$@" 9>&-
}

container_of() {
  printf '%s-%s' "$MONGODB_NAME" "$1"
}

# Reads what containers there are into STATE, SPECIFICATION and NETWORKS.
read_containers() {
  local listed name state specification networks server
  local -a found=()
  STATE=() SPECIFICATION=() NETWORKS=()
  listed=$(engine ps --all --filter "label=$LABEL=$MONGODB_NAME" --format '{{.Names}}' </dev/null) \
    || fail "$DOCKER does not list its containers"
  for server in $(all_servers); do
    name=$(container_of "$server")
    [[ $'\n'$listed$'\n' != *$'\n'"$name"$'\n'* ]] || found+=("$name")
  done
  ((${#found[@]})) || return 0
  while read -r name state specification networks; do
    server=${name#/} server=${server#"$MONGODB_NAME-"}
    STATE[$server]=$state SPECIFICATION[$server]=$specification NETWORKS[$server]=" $networks "
  done < <(engine container inspect --format \
    "{{.Name}} {{.State.Status}} {{index .Config.Labels \"$SPECIFICATION_LABEL\"}}{{range \$name, \$_ := .NetworkSettings.Networks}} {{\$name}}{{end}}" \
    "${found[@]}" </dev/null)
}

is_up() {
  [[ ${STATE[$1]:-} == running ]]
}

# -- the image

image_id() {
  engine image inspect --format '{{.Id}}' "$MONGODB_IMAGE" 2>/dev/null </dev/null
}

need_image() {
  image_id >/dev/null && return
  say "fetching $MONGODB_IMAGE"
  engine pull "$MONGODB_IMAGE" </dev/null || fail "$MONGODB_IMAGE is not here and cannot be fetched"
}

# run_in_image VOLUME:PATH[:ro] COMMAND…  a container that goes away with the command, as the servers' user
run_in_image() {
  local volume=$1
  shift
  engine run --rm --interactive --network none --user mongodb --cap-drop ALL --security-opt no-new-privileges \
    --label "$LABEL=$MONGODB_NAME" --volume "$volume" --tmpfs /tmp --entrypoint "$1" "$MONGODB_IMAGE" "${@:2}"
}

# The series and release of the image: "8.0 8.0.12".
image_version() {
  local output
  output=$(engine run --rm --network none --user mongodb --tmpfs /data/db --tmpfs /data/configdb --entrypoint mongod \
    "$MONGODB_IMAGE" --version </dev/null) || fail "the mongod of $MONGODB_IMAGE does not run"
  [[ $output =~ v(([0-9]+\.[0-9]+)\.[0-9]+) ]] || fail "the mongod of $MONGODB_IMAGE does not say its version"
  echo "${BASH_REMATCH[2]} ${BASH_REMATCH[1]}"
}

# -- networks and volumes

ensure_networks() {
  engine network inspect "$INNER_NETWORK" >/dev/null 2>&1 </dev/null \
    || engine network create --internal --label "$LABEL=$MONGODB_NAME" "$INNER_NETWORK" >/dev/null </dev/null
  engine network inspect "$EDGE_NETWORK" >/dev/null 2>&1 </dev/null \
    || engine network create --label "$LABEL=$MONGODB_NAME" "$EDGE_NETWORK" >/dev/null </dev/null
}

# The volumes that there are, one a line.
our_volumes() {
  engine volume ls --quiet --filter "label=$LABEL=$MONGODB_NAME" </dev/null || fail "$DOCKER does not list its volumes"
}

ensure_volume() {
  [[ $'\n'$2$'\n' == *$'\n'"$1"$'\n'* ]] || engine volume create --label "$LABEL=$MONGODB_NAME" "$1" >/dev/null </dev/null
}

# mongod takes a keyfile only from its own user and with no right for others, so it goes into a volume: on the host that
# would be the id of a user that the host does not have. In the image /data/configdb is that user's.
install_keyfile() {
  run_in_image "$KEYFILE_VOLUME:/data/configdb" sh -c \
    'cd /data/configdb && rm -f keyfile.new && umask 277 && cat >keyfile.new && mv -f keyfile.new keyfile' \
    <"$(secret_file keyfile)" || fail "the keyfile cannot be written to $KEYFILE_VOLUME"
}

# -- containers

# set_container SERVER IMAGE_ID  fills CONTAINER with the arguments of `create`, the specification among them: a checksum of
# all the others, by which a container of other settings or of another image is known
set_container() {
  local server=$1 port
  set_arguments "$server"
  CONTAINER=(
    --name "$(container_of "$server")" --hostname "$server" --label "$LABEL=$MONGODB_NAME"
    --restart unless-stopped --stop-timeout "$STOP_S"
    --memory "$(memory_of "$server")m" --memory-swap "$(memory_of "$server")m"
    --log-driver json-file --log-opt "max-size=${LOG_MAX_MB}m" --log-opt "max-file=$LOG_FILES"
    --user mongodb --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges
    --volume "$KEYFILE_VOLUME:/data/configdb:ro"
  )
  [[ -z $OPEN_FILES ]] || CONTAINER+=(--ulimit "nofile=$OPEN_FILES:$OPEN_FILES")
  if [[ $server == router* ]]; then
    port=$(outer_port "$server")
    CONTAINER+=(--network "$EDGE_NETWORK" --publish "$LISTEN:$port:$(inner_port "$server")" --tmpfs /data/db)
  else
    CONTAINER+=(--network "$INNER_NETWORK" --network-alias "$server" --volume "$(container_of "$server"):/data/db")
  fi
  WANTED_SPECIFICATION=$(printf '%s\n' "$2" "${CONTAINER[@]}" "${ARGUMENTS[@]}" | sha256sum | cut -c 1-16)
  CONTAINER+=(--label "$SPECIFICATION_LABEL=$WANTED_SPECIFICATION" "$MONGODB_IMAGE" "${ARGUMENTS[@]}")
}

# Whether the server's container is of other settings or of another image than those that hold now.
is_outdated() {
  set_container "$1" "$2"
  [[ ${SPECIFICATION[$1]:-} != "$WANTED_SPECIFICATION" ]]
}

# ensure_server SERVER IMAGE_ID  after read_containers: makes its container if there is none, and starts it
ensure_server() {
  local server=$1 name
  name=$(container_of "$server")
  case ${STATE[$server]:-} in
    running) return ;;
    '')
      set_container "$server" "$2"
      engine create "${CONTAINER[@]}" >/dev/null </dev/null || fail "the container $name cannot be made"
      SPECIFICATION[$server]=$WANTED_SPECIFICATION
      if [[ $server == router* ]]; then
        engine network connect --alias "$server" "$INNER_NETWORK" "$name" </dev/null || fail "$name cannot be joined to the network $INNER_NETWORK"
      fi
      ;;
    *)
      # Stopped, or made by a start that was killed before it had joined the second network.
      if [[ $server == router* && ${NETWORKS[$server]} != *" $INNER_NETWORK "* ]]; then
        engine network connect --alias "$server" "$INNER_NETWORK" "$name" </dev/null || fail "$name cannot be joined to the network $INNER_NETWORK"
      fi
      ;;
  esac
  say "starting $name"
  engine start "$name" >/dev/null </dev/null || fail "$name does not start"
  STATE[$server]=running
}

# stop_servers SERVER…  those that run, side by side
stop_servers() {
  local server
  local -a names=()
  for server in "$@"; do
    [[ ${STATE[$server]:-absent} =~ ^(absent|created|configured|exited|stopped)$ ]] || names+=("$(container_of "$server")")
  done
  ((${#names[@]})) || return 0
  say "stopping ${names[*]}"
  engine stop -t "$STOP_S" "${names[@]}" >/dev/null </dev/null || fail "not all of them have stopped"
  for server in "$@"; do
    [[ -z ${STATE[$server]:-} ]] || STATE[$server]=exited
  done
}
