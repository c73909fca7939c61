# shellcheck shell=bash
# nginx as a container, on the same template as the process. Sourced after containers.sh and plan.sh.
#
# DATA_DIR/nginx is mounted at /nginx: there is its configuration, as the process has it, and what waits on disk.

# shellcheck source-path=SCRIPTDIR source=nginx_conf.sh
source "$MANAGE_DIR/lib/nginx_conf.sh"

readonly NGINX_MEMORY_MB=512 NGINX_PORT=2333 # inside; PORT is where it is published
readonly NGINX_ROOT_UID=1000                 # whose DATA_DIR/nginx becomes when root runs this script

# Writes the configuration into the folder given, for the user that reads it in the container.
write_runtime_nginx_conf() {
  # What is published decides who reaches it.
  local LISTEN=0.0.0.0 PORT=$NGINX_PORT ERROR_LOG=stderr ACCESS_LOG=/dev/stdout NGINX_USER_DIRECTIVE='' KEEPALIVE_MIN_DIRECTIVE
  KEEPALIVE_MIN_DIRECTIVE=$(keepalive_min_directive "$("$DOCKER" run --rm --network none --entrypoint nginx "$NGINX_IMAGE" -v 2>&1 9>&-)")
  : "$KEEPALIVE_MIN_DIRECTIVE" "$LISTEN" "$PORT" "$ERROR_LOG" "$ACCESS_LOG" "$NGINX_USER_DIRECTIVE" # read by fill_template
  write_nginx_conf "$1"
  if ((EUID == 0)); then
    chown -R "$NGINX_ROOT_UID:$NGINX_ROOT_UID" "$DATA_DIR/nginx"
  fi
}

# Fills NGINX_OPTIONS with how nginx sees its folder, and as whom.
nginx_options() {
  local user
  user=$(id -u):$(id -g)
  NGINX_OPTIONS=(--volume "$DATA_DIR/nginx:/nginx" --read-only --cap-drop ALL --security-opt no-new-privileges --entrypoint nginx)
  if ((EUID == 0)); then
    user=$NGINX_ROOT_UID:$NGINX_ROOT_UID
  elif is_podman; then
    NGINX_OPTIONS+=(--userns keep-id)
  fi
  NGINX_OPTIONS+=(--user "$user")
}

check_nginx_conf() {
  local -a NGINX_OPTIONS
  nginx_options
  "$DOCKER" run --rm --network none "${NGINX_OPTIONS[@]}" "$NGINX_IMAGE" -p /nginx/ -c "/nginx/$1/$NGINX_CONF" -e stderr -t 9>&-
}

launch_nginx() {
  local -a NGINX_OPTIONS
  nginx_options
  # QUIT finishes what is in flight; the engine sends it at a stop.
  launch nginx "$LISTEN" "$PORT" - - \
    --publish "$LISTEN:$PORT:$NGINX_PORT" --memory "${NGINX_MEMORY_MB}m" --stop-signal QUIT --stop-timeout 60 \
    "${NGINX_OPTIONS[@]}" "$NGINX_IMAGE" -p /nginx/ -c "/nginx/conf/$NGINX_CONF" -e stderr -g 'daemon off;'
}

# Not by `docker kill`: the engine takes a container that was sent any signal for one that was stopped by hand, and would
# not start it again after a crash.
reload_nginx() {
  local said
  said=$("$DOCKER" exec "$(container_of nginx)" nginx -p /nginx/ -c "/nginx/conf/$NGINX_CONF" -e stderr -s reload 2>&1 9>&-) \
    || fail "nginx does not read its new configuration: $said"
}

# No new connections; those in flight are finished while the instances finish theirs. In the background, because the
# engine waits for the end, and would start it again if it were only sent a signal.
leave_nginx() {
  if is_running nginx; then
    "$DOCKER" stop --time $((GRACE_S + 60)) "$(container_of nginx)" >/dev/null 2>&1 9>&- &
    NGINX_LEAVES=$!
  fi
}

# To be called when the instances are gone: then none is left that could still get an answer.
stop_nginx() {
  if [[ -n ${NGINX_LEAVES:-} ]]; then
    for _ in {1..25}; do
      is_running nginx || break
      sleep 0.2
    done
    "$DOCKER" kill "$(container_of nginx)" >/dev/null 2>&1 || true
    wait "$NGINX_LEAVES" || true
  fi
  stop_containers 5 nginx
}
