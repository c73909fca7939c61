# shellcheck shell=bash
# Six nodes that answer become a cluster: three masters with a replica each. Sourced after view.sh.
#
# `formed` in the cluster's folder says that this was done once. From then on nodes keep what they know, and nothing here
# resets them; before it there is no data, and what was left half-done is begun again.

readonly CREATE_TIMEOUT_S=60 # it takes some seconds

start_cluster() {
  if [[ -e $FOLDER/formed ]]; then
    replace_blank_nodes
    start_nodes "${NODES[@]}"
  else
    start_nodes "${NODES[@]}"
    if ! is_whole; then
      reset_nodes
      create_cluster
    fi
    : >"$FOLDER/formed"
  fi
  await_whole
}

# Whether every slot is served and every replica has its master's data.
is_whole() {
  local node flags slots masters=0 replicas=0
  read_view && [[ $(uncovered_slots) == 0 ]] || return 1
  while read -r node _ flags _ _ slots; do
    [[ $flags != *fail* ]] || continue
    if [[ $flags == *master* && $slots != - ]]; then
      masters=$((masters + 1))
    elif [[ $flags == *slave* && $(replication_link "$node") == up ]]; then
      replicas=$((replicas + 1))
    fi
  done < <(view_rows)
  ((masters == 3 && replicas == 3))
}

await_whole() {
  local deadline=$((SECONDS + READY_TIMEOUT_S))
  until is_whole; do
    ((SECONDS < deadline)) || fail "the cluster is not whole after $READY_TIMEOUT_S s (READY_TIMEOUT_S): see status.sh and $FOLDER/node-*/redis.log"
    sleep 0.2
  done
}

# What an interrupted creation left is forgotten: redis-cli creates clusters from nodes that know nobody.
reset_nodes() {
  local node
  for node in "${NODES[@]}"; do
    [[ $(server_ask "$FOLDER/$node" CLUSTER RESET HARD) == OK ]] \
      || fail "$node holds keys, but is in no cluster that is whole: save its data, and begin anew with stop.sh --remove-data"
  done
}

create_cluster() {
  local node log=$FOLDER/create.log
  local -a addresses=() CLIENT
  for node in "${NODES[@]}"; do
    addresses+=("$(node_ip "$node"):$(node_port "$node")")
  done
  say "creating the cluster"
  set_client "$FOLDER/node-1"
  # With six nodes the first three become masters, each of the others a replica of one. It waits for ever for a node that
  # is gone. If this script alone is killed it keeps the lock meanwhile, so that the next does not come in between.
  REDISCLI_AUTH=$(<"$FOLDER/password") timeout --foreground "$CREATE_TIMEOUT_S" "${CLIENT[@]}" --cluster create \
    "${addresses[@]}" --cluster-replicas 1 --cluster-yes </dev/null >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    fail "redis-cli does not create the cluster; see $log"
  }
}

# A node that lost its folder comes back knowing nobody. It becomes a replica of the master that has fewest.
replace_blank_nodes() {
  local node
  local -a blank=() others=()
  for node in "${NODES[@]}"; do
    if knows_nobody "$node"; then
      blank+=("$node")
    else
      others+=("$node")
    fi
  done
  ((${#blank[@]})) || return 0
  ((${#others[@]})) || fail "no node knows the others any more: begin anew with stop.sh --remove-data"
  start_nodes "${others[@]}"
  for node in "${blank[@]}"; do
    say "$node has lost its data: it joins the cluster anew"
    retire_former "$node"
    start_nodes "$node"
    join "$node"
  done
}

knows_nobody() {
  local known=$FOLDER/$1/nodes.conf
  [[ ! -s $known ]] || (($(grep -vc '^vars' "$known") <= 1))
}

# Before a blank node is started, what was at its address must be no master any more: its replica would take the blank
# one for it, and copy the nothing that is there. It is told to take over, and the others to forget who is gone.
retire_former() {
  local node id replicas deadline=$((SECONDS + READY_TIMEOUT_S))
  ! server_is_running "$FOLDER/$1" || return 0 # started by a start that was interrupted afterwards
  while read_view && read -r id < <(former_master "$1"); do
    replicas=$(comm -12 <(view_rows | awk -v id="$id" '$4 == id {print $1}') <(running_nodes))
    if [[ -z $replicas ]] || ((SECONDS >= deadline)); then
      fail "$1 was a master, and no replica takes its place: its keys are gone. See README.md on what survives what"
    fi
    for node in $replicas; do
      server_ask "$FOLDER/$node" CLUSTER FAILOVER FORCE >/dev/null || true
    done
    sleep 0.5
  done
  for id in $(view_rows | awk -v node="$1" '$1 == node {print $2}'); do
    for node in $(running_nodes); do
      server_ask "$FOLDER/$node" CLUSTER FORGET "$id" >/dev/null || true
    done
  done
}

# The id of the master that VIEW has at a node's address.
former_master() {
  view_rows | awk -v node="$1" '$1 == node && $6 != "-" {print $2}'
}

join() {
  local deadline=$((SECONDS + READY_TIMEOUT_S)) master
  read_view || fail "no node answers"
  server_ask "$FOLDER/$1" CLUSTER MEET "$(node_ip "$VIEW_OF")" "$(server_port "$FOLDER/$VIEW_OF")" >/dev/null
  until read_view && master=$(master_with_fewest_replicas) \
    && [[ $(server_ask "$FOLDER/$1" CLUSTER REPLICATE "$master") == OK ]]; do
    ((SECONDS < deadline)) || fail "$1 does not become a replica"
    sleep 0.2
  done
}

master_with_fewest_replicas() {
  view_rows | awk '$3 ~ /slave/ && $3 !~ /fail/ {count[$4]++}
    $3 ~ /master/ && $3 !~ /fail/ && $6 != "-" {masters[$2]}
    END {for (id in masters) if (best == "" || count[id] + 0 < count[best] + 0) best = id
         if (best == "") exit 1
         print best}'
}
