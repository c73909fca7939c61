# shellcheck shell=bash
# The services beside dreambooth-manage's: where each listens, how it is started, and when it is up.
# Sourced after settings.sh, secrets.sh and dreambooth-manage's processes.sh.

# shellcheck source-path=SCRIPTDIR source=../../enlight-redis/single_redis/lib.sh
source "$ROOT/enlight-redis/single_redis/lib.sh"

LOCAL=127.0.0.1 # where all but main-api listen

port_variable() {
  local name=${1^^}
  name=${name//-/_}
  case $name in
    MONGODB) name=MONGO ;;
    BACKGROUND) return 0 ;; # it takes its work from the broker and opens no port
  esac
  printf '%s_PORT' "$name"
}

# The port that a service listens on; nothing for one that does not.
port_of() {
  local variable
  variable=$(port_variable "$1")
  [[ -z $variable ]] || printf '%s' "${!variable}"
}

host_of() {
  if [[ $1 == main-api ]]; then
    printf '%s' "$MAIN_API_HOST"
  else
    printf '%s' "$LOCAL"
  fi
}

# -- starting

# run_detached NAME COMMAND…  starts it as a service of that name
run_detached() {
  local name=$1 port
  shift
  port=$(port_of "$name")
  start_detached "$name" "$(host_of "$name")" "${port:--}" - - "$@"
}

start_service() {
  case $1 in
    mongodb) start_mongodb ;;
    redis) start_redis redis redis.conf ;;
    broker) start_redis broker queue.conf ;;
    bgrem) start_image_service bgrem bgrem ;;
    upsampler) start_image_service upsampler upsampler ;;
    realesrgan) start_image_service realesrgan realesrgan_service ;;
    main-api) with_main_api_settings run_detached main-api "$VENV_PYTHON" -m main_api ;;
    background) with_main_api_settings run_detached background "$VENV_PYTHON" -m main_api.background ;;
    *) fail "there is no service $1" ;;
  esac
}

# The stand-in, which keeps its records in one file. It asks nobody for a password, so it listens on loopback only.
start_mongodb() {
  mkdir -p "$DATA_DIR/mongodb"
  run_detached mongodb "$ROOT/.venv/bin/nx-27017" --host "$LOCAL" --port "$MONGO_PORT" \
    --db "$DATA_DIR/mongodb/enlight.db" --log-file "$(log_of mongodb)" --pid-file "$DATA_DIR/mongodb/nx-27017.pid"
}

# start_redis NAME CONFIGURATION  one server with a file of enlight-redis. Folder, password and pid file are those of
# enlight-redis/single_redis/, whose scripts can ask and stop it as well.
start_redis() {
  local name=$1 configuration=$ROOT/enlight-redis/single_redis/$2 folder server
  server=$(redis_program redis-server) || exit 1
  folder=$(redis_folder "$name")
  write_redis_conf "$folder" "$configuration" "$(port_of "$name")" "bind $LOCAL" "daemonize no" 'logfile ""'
  # Redis 7 takes the file's name for a pattern, and what matches nothing for no configuration.
  # shellcheck disable=SC2016  # they are the inner shell's arguments
  run_detached "$name" bash -c 'exec "$0" - <"$1"' "$server" "$folder/redis.conf"
}

redis_folder() {
  case $1 in
    redis) printf '%s/redis/cache' "$DATA_DIR" ;;
    broker) printf '%s/redis/queue' "$DATA_DIR" ;;
  esac
}

# start_image_service NAME PACKAGE
start_image_service() {
  run_detached "$1" env HOST="$LOCAL" PORT="$(port_of "$1")" WEIGHTS_DIR="$WEIGHTS_DIR" GRACE_S="$GRACE_S" \
    "$VENV_PYTHON" -m "$2"
}

# Fills MAIN_API_SETTINGS with what main-api, its background process and its key command are told.
set_main_api_settings() {
  local public legacy=''
  [[ -n ${WANTED[main-api]:-} || -n ${WANTED[background]:-} ]] || return 0
  public=http://$(reachable "$MAIN_API_HOST"):$MAIN_API_PORT
  if is_loopback "$MAIN_API_HOST"; then
    legacy=${LEGACY_TENANT-default}
  fi
  # shellcheck disable=SC2034  # read by with_main_api_settings
  MAIN_API_SETTINGS=(
    HOST="$MAIN_API_HOST" PORT="$MAIN_API_PORT" PUBLIC_URL="${PUBLIC_URL:-$public}" INTERNAL_URL="${INTERNAL_URL:-$public}"
    DATA_DIR="$DATA_DIR" GRACE_S="$GRACE_S" LEGACY_TENANT="$legacy"
    SIGNING_SECRET="${SIGNING_SECRET:-$(secret signing.secret)}"
    MONGO_URL="${MONGO_URL:-mongodb://$LOCAL:$MONGO_PORT}"
    REDIS_URL="${REDIS_URL:-redis://:$(redis_secret "$(redis_folder redis)")@$LOCAL:$REDIS_PORT/0}"
    BROKER_URL="${BROKER_URL:-redis://:$(redis_secret "$(redis_folder broker)")@$LOCAL:$BROKER_PORT/0}"
    DREAMBOOTH_URL="${DREAMBOOTH_URL-http://$(reachable "$LISTEN"):$PORT}"
    BGREM_URL="${BGREM_URL:-http://$LOCAL:$BGREM_PORT}"
    UPSAMPLER_URL="${UPSAMPLER_URL:-http://$LOCAL:$UPSAMPLER_PORT}"
    REALESRGAN_URL="${REALESRGAN_URL:-http://$LOCAL:$REALESRGAN_PORT}"
  )
}

# -- state

# up, starting or down
service_state() {
  local name=$1 address
  if ! is_running "$name"; then
    printf 'down'
    return
  fi
  address=$(reachable "$RECORD_HOST")
  case $name in
    mongodb) probe mongodb "$address" "$RECORD_PORT" ;;
    redis | broker) probe redis "$address" "$RECORD_PORT" ;;
    background) true ;;
    *) "$VENV_PYTHON" -IS "$MANAGE_DIR/lib/probe.py" answers "http://$address:$RECORD_PORT/readyz" ;;
  esac && printf 'up' || printf 'starting'
}

probe() {
  "$VENV_PYTHON" -IS "$DEV_DIR/lib/probe.py" "$@"
}

# -- stopping

# In this order: who takes work first, then what the rest stands on. Those of a line side by side.
readonly STOP_TOGETHER=("background main-api" "bgrem upsampler realesrgan" "mongodb redis broker")

# stop_services NAME…  stops those of the names that are recorded
stop_services() {
  local line name
  local -a together
  for line in "${STOP_TOGETHER[@]}"; do
    together=()
    for name in $line; do
      if [[ " $* " == *" $name "* && -e $(pid_file "$name") ]]; then
        together+=("$name")
      fi
    done
    if ((${#together[@]})); then
      say "stopping ${together[*]}"
      stop_gracefully 15 "${together[@]}"
    fi
  done
}

# -- what runs where

# print_services NAME…  a line for each, and what dreambooth-manage has started; counts them in ALL, UP and DOWN
print_services() {
  local name state pid address
  ALL=0 UP=0 DOWN=0
  printf '%-12s %-28s %-8s %s\n' NAME ADDRESS PID STATE
  for name in "$@"; do
    state=$(service_state "$name")
    read_record "$name" || true
    pid=$RECORD_PID address=-
    case $name in
      background) ;;
      mongodb) address=mongodb://$(reachable "$RECORD_HOST"):$RECORD_PORT ;;
      redis | broker) address=redis://$(reachable "$RECORD_HOST"):$RECORD_PORT ;;
      *) address=http://$(reachable "$RECORD_HOST"):$RECORD_PORT ;;
    esac
    [[ $state != down ]] || pid=-
    printf '%-12s %-28s %-8s %s\n' "$name" "$address" "$pid" "$state"
    ALL=$((ALL + 1))
    case $state in
      up) UP=$((UP + 1)) ;;
      down) DOWN=$((DOWN + 1)) ;;
    esac
  done
}
