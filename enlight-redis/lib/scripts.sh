# shellcheck shell=bash
# What the scripts of single_redis/ and redis_cluster/ have in common: how they speak, check and take turns. Sourced first.

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

say() {
  printf '%s\n' "$*"
}

# print_help SETTINGS_FILE  the script's own header comment, and that file's, which tells of the settings
print_help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  printf '\nSettings, from the environment:\n'
  sed -n '5,/^$/{/^#/!d;s/^# \{0,1\}//;p}' "$1"
}

need_number() {
  local name=$1 least=$2 most=$3 value=${!1}
  if ! [[ $value =~ ^[0-9]{1,9}$ ]] || ((10#$value < least || 10#$value > most)); then
    fail "$name must be a whole number from $least to $most"
  fi
}

need_command() {
  command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

# take_lock FILE  one script at a time; what is started must not keep descriptor 9, which is the lock
take_lock() {
  mkdir -p "$(dirname "$1")" || fail "DATA_DIR cannot be written"
  exec 9>"$1"
  flock -w 600 9 || fail "another of these scripts is still at work in DATA_DIR"
}

port_is_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
