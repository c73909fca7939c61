#!/usr/bin/env bash
# Makes a file of backup.sh the data of a Redis that does not run: restore.sh cache|queue FILE. What it had before is
# set aside in its folder, under before-restore-<time>.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/rdb.sh
source "$REDIS_ROOT/enlight-redis/lib/rdb.sh"

choose_server "$@"
check_settings
[[ -n ${2:-} && -f $2 ]] || fail "the second argument must be a file of backup.sh"
take_lock "$LOCK"
! server_is_running "$FOLDER" || fail "redis ($NAME) is running: run stop.sh first"
check_rdb "$FOLDER" "$2"
mkdir -p "$FOLDER"
put_rdb "$FOLDER" "$2"
say "redis ($NAME) has the data of $2 at its next start"
