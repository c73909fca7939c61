#!/usr/bin/env bash
# Tells how the Redis that start.sh started is doing: status.sh [cache|queue]. Exits with 1 when it does not answer.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

choose_server "$@"
if ! server_is_running "$FOLDER"; then
  say "redis ($NAME) is not running"
  exit 1
fi
if [[ $(server_ask "$FOLDER" PING) != PONG ]]; then
  say "redis ($NAME) is running, but does not answer"
  exit 1
fi
say "redis ($NAME) listens on 127.0.0.1:$(server_port "$FOLDER")"
server_ask "$FOLDER" INFO | grep -E '^(redis_version|uptime_in_seconds|connected_clients|used_memory_human|maxmemory_human|maxmemory_policy|evicted_keys|aof_enabled|aof_last_write_status):'
