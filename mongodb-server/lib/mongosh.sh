# shellcheck shell=bash
# Runs the scripts of js/ in mongosh, in a server's container. Sourced after containers.sh.
#
# The script and what it is told, passwords among it, go to mongosh by standard input: command lines can be read by others.
# It connects by itself (--nodb), from the container's own loopback where the first user of a replica set is to be made.

# cluster_description  what every script is told, as JSON; all values are checked to need no quoting
cluster_description() {
  local set members='' comma='' passwords
  for set in "${SETS[@]}"; do
    members+="$comma\"$set\":$(json_list "$(addresses_of "$set")")"
    comma=,
  done
  passwords="\"root\":\"$(password_of root)\",\"backup\":\"$(password_of backup)\",\"main-api\":\"$(password_of main-api)\"" \
    || return 1
  printf '{"waitSeconds":%d,"lagSeconds":%d,"database":"%s","zones":"%s","sets":{%s},"routers":%s,"passwords":{%s}}' \
    "$((10#$WAIT_S))" "$((10#$MAX_LAG_S))" "$MONGO_DATABASE" "$ZONES" "$members" \
    "$(json_list "router-1:$(inner_port router-1),router-2:$(inner_port router-2)")" "$passwords"
}

# json_list A,B,C  ["A","B","C"]
json_list() {
  printf '["%s"]' "${1//,/\",\"}"
}

# run_script SERVER TASK SCRIPT…  runs those of js/ one after the other, the JSON document TASK as their `task`
run_script() {
  local server=$1 task=$2 description
  shift 2
  description=$(cluster_description) || exit 1
  {
    printf 'const cluster = %s;\nconst task = %s;\n' "$description" "$task"
    (cd "$MONGODB_DIR/js" && cat connection.js "$@")
    # The image's HOME is the data folder, and mongosh keeps its logs in HOME.
  } | engine exec --interactive --env HOME=/tmp "$(container_of "$server")" \
    mongosh --nodb --norc --quiet --file /dev/stdin
}

# The first server of which a container runs, after read_containers: any of them can ask all the others.
any_server() {
  local server
  for server in "${ROUTERS[@]}" $(all_servers); do
    if is_up "$server"; then
      echo "$server"
      return
    fi
  done
  return 1
}
