#!/usr/bin/env bash
# Gives every server the image and the settings that hold now, one after the other, while the cluster serves: upgrade.sh.
#
# The balancer is off meanwhile. Config servers go first, then shard after shard, then the routers; in a replica set the
# secondaries, then the primary, which steps down before. The next server is touched when all members are well again. A
# server that has them already is left alone: interrupted, the same command goes on.
# upgrade.sh --finish lets the cluster use what is new in a release series; there is no way back to the former one then.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/settings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/cluster.sh
source "$MONGODB_DIR/lib/cluster.sh"
# shellcheck source-path=SCRIPTDIR source=lib/manifest.sh
source "$MONGODB_DIR/lib/manifest.sh"

main() {
  local image set
  if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    print_help
    exit 0
  fi
  (($# == 0)) || { (($# == 1)) && [[ $1 == --finish ]]; } || fail "there is no option $1; see --help"
  read_settings
  need_engine
  take_lock
  refuse_half_restored
  read_containers
  any_server >/dev/null || fail "$MONGODB_NAME does not run: run start.sh first"
  if [[ ${1:-} == --finish ]]; then
    finish
    return
  fi
  # A tag moves on with each patch; an image that was brought here by hand is taken as it is.
  engine pull "$MONGODB_IMAGE" </dev/null || { image_id >/dev/null && say "$MONGODB_IMAGE cannot be fetched: the one that is here is taken"; } \
    || fail "$MONGODB_IMAGE is not here and cannot be fetched"
  image=$(image_id)
  check_series
  stop_balancer
  for set in "${SETS[@]}"; do
    roll_set "$set" "$image"
  done
  roll_routers "$image"
  start_balancer
  say "all servers have $MONGODB_IMAGE and these settings"
}

# MongoDB goes up one major release at a time, never down, and only when the last one was finished.
check_series() {
  local versions series release running feature
  read -r series release < <(image_version)
  versions=$(run_script "$(any_server)" '{}' versions.js) || fail "the servers do not tell their versions: run start.sh first"
  feature=$(feature_version "$versions")
  [[ $feature != mixed ]] || fail "the feature compatibility versions differ: run upgrade.sh --finish with the former MONGODB_IMAGE"
  while read -r _ _ running; do
    [[ $(printf '%s\n%s\n' "$running" "$release" | sort -V | tail -n 1) == "$release" ]] \
      || fail "a server runs $running, and $MONGODB_IMAGE is $release: there is no way back by this script"
  done < <(grep '^release ' <<<"$versions" | grep -v ' unknown$')
  ((${series%.*} <= ${feature%.*} + 1)) \
    || fail "from $feature to $release is more than one major release: go by those between, each with --finish"
  say "the cluster is at $feature, $MONGODB_IMAGE is $release"
}

roll_set() {
  local set=$1 image=$2 server lines primary next
  # What a former run has removed or stopped, and not brought back yet.
  for server in $(members_of "$set"); do
    ensure_server "$server" "$image"
  done
  while true; do
    next=''
    for server in $(members_of "$set"); do
      if is_outdated "$server" "$image"; then
        next+=" $server"
      fi
    done
    [[ -n $next ]] || break
    say "waiting for all members of $set"
    lines=$(members_of_sets "$set") || fail "$set is not whole, so no member of it is taken away: see status.sh"
    primary=$(awk '$2 == "PRIMARY" { print $3 }' <<<"$lines")
    for server in $next; do
      [[ $server != "$primary" ]] || continue
      replace_server "$server" "$image"
      continue 2
    done
    say "$primary steps down"
    run_script "$primary" "{\"set\":\"$set\"}" step_down.js || fail "$primary does not step down"
  done
  members_of_sets "$set" >/dev/null || fail "$set is not whole: see status.sh"
  say "$set is up to date"
}

roll_routers() {
  local server
  for server in "${ROUTERS[@]}"; do
    ensure_server "$server" "$1"
    if is_outdated "$server" "$1"; then
      replace_server "$server" "$1"
      # Its clients have gone to the other one, which is not to be stopped before this one serves.
      run_script "$server" "{\"router\":\"$server\"}" router.js || { show_logs "$server"; fail "$server does not serve"; }
    fi
  done
  say "the routers are up to date"
}

replace_server() {
  local server=$1 name
  name=$(container_of "$server")
  say "replacing $name"
  stop_servers "$server"
  engine rm "$name" >/dev/null </dev/null || fail "$name cannot be removed"
  unset "STATE[$server]"
  ensure_server "$server" "$2"
}

finish() {
  local versions series release
  need_image
  read -r series release < <(image_version)
  versions=$(run_script "$(any_server)" '{}' versions.js) || fail "the servers do not tell their versions: run start.sh first"
  if grep '^release ' <<<"$versions" | grep -qv " $series\.[0-9]*\$"; then
    fail "not every server runs $series ($MONGODB_IMAGE is $release): run upgrade.sh first"
  fi
  if [[ $(feature_version "$versions") == "$series" ]]; then
    say "the cluster is at $series already"
    return
  fi
  run_script "$(any_server)" "{\"series\":\"$series\"}" feature_version.js || fail "the cluster does not go to $series"
  say "the cluster is at $series"
}

main "$@"
