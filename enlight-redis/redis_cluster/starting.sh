# shellcheck shell=bash
# Starts the nodes that do not run. Sourced by start.sh.

check_programs() {
  need_command flock "install util-linux"
  need_command sha256sum "install coreutils"
  need_command awk "install mawk or gawk"
  [[ $REDIS_TLS == off ]] || need_command openssl "install openssl, or set REDIS_TLS=off"
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    check_engine
    return
  fi
  local server
  server=$(redis_program redis-server) && redis_program redis-cli >/dev/null || exit 1
  [[ $REDIS_TLS == off ]] || check_tls_program "$server"
}

# Whether what runs is what these settings ask for, and what does not can be started.
check_nodes() {
  local node port
  for node in "${NODES[@]}"; do
    port=$(node_port "$node")
    if server_is_running "$FOLDER/$node"; then
      [[ $(server_port "$FOLDER/$node") == "$port" && $RUNTIME == "$ENLIGHT_RUNTIME" ]] \
        || fail "$node runs as a $RUNTIME on port $(server_port "$FOLDER/$node"): run stop.sh before you change ENLIGHT_RUNTIME or CLUSTER_PORT"
    elif [[ $ENLIGHT_RUNTIME == process ]]; then
      for port in "$port" $((port + 10000)); do
        ! port_is_taken "$port" \
          || fail "taken by another program: port $port. Set CLUSTER_PORT to the first of six ports that are free, as those 10000 above"
      done
    fi
  done
}

# Passwords, certificates and network: of the cluster, not of a node.
prepare_cluster() {
  local node
  local -a names
  redis_secret "$FOLDER" >/dev/null
  redis_secret "$FOLDER" main-api >/dev/null
  if [[ $REDIS_TLS == on ]]; then
    names=("$(hostname)")
    for node in "${NODES[@]}"; do
      names+=("$(node_ip "$node")" "$CONTAINER_PREFIX-redis-$node")
    done
    ensure_certificates "$DATA_DIR/redis/tls" "${names[@]}"
  fi
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    ensure_network "$NETWORK" --subnet "$SUBNET"
  fi
}

# start_nodes NODE…  those of them that do not run, and waits until all answer
start_nodes() {
  local node
  for node in "$@"; do
    if ! server_is_running "$FOLDER/$node"; then
      say "starting $node"
      write_node_conf "$node"
      launch_node "$node"
    fi
  done
  for node in "$@"; do
    await_server "$FOLDER/$node" "$node"
  done
}

write_node_conf() {
  local node_folder=$FOLDER/$1 port
  local -a lines
  port=$(node_port "$1")
  mkdir -p "$node_folder"
  # One password for all, so that each can follow each.
  ln -sfn ../password "$node_folder/password"
  ln -sfn ../main-api.password "$node_folder/main-api.password"
  lines=(
    "$(<"$CLUSTER_DIR/cluster.conf")"
    "maxmemory ${MAXMEMORY_MB}mb"
    "masterauth $(redis_quoted "$(<"$FOLDER/password")")"
    "cluster-announce-ip $(node_ip "$1")"
  )
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    lines+=("bind 0.0.0.0" "daemonize no" 'logfile ""') # what may reach it is who is in its network
  else
    lines+=("daemonize yes" "logfile $(redis_quoted "$node_folder/redis.log")")
    [[ $REDIS_LISTEN == 127.0.0.1 ]] || lines+=("bind $REDIS_LISTEN 127.0.0.1")
  fi
  if [[ $REDIS_TLS == on ]]; then
    give_certificates "$DATA_DIR/redis/tls" "$node_folder"
    lines+=("$(tls_lines "$node_folder" "$port")" "tls-cluster yes")
  fi
  write_redis_conf "$node_folder" "$REDIS_ROOT/enlight-redis/single_redis/redis.conf" "$port" "${lines[@]}"
}

launch_node() {
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    launch_container "$FOLDER/$1" "$CONTAINER_PREFIX-redis-$1" "$(container_memory "$MAXMEMORY_MB")" --ip "$(node_ip "$1")"
  else
    launch_process "$FOLDER/$1"
  fi
}

# What restore.sh has laid out becomes the masters' data, and they are there before the replicas are: a replica that
# takes over while its master reads would bring the old data back.
finish_restore() {
  local file node
  local -a restored=()
  [[ -d $FOLDER/restore ]] || return 0
  for file in "$FOLDER"/restore/*.rdb; do
    node=$(basename "$file" .rdb)
    restored+=("$node")
    [[ -e $file.put ]] && continue
    ! server_is_running "$FOLDER/$node" || fail "$node still runs, and its data is to be restored: run stop.sh first"
    put_rdb "$FOLDER/$node" "$file"
    : >"$file.put"
  done
  start_nodes "${restored[@]}"
  rm -rf "$FOLDER/restore"
}
