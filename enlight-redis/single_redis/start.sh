#!/usr/bin/env bash
# Starts one Redis in the background: start.sh [cache|queue]. Ends when it answers; one that runs already is left alone.
# The passwords are made at the first start: `password` in the server's folder is the operator's, `main-api.password`
# that of the user main-api, who may do what main-api does and no more.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/tls.sh
source "$REDIS_ROOT/enlight-redis/lib/tls.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/containers.sh
source "$REDIS_ROOT/enlight-redis/lib/containers.sh"

main() {
  choose_server "$@"
  check_settings
  check_programs
  take_lock "$LOCK"
  if server_is_running "$FOLDER"; then
    await_server "$FOLDER" "redis ($NAME)"
    say "redis ($NAME) is running already on port $(server_port "$FOLDER")"
    exit 0
  fi
  [[ ! -e $FOLDER/appendonly.aof.new ]] || fail "restore.sh was interrupted: run it again"
  if port_is_taken "$PORT"; then
    fail "taken by another program: port $PORT. Set $PORT_VARIABLE to a free one"
  fi
  write_conf
  launch
  await_server "$FOLDER" "redis ($NAME)"
  say "redis ($NAME) listens on $REDIS_LISTEN:$PORT; its passwords are in $FOLDER/password and $FOLDER/main-api.password"
}

check_programs() {
  need_command flock "install util-linux"
  need_command sha256sum "install coreutils"
  [[ $REDIS_TLS == off ]] || need_command openssl "install openssl, or set REDIS_TLS=off"
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    check_engine
    return
  fi
  local server
  server=$(redis_program redis-server) && redis_program redis-cli >/dev/null || exit 1
  [[ $REDIS_TLS == off ]] || check_tls_program "$server"
}

write_conf() {
  local tls=$DATA_DIR/redis/tls
  local -a lines=()
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    lines+=("bind 0.0.0.0" "daemonize no" 'logfile ""') # what may reach it is what is published
  else
    lines+=("$(bind_line)" "daemonize yes" "logfile $(redis_quoted "$FOLDER/redis.log")")
  fi
  [[ -z $MAXMEMORY_MB ]] || lines+=("maxmemory ${MAXMEMORY_MB}mb")
  if [[ $REDIS_TLS == on ]]; then
    ensure_certificates "$tls" "$REDIS_LISTEN" "$(hostname)" "$CONTAINER_PREFIX-redis-$NAME"
    give_certificates "$tls" "$FOLDER"
    lines+=("$(tls_lines "$FOLDER" "$PORT")")
  fi
  write_redis_conf "$FOLDER" "$CONF" "$PORT" "${lines[@]}"
}

bind_line() {
  case $REDIS_LISTEN in
    127.0.0.1 | 0.0.0.0) printf 'bind %s' "$REDIS_LISTEN" ;;
    *) printf 'bind %s 127.0.0.1' "$REDIS_LISTEN" ;;
  esac
}

launch() {
  if [[ $ENLIGHT_RUNTIME == docker ]]; then
    ensure_network "$NETWORK"
    launch_container "$FOLDER" "$CONTAINER_PREFIX-redis-$NAME" "$(container_memory "${MAXMEMORY_MB:-$DEFAULT_MB}")" \
      --publish "$REDIS_LISTEN:$PORT:$PORT"
  else
    launch_process "$FOLDER"
  fi
}

main "$@"
