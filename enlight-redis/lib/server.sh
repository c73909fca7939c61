# shellcheck shell=bash
# One Redis server, as a process of this machine or as a container. Sourced after scripts.sh and single_redis/lib.sh.
#
# A server is its folder: redis.conf, password, data, and `runtime`, which tells how it was started last: `process`, or
# `docker ENGINE NAME`. What stops it or asks it reads these, so that it needs no settings but the folder.

# Fills RUNTIME, and for a container ENGINE and CONTAINER. What has a redis.conf and no record was started by dev-scripts.
read_runtime() {
  RUNTIME=$ENLIGHT_RUNTIME ENGINE=$DOCKER CONTAINER=''
  if [[ -s $1/runtime ]]; then
    read -r RUNTIME ENGINE CONTAINER <"$1/runtime"
  elif [[ -e $1/redis.conf ]]; then
    RUNTIME=process
  fi
}

server_is_running() {
  local pid
  read_runtime "$1"
  if [[ $RUNTIME == docker ]]; then
    [[ $("$ENGINE" container inspect --format '{{.State.Running}}' "$CONTAINER" 2>/dev/null) == true ]]
    return
  fi
  # After a crash another process may have the number, another Redis even: ours is the one that works in this folder.
  pid=$(cat "$1/redis.pid" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] \
    && [[ $(cat "/proc/$pid/comm" 2>/dev/null) == redis-server* ]] \
    && [[ $(readlink "/proc/$pid/cwd") == "$1" ]] && ! [[ $(cat "/proc/$pid/stat") =~ \)\ [ZX]\  ]]
}

# The last value that redis.conf gives a name.
conf_value() {
  sed -n "s/^$2 //p" "$1/redis.conf" | tail -n 1
}

server_port() {
  local port
  port=$(conf_value "$1" tls-port)
  printf '%s' "${port:-$(conf_value "$1" port)}"
}

# set_client FOLDER  fills CLIENT with the redis-cli of that server and its options. The password goes by the
# environment, which other users cannot read, into a container too.
set_client() {
  local folder=$1 program
  read_runtime "$folder"
  if [[ $RUNTIME == docker ]]; then
    CLIENT=("$ENGINE" exec --env REDISCLI_AUTH "$CONTAINER" redis-cli)
  else
    program=$(redis_program redis-cli) || return 1
    CLIENT=("$program")
  fi
  CLIENT+=(-h 127.0.0.1 -p "$(server_port "$folder")")
  if [[ -n $(conf_value "$folder" tls-port) ]]; then
    CLIENT+=(--tls --cacert "$folder/tls/ca.crt")
  fi
}

# server_ask FOLDER COMMAND…  prints the answer; nothing where none comes in time
server_ask() {
  local -a CLIENT
  set_client "$1" || return 1
  REDISCLI_AUTH=$(<"$1/password") timeout "${ASK_TIMEOUT_S:-5}" "${CLIENT[@]}" "${@:2}" </dev/null 2>/dev/null | tr -d '\r'
}

# launch_process FOLDER  starts it from its redis.conf, which daemonizes. Redis 7 takes a file's name for a pattern, and
# where it matches nothing, runs with its defaults: so it is given the text.
launch_process() {
  local server
  server=$(redis_program redis-server) || exit 1
  printf 'process\n' >"$1/runtime"
  "$server" - <"$1/redis.conf" 9>&- || fail "redis-server does not start with $1/redis.conf"
}

# await_server FOLDER NAME  returns when it answers, which is when it has read its data
await_server() {
  local deadline=$((SECONDS + READY_TIMEOUT_S)) born=$((SECONDS + 2))
  until [[ $(server_ask "$1" PING) == PONG ]]; do
    # A daemon writes its number a moment after it was started.
    if ((SECONDS >= born)) && ! server_is_running "$1"; then
      show_end_of_log "$1"
      fail "$2 ended while it was starting"
    fi
    if ((SECONDS >= deadline)); then
      show_end_of_log "$1"
      fail "$2 does not answer after $READY_TIMEOUT_S s (READY_TIMEOUT_S)"
    fi
    sleep 0.1
  done
}

show_end_of_log() {
  read_runtime "$1"
  if [[ $RUNTIME == docker ]]; then
    "$ENGINE" logs --tail 5 "$CONTAINER" >&2 || true
  else
    tail -n 5 "$1/redis.log" >&2 || true
  fi
}

# stop_server FOLDER NAME  TERM; it leaves when what it has is on the disk
stop_server() {
  local deadline=$((SECONDS + STOP_TIMEOUT_S))
  read_runtime "$1"
  if [[ $RUNTIME == docker ]]; then
    "$ENGINE" stop --time "$STOP_TIMEOUT_S" "$CONTAINER" >/dev/null 2>&1 || true
    if "$ENGINE" container inspect "$CONTAINER" >/dev/null 2>&1; then
      "$ENGINE" rm --force --volumes "$CONTAINER" >/dev/null || fail "the container $CONTAINER cannot be removed"
    fi
    return
  fi
  server_is_running "$1" || return 0
  kill -s TERM "$(<"$1/redis.pid")"
  while server_is_running "$1"; do
    ((SECONDS < deadline)) || fail "$2 does not stop; see $1/redis.log"
    sleep 0.1
  done
}
