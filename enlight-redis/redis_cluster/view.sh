# shellcheck shell=bash
# The cluster as its nodes see it. Sourced after settings.sh.

# cluster_info NODE FIELD  prints one field of CLUSTER INFO; nothing where the node does not answer
cluster_info() {
  server_ask "$FOLDER/$1" CLUSTER INFO | sed -n "s/^$2://p"
}

# read_view  fills VIEW_OF with a running node that is in touch with most masters, and VIEW with its CLUSTER NODES;
# fails when none answers. One that was cut off tells of a cluster that has failed.
read_view() {
  local node state
  VIEW='' VIEW_OF=''
  while read -r node; do
    state=$(cluster_info "$node" cluster_state)
    if [[ -n $state && (-z $VIEW_OF || $state == ok) ]]; then
      VIEW_OF=$node
      [[ $state != ok ]] || break
    fi
  done < <(running_nodes)
  [[ -n $VIEW_OF ]] && VIEW=$(server_ask "$FOLDER/$VIEW_OF" CLUSTER NODES) && [[ -n $VIEW ]]
}

# view_rows  of VIEW, for each node a line: NODE ID FLAGS MASTER_ID LINK SLOTS, with - for what it has none of. A node is
# known by its port; one whose address is lost is `?`.
view_rows() {
  local first
  first=$(($(server_port "$FOLDER/$VIEW_OF") - ${VIEW_OF#node-} + 1))
  awk -v first="$first" '{
    split($2, address, "[:@]")
    number = address[2] - first + 1
    slots = ""
    for (i = 9; i <= NF; i++) if ($i !~ /^\[/) slots = slots (slots == "" ? "" : ",") $i
    print (number >= 1 && number <= 6 && $3 !~ /noaddr/ ? "node-" number : "?"), $1, $3, $4, $8, (slots == "" ? "-" : slots)
  }' <<<"$VIEW" | sort
}

# uncovered_slots  how many of the 16384 nobody serves, as VIEW_OF sees it
uncovered_slots() {
  local served
  served=$(cluster_info "$VIEW_OF" cluster_slots_ok)
  printf '%s' $((16384 - ${served:-0}))
}

# slots_of_masters  of VIEW, for each node that serves slots a line: NODE SLOTS
slots_of_masters() {
  view_rows | awk '$3 ~ /master/ && $6 != "-" {print $1, $6}'
}

# replication_link NODE  `up` where a replica has its master's data
replication_link() {
  server_ask "$FOLDER/$1" INFO replication | sed -n 's/^master_link_status://p'
}
