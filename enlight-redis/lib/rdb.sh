# shellcheck shell=bash
# Backups: a server's data in one file, as Redis writes it (RDB). Sourced after server.sh.

# save_rdb FOLDER FILE  asks the server for its data as a follower would, checks the file, and gives it its name last
save_rdb() (
  umask 077
  folder=$1 file=$2
  fetched=$folder/backup.$$.rdb
  trap 'rm -f "$fetched" "$file.partial"' EXIT
  ASK_TIMEOUT_S=3600 server_ask "$folder" --rdb "$fetched" >/dev/null || fail "the data of $folder cannot be fetched; is the disk full?"
  check_rdb "$folder" "$fetched"
  { cp "$fetched" "$file.partial" && sync "$file.partial"; } || fail "$file cannot be written"
  mv "$file.partial" "$file"
)

# check_rdb FOLDER FILE  by the program that is to read it: a Redis cannot read what a newer one wrote
check_rdb() {
  local checked server
  read_runtime "$1"
  if [[ $RUNTIME == docker ]]; then
    checked=$("$ENGINE" run --rm --interactive --network none "$REDIS_IMAGE" \
      sh -c 'cat >/tmp/it && redis-check-rdb /tmp/it' <"$2" 2>&1) && return
  else
    server=$(redis_program redis-server) || return 1
    checked=$(exec -a redis-check-rdb "$server" "$2" 2>&1) && return
  fi
  printf '%s\n' "$checked" | tail -n 3 >&2
  fail "$2 is not a backup that this Redis can read"
}

# put_rdb FOLDER FILE  makes the file the data of a server that does not run; what it had is set aside, not removed.
# A log that begins with an RDB is one that Redis reads, 7 too, which makes its folder of logs out of it.
put_rdb() (
  umask 077
  folder=$1 file=$2
  aside=$folder/before-restore-$(date -u +%Y%m%dT%H%M%S)
  { cp "$file" "$folder/appendonly.aof.new" && sync "$folder/appendonly.aof.new"; } || fail "$folder cannot be written"
  mkdir -p "$aside"
  for old in appendonly.aof appendonlydir dump.rdb; do
    [[ ! -e $folder/$old ]] || mv "$folder/$old" "$aside/"
  done
  mv "$folder/appendonly.aof.new" "$folder/appendonly.aof"
)
