#!/usr/bin/env bash
# Starts one Redis in the background: start.sh [cache|queue]. DATA_DIR, REDIS_PORT 6379 (the cache's) and BROKER_PORT
# 6380 (the queue's) can be set. The password is made at the first start and lies in DATA_DIR/redis/<name>/password.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

if redis_is_running; then
  echo "redis ($name) is running already on port $port"
  exit 0
fi
server=$(redis_program redis-server)
write_redis_conf "$folder" "$conf" "$port" "daemonize yes" "logfile $(redis_quoted "$folder/redis.log")"
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
