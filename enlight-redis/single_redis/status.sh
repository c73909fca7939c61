#!/usr/bin/env bash
# Tells how the Redis that start.sh started is doing: status.sh [cache|queue]. Exits with 1 when it is not there.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

if ! redis_is_running || [[ $(redis_ask PING) != PONG ]]; then
  echo "redis ($name) is not running"
  exit 1
fi
echo "redis ($name) listens on 127.0.0.1:$port"
redis_ask INFO | tr -d '\r' | grep -E '^(redis_version|uptime_in_seconds|connected_clients|used_memory_human|maxmemory_human|maxmemory_policy|evicted_keys|aof_enabled|aof_last_write_status):'
