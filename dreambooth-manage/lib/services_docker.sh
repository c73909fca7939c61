# shellcheck shell=bash
# What service_start.sh --all starts beside the instances, as containers: Redis, main-api with its background process, and
# the image services. Sourced after runtime_docker.sh.
#
#   MONGO_URL                  where the records are; needed with --all (mongodb-server/ makes such a cluster)
#   MAIN_API_PORT=8040         what clients talk to
#   MAIN_API_HOST=127.0.0.1    its address; 0.0.0.0 opens it to the network
#   PUBLIC_URL                 how clients reach it (default: http://127.0.0.1:MAIN_API_PORT)
#   REDIS_PORT=6379, BROKER_PORT=6380, BGREM_PORT=4000, UPSAMPLER_PORT=4455, REALESRGAN_PORT=11111   on loopback
#   WEIGHTS_DIR                the image services' weights, as dev-scripts/fetch-weights.sh makes them (default: a volume)

MONGO_URL=${MONGO_URL:-}
MAIN_API_PORT=${MAIN_API_PORT:-8040}
MAIN_API_HOST=${MAIN_API_HOST:-127.0.0.1}
export PUBLIC_URL=${PUBLIC_URL:-http://127.0.0.1:$MAIN_API_PORT}
export REDIS_PORT=${REDIS_PORT:-6379} BROKER_PORT=${BROKER_PORT:-6380}
BGREM_PORT=${BGREM_PORT:-4000}
UPSAMPLER_PORT=${UPSAMPLER_PORT:-4455}
REALESRGAN_PORT=${REALESRGAN_PORT:-11111}
WEIGHTS_DIR=${WEIGHTS_DIR:-}

readonly SERVICES=(main-api background bgrem upsampler realesrgan)
readonly SERVICE_STOP_S=15 # beside the grace: until gunicorn has ended
readonly MAIN_API_SETTINGS=(MONGO_URL MONGO_DATABASE REDIS_URL BROKER_URL SIGNING_SECRET PUBLIC_URL INTERNAL_URL IMAGE_STORE_URL
  MODEL_STORE_URL DREAMBOOTH_URL BGREM_URL UPSAMPLER_URL REALESRGAN_URL BASE_MODEL BASE_MODELS LEGACY_TENANT LOG_LEVEL
  AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL_S3
  WEBHOOK_ALLOW_PRIVATE WEBHOOK_PORTS THREADS BACKGROUND_THREADS LEASE_S URL_EXPIRES_S MAX_PROCESSING MAX_QUEUED
  REQUESTS_A_MINUTE http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)

check_services() {
  local name
  for name in MAIN_API_PORT REDIS_PORT BROKER_PORT BGREM_PORT UPSAMPLER_PORT REALESRGAN_PORT; do
    need_number "$name" 1 65535
  done
  [[ $MAIN_API_HOST =~ ^[A-Za-z0-9.:_-]+$ ]] || fail "MAIN_API_HOST must be an address"
  check_published
  [[ $MONGO_URL =~ ^mongodb(\+srv)?://[^[:space:]]+$ ]] \
    || fail "MONGO_URL is needed with --all, as mongodb://host:27117, seen from a container: mongodb-server/start.sh makes a cluster"
  for name in main-api bgrem upsampler realesrgan; do
    need_own_image "$name"
  done
}

# main-api tells the instances by a header whose a request is, and they believe it.
check_published() {
  local name
  for name in LISTEN INSTANCES_HOST; do
    is_loopback "${!name}" \
      || fail "$name must be loopback with main-api, which is what clients are to talk to: set MAIN_API_HOST instead"
  done
}

# Starts those that do not run, and waits for them. STARTED gets their names.
start_services() {
  local name port
  run_redis start cache
  run_redis start queue
  for name in "${SERVICES[@]}"; do
    if is_running "$name"; then
      note_running "$name"
      continue
    fi
    port=$(port_of "$name")
    if [[ $port != - ]] && taken_ports "$(host_of "$name")" "$port" >/dev/null; then
      fail "taken by another program: port $port. Set $(tr a-z- A-Z_ <<<"$name")_PORT to a free one"
    fi
    say "starting $name"
    STARTED+=("$name")
    start_service "$name"
  done
  await_ready ready_state "${SERVICES[@]}"
  ensure_key admin.key "" create --tenant default --scopes train,generate,read,admin --name admin
  ensure_key node.key node-keys create --name this-machine
}

port_of() {
  case $1 in
    main-api) printf '%s' "$MAIN_API_PORT" ;;
    bgrem) printf '%s' "$BGREM_PORT" ;;
    upsampler) printf '%s' "$UPSAMPLER_PORT" ;;
    realesrgan) printf '%s' "$REALESRGAN_PORT" ;;
    *) printf '%s' - ;;
  esac
}

host_of() {
  if [[ $1 == main-api ]]; then
    printf '%s' "$MAIN_API_HOST"
  else
    printf 127.0.0.1
  fi
}

# run_redis start|stop cache|queue [--remove-data]
run_redis() {
  ENLIGHT_RUNTIME=docker DOCKER=$DOCKER DATA_DIR=$DATA_DIR NETWORK=$NETWORK CONTAINER_PREFIX=$CONTAINER_PREFIX \
    "$ROOT/enlight-redis/single_redis/$1.sh" "${@:2}" 9>&-
}

start_service() {
  local name=$1 host port
  host=$(host_of "$name") port=$(port_of "$name")
  case $name in
    main-api) start_main_api main-api "$host" "$port" --publish "$host:$port:$port" --env PORT="$port" ;;
    background) start_main_api background - - --no-healthcheck ;;
    *) start_image_service "$name" "$host" "$port" ;;
  esac
}

# start_main_api NAME HOST PORT OPTION…  in a shell of its own: its secrets are exported there and nowhere else
start_main_api() (
  name=$1 host=$2 port=$3
  shift 3
  declare -a PASSED command=()
  [[ $name == main-api ]] || command=(python -m main_api.background)
  export MONGO_URL SIGNING_SECRET REDIS_URL BROKER_URL INTERNAL_URL DREAMBOOTH_URL BGREM_URL UPSAMPLER_URL REALESRGAN_URL
  unset MODEL_STORE_URL # the instances' is main-api itself
  SIGNING_SECRET=$(secret signing.secret)
  REDIS_URL=redis://main-api:$(<"$DATA_DIR/redis/cache/main-api.password")@$(container_of redis-cache):$REDIS_PORT/0
  BROKER_URL=redis://main-api:$(<"$DATA_DIR/redis/queue/main-api.password")@$(container_of redis-queue):$BROKER_PORT/0
  INTERNAL_URL=$(main_api_here)
  DREAMBOOTH_URL=http://$(container_of nginx):$NGINX_PORT
  BGREM_URL=http://$(container_of bgrem):$BGREM_PORT
  UPSAMPLER_URL=http://$(container_of upsampler):$UPSAMPLER_PORT
  REALESRGAN_URL=http://$(container_of realesrgan):$REALESRGAN_PORT
  passed_on "${MAIN_API_SETTINGS[@]}"
  ensure_volume main-api
  launch "$name" "$host" "$port" - - --memory 2048m --stop-timeout $((GRACE_S + SERVICE_STOP_S)) \
    --tmpfs /tmp:rw,mode=1777 --volume "$CONTAINER_PREFIX-main-api:/data" --env GRACE_S="$GRACE_S" \
    "$@" "${PASSED[@]}" "$(image_of main-api)" "${command[@]}"
)

start_image_service() {
  local name=$1 host=$2 port=$3 weights=$CONTAINER_PREFIX-weights
  local -a PASSED
  if [[ -n $WEIGHTS_DIR ]]; then
    weights=$(realpath "$WEIGHTS_DIR")
  else
    ensure_volume weights
  fi
  passed_on LOG_LEVEL HF_TOKEN HF_ENDPOINT HF_HUB_OFFLINE http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
  launch "$name" "$host" "$port" - - --memory 6144m --stop-timeout $((GRACE_S + SERVICE_STOP_S)) \
    --tmpfs /tmp:rw,exec,mode=1777 --volume "$weights:/weights" --publish "$host:$port:$port" \
    --env PORT="$port" --env GRACE_S="$GRACE_S" "${PASSED[@]}" "$(image_of "$name")"
}

main_api_here() {
  printf 'http://%s:%s' "$(container_of main-api)" "$MAIN_API_PORT"
}

# With a main-api beside them the instances work for it, whoever starts or replaces them.
join_services() {
  is_running main-api || return 0
  check_published
  [[ -s $DATA_DIR/secrets/node.key ]] || fail "there is no key for this machine yet: run service_start.sh --all"
  export MAIN_API_URL ENLIGHT_NODE_KEY TRUST_TENANT_HEADER=true MODEL_STORE_URL
  MAIN_API_URL=$(main_api_here)
  ENLIGHT_NODE_KEY=$(<"$DATA_DIR/secrets/node.key")
  MODEL_STORE_URL=${MODEL_STORE_URL:-enlight+$MAIN_API_URL/internal/v1/store}
}

# stop_services NAME…  those of the names that are such services
stop_services() {
  local name
  local -a found=()
  for name in "$@"; do
    [[ " ${SERVICES[*]} " != *" $name "* ]] || found+=("$name")
  done
  ((${#found[@]} == 0)) || stop_gracefully "$SERVICE_STOP_S" "${found[@]}"
}

# stop_redis [--remove-data]  if it was started here
stop_redis() {
  local name
  for name in cache queue; do
    if grep -qs '^docker ' "$DATA_DIR/redis/$name/runtime"; then # not the process of dev-scripts
      run_redis stop "$name" "$@"
    fi
  done
}

# secret NAME  prints the secret DATA_DIR/secrets/NAME, which is made if there is none
secret() (
  umask 077
  file=$DATA_DIR/secrets/$1
  if [[ ! -s $file ]]; then
    mkdir -p "$DATA_DIR/secrets"
    head -c 48 /dev/urandom | base64 | tr -d '/+=\n' >"$file.new"
    mv "$file.new" "$file"
  fi
  cat "$file"
)

# ensure_key SECRET GROUP create ARGUMENT…  has main-api make a key, unless the one that is kept is valid
ensure_key() (
  umask 077
  file=$DATA_DIR/secrets/$1
  declare -a keys=("$DOCKER" exec -i "$(container_of main-api)" python -m main_api.keys)
  [[ -z $2 ]] || keys+=("$2")
  shift 2
  if [[ -s $file ]] && "${keys[@]}" verify <"$file" >/dev/null 2>&1; then
    return
  fi
  made=$("${keys[@]}" "$@" </dev/null) || fail "the key cannot be made in the database"
  sed -n 's/.*"key": *"\([^"]*\)".*/\1/p' <<<"$made" >"$file.new"
  [[ -s $file.new ]] || fail "main-api made a key that cannot be read"
  mv "$file.new" "$file"
)
