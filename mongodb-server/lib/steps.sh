# shellcheck shell=bash
# What several scripts do with a cluster. Sourced after mongosh.sh.

# Files of CLUSTER_DIR that outlive a script which is killed.
BALANCER_MARK=balancer-stopped # a script has stopped the balancer, and it is to run again
RESTORE_MARK=restoring         # the volumes hold a part of a backup, which the file names

# show_logs SERVER  why a step failed is often there
show_logs() {
  printf 'The last lines of %s:\n' "$(container_of "$1")" >&2
  engine logs --tail 15 "$(container_of "$1")" >&2 </dev/null || true
}

refuse_half_restored() {
  [[ ! -e $CLUSTER_DIR/$RESTORE_MARK ]] \
    || fail "a restore was interrupted, and the data is not whole: run restore.sh $(<"$CLUSTER_DIR/$RESTORE_MARK") again"
}

# Data without the keyfile and the passwords that it was made with cannot be opened by anybody.
refuse_lost_secrets() {
  local file
  [[ -n $1 ]] || return 0
  for file in keyfile root.password; do
    [[ -s $(secret_file "$file") ]] \
      || fail "there is data of $MONGODB_NAME, but $(secret_file "$file") is missing: set DATA_DIR to where it was made"
  done
}

# prepare_volumes VOLUMES  those that are missing, and the keyfile before a container is made that wants it
prepare_volumes() {
  local server
  ensure_volume "$KEYFILE_VOLUME" "$1"
  for server in $(all_servers); do
    [[ $server == router* ]] || ensure_volume "$(container_of "$server")" "$1"
  done
  for server in $(all_servers); do
    if [[ -z ${STATE[$server]:-} ]]; then
      install_keyfile
      return
    fi
  done
}

# ensure_replica_set SET  its members run: makes the set of them, and its users
ensure_replica_set() {
  local primary
  say "waiting for the replica set $1"
  primary=$(run_script "$1-1" "{\"set\":\"$1\"}" replica_set.js) || { show_logs "$1-1"; fail "$1 is no replica set yet"; }
  primary=${primary##*$'\n'} primary=${primary%:*}
  run_script "$primary" "{\"set\":\"$1\"}" users.js || fail "the users of $1 cannot be made"
}

# Both routers run: the shards, the users and the zones of the cluster.
ensure_cluster() {
  say "waiting for the routers"
  run_script router-1 '{}' users.js sharding.js zones.js || { show_logs router-1; fail "the routers do not serve the cluster yet"; }
}

# -- the balancer, off while members come and go

stop_balancer() {
  local mode
  if [[ ! -e $CLUSTER_DIR/$BALANCER_MARK ]]; then
    mode=$(run_script "$(any_server)" '{"balancer":"look"}' balancer.js) || fail "the balancer's state is not known"
    # Stopped by somebody who will start it.
    [[ $mode != off ]] || return 0
    # Before it is stopped: killed in between, this costs the start of a balancer that runs.
    : >"$CLUSTER_DIR/$BALANCER_MARK"
  fi
  run_script "$(any_server)" '{"balancer":"stop"}' balancer.js >/dev/null || fail "the balancer does not stop"
}

# start_balancer  if one of these scripts has stopped it
start_balancer() {
  [[ -e $CLUSTER_DIR/$BALANCER_MARK ]] || return 0
  run_script "$(any_server)" '{"balancer":"start"}' balancer.js >/dev/null || fail "the balancer does not start: run start.sh"
  rm -f "$CLUSTER_DIR/$BALANCER_MARK"
}

# members_of_sets SET…  waits until those sets are whole; prints their members as js/members.js says
members_of_sets() {
  local list
  list=$(IFS=,; echo "$*")
  run_script "$(any_server)" "{\"sets\":$(json_list "$list")}" members.js
}

# confirm_name WHAT  asks for the cluster's name before its data is removed
confirm_name() {
  local typed
  printf '%s Type the name of the cluster (%s) to go on: ' "$1" "$MONGODB_NAME" >&2
  IFS= read -r typed || true
  [[ $typed == "$MONGODB_NAME" ]] || fail "that is not its name: nothing was changed"
}
