#!/usr/bin/env bash
# Starts one Redis in the background: start.sh [cache|queue]. DATA_DIR, REDIS_PORT 6379 and QUEUE_PORT 6380 can
# be set. The password is made at the first start and lies in DATA_DIR/redis/<name>/password; the address is
# printed without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=enlight-redis/single_redis/settings.sh
source enlight-redis/single_redis/settings.sh

if is_running; then
    echo "redis ($name) is running already on port $port"
    exit 0
fi
server=$(redis_program redis-server)
umask 077
mkdir -p "$folder"
if [[ ! -s $password_file ]]; then
    head -c 32 /dev/urandom | base64 | tr -d '/+=\n' >"$password_file.new"
    mv "$password_file.new" "$password_file"
fi

# What differs between machines goes into a file that only its owner reads, not onto the command line.
{
    printf 'include %s\nport %s\ndir %s\n' "$conf" "$port" "$folder"
    printf 'pidfile %s\nlogfile %s\ndaemonize yes\n' "$pid_file" "$folder/redis.log"
    printf 'requirepass %s\n' "$(<"$password_file")"
} >"$folder/redis.conf"
"$server" "$folder/redis.conf"

for _ in {1..100}; do
    if [[ $(redis_ask PING) == PONG ]]; then
        echo "redis ($name) listens on 127.0.0.1:$port; its password is in $password_file"
        exit 0
    fi
    sleep 0.1
done
echo "start.sh: redis ($name) does not answer; see $folder/redis.log" >&2
exit 1
