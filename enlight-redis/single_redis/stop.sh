#!/usr/bin/env bash
# Stops the Redis that start.sh started: stop.sh [cache|queue]. What it has is on the disk then.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

if ! redis_is_running; then
  echo "redis ($name) is not running"
  exit 0
fi
kill "$(<"$pid_file")"
for _ in {1..200}; do
  redis_is_running || { echo "redis ($name) has stopped"; exit 0; }
  sleep 0.1
done
echo "stop.sh: redis ($name) does not stop; see $folder/redis.log" >&2
exit 1
