#!/usr/bin/env bash
# Starts a Redis Cluster on this machine: six nodes, three masters with a replica each. Ends when every slot is served and
# every replica has its master's data. Nodes that run are left alone, those that do not are started, and one that comes
# without its data becomes a replica, so that this can be run again at any point. The passwords are made at the first
# start: `password` in the cluster's folder is the operator's, `main-api.password` that of the user main-api.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/tls.sh
source "$REDIS_ROOT/enlight-redis/lib/tls.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/containers.sh
source "$REDIS_ROOT/enlight-redis/lib/containers.sh"
# shellcheck source-path=SCRIPTDIR source=../lib/rdb.sh
source "$REDIS_ROOT/enlight-redis/lib/rdb.sh"
# shellcheck source-path=SCRIPTDIR source=view.sh
source "$CLUSTER_DIR/view.sh"
# shellcheck source-path=SCRIPTDIR source=forming.sh
source "$CLUSTER_DIR/forming.sh"
# shellcheck source-path=SCRIPTDIR source=starting.sh
source "$CLUSTER_DIR/starting.sh"

main() {
  check_arguments '' "$@"
  check_settings
  check_programs
  take_lock "$LOCK"
  check_nodes
  prepare_cluster
  finish_restore
  start_cluster
  say "the cluster is up; its passwords are in $FOLDER/password and $FOLDER/main-api.password"
  say ""
  exec "$CLUSTER_DIR/status.sh" 9>&-
}

main "$@"
