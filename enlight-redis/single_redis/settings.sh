# Sourced by start.sh, stop.sh and status.sh: which server is meant, and where its files are.
# shellcheck shell=bash

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# `cache` (redis.conf) or `queue` (queue.conf): the scripts' first argument.
name=${1:-cache}
case $name in
  cache) conf=redis.conf port=${REDIS_PORT:-6379} ;;
  queue) conf=queue.conf port=${BROKER_PORT:-6380} ;;
  *)
    echo "$(basename "$0"): the first argument must be cache or queue" >&2
    exit 2
    ;;
esac
conf=$REDIS_ROOT/enlight-redis/single_redis/$conf
folder=$(realpath -m "${DATA_DIR:-$REDIS_ROOT/data}")/redis/$name
password_file=$folder/password
pid_file=$folder/redis.pid

# Asks the server: redis_ask PING. The password goes by the environment, which other users cannot read.
redis_ask() {
  local client
  client=$(redis_program redis-cli) || return 1
  REDISCLI_AUTH=$(<"$password_file") timeout 5 "$client" -h 127.0.0.1 -p "$port" "$@" 2>/dev/null
}

# Whether the server that start.sh started is running: the process is that of the file, and is a Redis.
redis_is_running() {
  [[ -f $pid_file ]] && [[ -r /proc/$(<"$pid_file")/comm ]] && [[ $(<"/proc/$(<"$pid_file")/comm") == redis-server* ]]
}
