# shellcheck shell=bash
# What start.sh, stop.sh and status.sh read from the environment, with defaults. Sourced first.
#
#   ONLY                    start these only, with commas between: mongodb redis broker bgrem upsampler realesrgan
#                           main-api background dreambooth (instances, nginx and workers)
#   WITHOUT                 start all but these
#   MAIN_API_PORT=8040      what clients talk to
#   MAIN_API_HOST=127.0.0.1 its address; on another than loopback nobody is served without a key
#   MONGO_PORT=27117        the database's port; with MONGO_URL that database is used and none is started
#   REDIS_PORT=6379         the cache's, likewise with REDIS_URL
#   BROKER_PORT=6380        the queue's, likewise with BROKER_URL
#   BGREM_PORT=4000, UPSAMPLER_PORT=4455, REALESRGAN_PORT=11111
#   WEIGHTS_DIR=data/weights  the image services' weights, fetched where they are missing
#   REDIS_SERVER            the redis-server to run (default: the system's, else the one in .venv)
#   LEGACY_TENANT=default   whose the kept calls are that send no key; on loopback only
#
# Those of dreambooth-manage hold as well (service_start.sh --help), with INSTANCES=1 on the CPU: a second one there
# would only share its cores. Everything else in the environment goes to the services as it is.

# shellcheck source-path=SCRIPTDIR source=../../dreambooth-manage/lib/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../dreambooth-manage/lib/settings.sh"

DEV_DIR=$ROOT/dev-scripts
RECORDS=services # apart from those of dreambooth-manage, whose scripts stop all that they find

ONLY=${ONLY:-}
WITHOUT=${WITHOUT:-}
MAIN_API_PORT=${MAIN_API_PORT:-8040}
MAIN_API_HOST=${MAIN_API_HOST:-127.0.0.1}
MONGO_PORT=${MONGO_PORT:-27117}
REDIS_PORT=${REDIS_PORT:-6379}
BROKER_PORT=${BROKER_PORT:-6380}
BGREM_PORT=${BGREM_PORT:-4000}
UPSAMPLER_PORT=${UPSAMPLER_PORT:-4455}
REALESRGAN_PORT=${REALESRGAN_PORT:-11111}
WEIGHTS_DIR=${WEIGHTS_DIR:-$ROOT/data/weights}
REDIS_SERVER=${REDIS_SERVER:-}

# In the order of their start.
readonly SERVICES=(mongodb redis broker bgrem upsampler realesrgan main-api background dreambooth)
declare -A WANTED=() # names of those to start

# The scripts' own settings; print_help of dreambooth-manage prints that folder's.
print_help() {
  sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  printf '\nSettings, from the environment:\n'
  sed -n '4,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$DEV_DIR/lib/settings.sh"
}

check_all_settings() {
  local name
  check_settings
  [[ $ENLIGHT_RUNTIME == process ]] \
    || fail "ENLIGHT_RUNTIME must be process here; in containers everything is started by dreambooth-manage/service_start.sh --all"
  for name in MAIN_API_PORT MONGO_PORT REDIS_PORT BROKER_PORT BGREM_PORT UPSAMPLER_PORT REALESRGAN_PORT; do
    need_number "$name" 1 65535
  done
  [[ $MAIN_API_HOST =~ ^[A-Za-z0-9.:_-]+$ ]] || fail "MAIN_API_HOST must be an address"
  choose_services
  if [[ -n ${WANTED[dreambooth]:-} && -n ${WANTED[main-api]:-} ]]; then
    # main-api tells the instances by a header whose a request is, and they believe it.
    for name in LISTEN INSTANCES_HOST; do
      is_loopback "${!name}" \
        || fail "$name must be loopback with main-api, which is what clients are to talk to: set MAIN_API_HOST instead"
    done
  fi
}

# Fills WANTED from ONLY and WITHOUT, and leaves out what has an address elsewhere.
choose_services() {
  local name
  local -a only without
  IFS=', ' read -ra only <<<"$ONLY"
  IFS=', ' read -ra without <<<"$WITHOUT"
  for name in "${only[@]}" "${without[@]}"; do
    [[ " ${SERVICES[*]} " == *" $name "* ]] || fail "ONLY and WITHOUT take names out of: ${SERVICES[*]}"
  done
  WANTED=()
  ((${#only[@]})) || only=("${SERVICES[@]}")
  for name in "${only[@]}"; do
    WANTED[$name]=1
  done
  for name in "${without[@]}"; do
    unset "WANTED[$name]"
  done
  [[ -z ${MONGO_URL:-} ]] || unset "WANTED[mongodb]"
  [[ -z ${REDIS_URL:-} ]] || unset "WANTED[redis]"
  [[ -z ${BROKER_URL:-} ]] || unset "WANTED[broker]"
}
