#!/usr/bin/env bash
# Writes what a running Redis has into one file: backup.sh [cache|queue] [FILE]. It is checked before it gets its name;
# without FILE that is DATA_DIR/backups/redis/<name>-<time>.rdb. restore.sh reads it.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/rdb.sh
source "$REDIS_ROOT/enlight-redis/lib/rdb.sh"

choose_server "$@"
file=$(realpath -m "${2:-$DATA_DIR/backups/redis/$NAME-$(date -u +%Y%m%dT%H%M%SZ).rdb}")
server_is_running "$FOLDER" || fail "redis ($NAME) is not running"
[[ ! -e $file ]] || fail "$file is there already"
mkdir -p "$(dirname "$file")" || fail "$file cannot be written"
save_rdb "$FOLDER" "$file"
say "the data of redis ($NAME) is in $file"
