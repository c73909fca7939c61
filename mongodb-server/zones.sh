#!/usr/bin/env bash
# Gives main-api's collections the shards that ZONES says. start.sh does so as well; run this after main-api has started for
# the first time, which is what shards its collections, and after a change of ZONES. Data moves in the background.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"

main() {
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 0)) || fail "there is no option $1; see --help"
  read_settings
  need_engine
  take_lock
  refuse_half_restored
  read_containers
  any_server >/dev/null || fail "$MONGODB_NAME does not run: run start.sh first"
  run_script "$(any_server)" '{}' zones.js || fail "the zones are not as ZONES says"
  say "the zones are as ZONES says"
}

main "$@"
