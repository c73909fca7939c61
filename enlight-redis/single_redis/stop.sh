#!/usr/bin/env bash
# Stops the Redis that start.sh started: stop.sh [cache|queue] [--remove-data]. What it has is on the disk then, unless
# --remove-data asks for its folder to be removed, passwords and all.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/containers.sh
source "$REDIS_ROOT/enlight-redis/lib/containers.sh"

main() {
  choose_server "$@"
  check_settings
  [[ ${2:-} =~ ^(--remove-data)?$ ]] || fail "the second argument can be --remove-data only"
  take_lock "$LOCK"
  if server_is_running "$FOLDER"; then
    stop_server "$FOLDER" "redis ($NAME)"
    say "redis ($NAME) has stopped"
  else
    say "redis ($NAME) is not running"
    stop_server "$FOLDER" "redis ($NAME)" # the container that ended is removed
  fi
  read_runtime "$FOLDER"
  [[ $RUNTIME != docker ]] || leave_network "$ENGINE" "$NETWORK"
  if [[ ${2:-} == --remove-data ]]; then
    rm -rf "$FOLDER"
    say "$FOLDER has been removed"
  fi
}

main "$@"
